"""The bounds of the embedded store, each with its unit and its reason (invariant I5)."""

from __future__ import annotations

import msgspec

__all__ = ["Limits"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be tuned. The defaults are what is shipped and measured.

    Args:
        group_transitions_max: Transitions in one group. Their statements run on the loop at some 10 us each, so
            this bounds how long the loop is held.
        group_recipients_max: Recipients after which a group takes no further message: a batch has a thousand of them,
            and each is two rows.
        backlog_transitions_max: Waiting transitions above which doors are told to shed and new messages are
            refused. Two seconds of work at the measured rate.
        backlog_octets_max: The same, in octets of the bodies that wait.
        segment_octets_max: Size at which a segment file is rolled: small enough to be punched and copied, large
            enough that a day has few of them.
        spool_memory_octets_max: A body up to this size waits in memory and goes into a segment.
        spool_behind_octets_max: How far a file of its own may lag behind what was received.
        in_doubt_delay_s: How long after opening a recipient whose attempt was in doubt is held back (invariant I4).
        wal_passive_octets: WAL size at which it is copied into the database beside the writer's path.
        wal_restart_octets: WAL size at which the writer pauses for the time of a sync, so that it starts over.
        retention_s: How long after its day is over a file with nothing pending is kept.
        finish_after_s: Age of a day, counted from its end, before which it is left alone: a key that was given out
            before midnight is committed within its caller's deadline.
        carry_after_s: Age of a day, counted from its end, at which what is still pending is carried into today's.
        carry_messages_max: Messages that are carried in one turn: bounds how long a group waits behind it.
        idempotency_days: Days back that a record may have been committed.
        readers_max: Open read-only connections a lane.
        housekeeping_s: Seconds between two rounds of the janitor.
        full_retry_s: How long new messages are refused after the disk was full, before it is tried again.
        free_octets_min: Free space below which doors are told to shed: room for a WAL and for settling what is queued.
    """

    group_transitions_max: int = 512
    group_recipients_max: int = 4_096
    backlog_transitions_max: int = 20_000
    backlog_octets_max: int = 64 * 1024 * 1024
    segment_octets_max: int = 64 * 1024 * 1024
    spool_memory_octets_max: int = 256 * 1024
    spool_behind_octets_max: int = 64 * 1024 * 1024
    in_doubt_delay_s: float = 600.0
    wal_passive_octets: int = 4 * 1024 * 1024
    wal_restart_octets: int = 32 * 1024 * 1024
    retention_s: float = 7 * 86400.0
    finish_after_s: float = 900.0
    carry_after_s: float = 24 * 3600.0
    carry_messages_max: int = 64
    idempotency_days: int = 2
    readers_max: int = 64
    housekeeping_s: float = 10.0
    full_retry_s: float = 1.0
    free_octets_min: int = 256 * 1024 * 1024
