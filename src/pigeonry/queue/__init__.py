"""From an accepted message to a recipient that is due, and from an attempt's outcome to what is stored of it.

``intake`` takes submissions in, ``scheduler`` knows what falls due, ``ready`` shares connections out among tenants,
``content`` keeps bodies at hand, ``retry`` says when to try again, ``settlement`` turns an outcome into a write,
``commands`` are what an owner may ask of a message that waits.
"""
