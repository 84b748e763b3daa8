"""The ports on Apache Cassandra: for nodes that share their queue, in one location or two."""
