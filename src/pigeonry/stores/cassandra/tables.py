"""The tables of the queue store: what each is for, who writes it, and why nothing of it becomes a tombstone.

``journal`` is the truth. A row is one group of transitions of one shard, numbered without gaps from 0 in each epoch of
its owner; it is written once, is read only at a takeover and by whoever follows the events, and leaves by its TTL.
A bucket holds ``GROUPS_A_BUCKET`` groups, so that no partition grows without end.

``message`` holds what is large and immutable: a message's meta and recipients (``PART_META``) and its body, in parts.
It is written before the journal names it, so that whoever finds a message in the journal finds its body.

Everything else is derived from the journal and can be written again: ``outcome`` (how recipients ended, for those who
ask about a message), ``idempotency`` (see ``records``), ``checkpoint`` and its ``head`` (what was pending at a place in
the journal, so that a takeover need not read all of it), ``bucket`` (which seq a bucket begins with).

``member`` and ``shard`` are the ownership: in a keyspace of their own, changed by lightweight transactions only.

All is time series by TTL and TimeWindowCompaction: whole files expire, nothing is deleted, nothing is compacted twice.
There is one delete: the erasure of one person.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GROUPS_A_BUCKET", "LEASE_TABLES", "PART_META", "PART_VOID", "QUEUE_TABLES"]

GROUPS_A_BUCKET: Final = 1_024
"""At some 20 KB a group a partition stays below 20 MB; a takeover reads the last one or two."""
PART_META: Final = -1
"""The row of ``message`` with its meta and its recipients, and its body when that is small; else the parts of the body
are rows of their own, counted from 0."""
PART_VOID: Final = -2
"""The row of ``message`` that says that it was never acknowledged."""

_WINDOW: Final = """compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS',
    'compaction_window_size': {hours}}} AND gc_grace_seconds = 10800"""
_DAILY: Final = _WINDOW.format(hours=12)
_HOURLY: Final = _WINDOW.format(hours=1)

QUEUE_TABLES: Final = (
    f"""CREATE TABLE IF NOT EXISTS journal(
        shard int, epoch int, bucket int, number bigint, seq bigint, octets blob,
        PRIMARY KEY((shard, epoch, bucket), number)) WITH {_DAILY}""",
    f"""CREATE TABLE IF NOT EXISTS bucket(
        shard int, epoch int, bucket int, seq bigint,
        PRIMARY KEY(shard, epoch, bucket)) WITH {_DAILY}""",
    f"""CREATE TABLE IF NOT EXISTS message(
        shard int, serial bigint, part int, meta blob, octets blob,
        PRIMARY KEY((shard, serial), part)) WITH {_DAILY}""",
    f"""CREATE TABLE IF NOT EXISTS outcome(
        shard int, serial bigint, recipient int, octets blob,
        PRIMARY KEY((shard, serial), recipient)) WITH {_DAILY}""",
    f"""CREATE TABLE IF NOT EXISTS idempotency(
        scope blob, shard int, serial bigint, epoch int, octets blob, confirmed boolean,
        PRIMARY KEY(scope, shard, serial)) WITH {_DAILY}""",
    f"""CREATE TABLE IF NOT EXISTS checkpoint(
        shard int, epoch int, number bigint, part int, octets blob,
        PRIMARY KEY((shard, epoch, number), part)) WITH {_HOURLY}""",
    f"""CREATE TABLE IF NOT EXISTS head(
        shard int, epoch int, number bigint, octets blob,
        PRIMARY KEY(shard, epoch, number)) WITH CLUSTERING ORDER BY (epoch DESC, number DESC) AND {_HOURLY}""",
)

LEASE_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS member(
        name text PRIMARY KEY, beat bigint, state text, location text, address text)""",
    """CREATE TABLE IF NOT EXISTS shard(
        number int PRIMARY KEY, owner text, epoch int, serving boolean, location text)""",
)
