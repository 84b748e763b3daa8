"""A test cluster of real Apache Cassandra 5 nodes on loopback addresses, with ways to hurt it.

Needs a JDK 17 and Maven, and no root. ``python -m pigeonry.testing.cassandra FOLDER`` fetches the parts once; then::

    cluster = Cluster(tmp_path, parts(FOLDER), {"dc1": 3}, clock=SystemClock())
    await cluster.start()
    cluster.nodes[0].pause()
    ...
    cluster.stop()

A node uses some 270 MB of memory and is up within a few seconds. None outlives the process that started it.
"""

from pigeonry.testing.cassandra.cluster import Cluster
from pigeonry.testing.cassandra.node import CommitLog, Node, NodeFailed
from pigeonry.testing.cassandra.parts import Parts, PartsMissing
from pigeonry.testing.cassandra.provision import parts

__all__ = ["Cluster", "CommitLog", "Node", "NodeFailed", "Parts", "PartsMissing", "parts"]
