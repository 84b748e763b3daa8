"""The bounds of delivery, each with its unit and its reason."""

from __future__ import annotations

import msgspec

__all__ = ["DeliveryLimits"]


class DeliveryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be under way at once, for one worker if nothing else is said.

    Args:
        connections_per_path: To one site from one source, over all workers that share the limit. Receivers commonly
            allow 20 to 50 from one address.
        connections_max: To all sites. A connection costs a file descriptor and some 20 KB.
        messages_per_connection: Then the connection is closed, so that other sites get their turn when all
            connections are taken, and a balanced site gets us spread anew.
        idle_s: Seconds that a connection without work stays open: long enough for the next message of a burst.
        unsettled_per_connection: Outcomes of a connection whose settling runs while it already sends the next
            message. More would only widen what is in doubt after a crash.
        look_ups_max: Routes being looked up at once; others wait in order.
        failures_before_sweep: Failed openings in a row after which all that waits for a path is deferred with it.
        rest_s: Seconds that a path rests after a failed opening, doubled for each further one.
        rest_s_max: Seconds; the longest rest, after which the path is probed again.
        swept_at_once: Recipients of a failing path whose deferral is being settled at once.
        beginning_s: Seconds of one turn of the loop in which deliveries may begin: one or two where they are signed
            with RSA-2048, dozens where they are not.
        commit_s: Seconds that the store has for ``dot-sent``: the receiver waits meanwhile.
        settle_s: Seconds that the store has for the first try to settle.
        retry_content_s: Seconds after which a recipient whose content could not be read is dispatched again.
    """

    connections_per_path: int = 20
    connections_max: int = 500
    messages_per_connection: int = 1_000
    idle_s: float = 5.0
    unsettled_per_connection: int = 4
    look_ups_max: int = 100
    failures_before_sweep: int = 3
    rest_s: float = 1.0
    rest_s_max: float = 60.0
    swept_at_once: int = 100
    beginning_s: float = 0.001
    commit_s: float = 10.0
    settle_s: float = 10.0
    retry_content_s: float = 10.0
