"""The ports on Apache Cassandra: for nodes that share their queue, in one location or two.

The queue, as a message goes through it (``docs/decisions/0010-queue-on-cassandra.md`` says why):

- ``queue_store`` is the face; ``spool`` receives a large body, ``stores.backlog`` keeps what waits for its group.
- ``writer`` writes a group: first ``messages`` (with bodies) and ``records`` (idempotency), which nothing names yet;
  then one row of the ``journal``, made of ``entries``; and tells who waits if the lease of ``membership`` still holds.
- ``shard`` is the journal folded in memory: it judges what a transition changes, and keeps who is ``waiting``
  (``packed`` in a long queue). ``served`` is one with what its owner notes of it.
- ``behind`` writes what follows the journal: outcomes and voids.

Who owns what, and how that changes:

- ``membership`` leases a worker's life, ``shares`` say which shards are whose, ``locations`` which location counts;
  ``ownership`` tells the others.
- ``holding`` takes and gives shards: ``takeover`` reads the newest of the ``checkpoints`` and the journal behind it,
  ``late`` adopts what a lost location brings back, ``carrier`` writes again what waits for longer than rows are kept.

Everything speaks through ``session`` (with its ``circuit``) to ``tables``, which ``schema`` makes and upgrades. The
small stores stand by themselves: ``documents``, ``coordinator``, ``quota``, ``buckets`` (of tokens), ``counters``.
"""
