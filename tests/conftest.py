"""What all tests share."""

from support.cassandra import cassandra
from support.queue_keyspace import queue_keyspace

__all__ = ["cassandra", "queue_keyspace"]
