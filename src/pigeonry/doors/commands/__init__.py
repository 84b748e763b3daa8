"""The door for those who change a message or ask how the queue stands: a Unix socket of each worker.

Nobody but a shard's owner writes it (invariant I3), so a change to a message is a command sent to the owner.
"""
