"""The doors for those who change a message or ask how the queue stands.

Nobody but a shard's owner writes it (invariant I3), so a change to a message is a command sent to the owner.
``server`` hears them on a Unix socket of each worker, ``node_door`` from other nodes by mutual TLS; ``owners`` finds
who is to be asked, and asks by ``client`` within the node and by ``peers`` beyond it. ``relay`` and ``far_dialer`` are
the two ends of a connection that another node makes for us.
"""
