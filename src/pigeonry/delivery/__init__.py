"""The sending side: from a due recipient to what the receiving server said of it.

``dispatcher`` takes what the scheduler finds due and owns the connections; ``routing`` names the hosts; ``opening``
gets a session with one of them; ``connection`` drives ``protocol.smtp.client`` over a transport; ``classify`` turns
what happened into an outcome. Settling outcomes is the queue's.
"""
