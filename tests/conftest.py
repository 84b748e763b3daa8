"""What all tests share."""

from support.cassandra import cassandra

__all__ = ["cassandra"]
