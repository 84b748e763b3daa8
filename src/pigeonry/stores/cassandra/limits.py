"""The bounds of the cluster store, each with its unit and its reason (invariant I5)."""

from __future__ import annotations

import msgspec

__all__ = ["Limits"]

_DAY_S = 86_400.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be tuned.

    Args:
        group_transitions_max: Transitions in one group.
        group_recipients_max: Recipients after which a group takes no further message: an event of each goes into the
            group's row, which stays below 4 MB.
        bodies_at_once: Messages of a group that are written at the same time.
        backlog_transitions_max: Waiting transitions above which new messages are refused; doors shed from half of it.
        backlog_octets_max: The same, in octets of the bodies that wait.
        behind_max: Outcomes that may wait to be written behind the journal, before new messages are refused.
        spool_memory_octets_max: A body up to this size waits in memory and is written with its message.
        spool_behind_octets_max: How far a larger one's parts may lag behind what was received.
        in_doubt_delay_s: How long after a takeover a recipient whose attempt was in doubt is held back (invariant I4).
        retention_s: How long a message, its events and its outcomes can be read.
        lease_s: How long a worker's lease lasts: one that is dead is missed after it and a quarter more.
        round_s: Seconds between two looks at which shards this worker should have.
        request_s: For one request to the store; a group's row is written again until its end is known.
        checkpoint_events: Events after which a shard writes a checkpoint: what a takeover has to read at most.
        late_look_s: Seconds between two looks for groups that a lost location brings when it returns.
        checkpoint_s: Seconds after which a shard that changed writes one all the same.
        checkpoint_again_s: Seconds after which one that did not change writes one: long before the old one expires.
    """

    group_transitions_max: int = 512
    group_recipients_max: int = 2_048
    bodies_at_once: int = 64
    backlog_transitions_max: int = 20_000
    backlog_octets_max: int = 64 * 1024 * 1024
    behind_max: int = 100_000
    spool_memory_octets_max: int = 256 * 1024
    spool_behind_octets_max: int = 8 * 1024 * 1024
    in_doubt_delay_s: float = 600.0
    retention_s: float = 14 * _DAY_S
    lease_s: float = 6.0
    round_s: float = 1.0
    request_s: float = 1.5
    checkpoint_events: int = 20_000
    late_look_s: float = 5.0
    checkpoint_s: float = 300.0
    checkpoint_again_s: float = 6 * 3600.0
