"""May this message come in now? Asked before a body is read, so that what is refused costs next to nothing.

Refuses while the store sheds load, and when the bodies in flight would take more memory than they may. A refusal of
load is an ``Overloaded`` with a time to come back; a domain that may not send gets its reason. A node that drains
refuses nothing that has reached it: what it accepts is durable, and its successor's to deliver.

Hot path: no I/O, no await, no allocation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import NotAllowed, Overloaded, TooLarge

if TYPE_CHECKING:
    from pigeonry.domain.tenant import SendingDomain
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["Gate"]

IN_FLIGHT_OCTETS_MAX: Final = 268_435_456  # 256 MiB of bodies a worker: ten of the largest, or 64,000 of 4 KB
MESSAGE_OCTETS_MAX: Final = 27_262_976  # 26 MiB: a message of 25 MiB, and what a form puts around it
SHED_RETRY_AFTER_S: Final = 5  # the store's own hiccups are shorter; a longer one sheds again


class Gate:
    """Decides about load, and keeps count of what is in flight.

    Args:
        store: Says when it wants less.
        in_flight_octets_max: Octets of bodies that may be in memory together.
        message_octets_max: Octets of one message.
    """

    def __init__(
        self,
        store: QueueStore,
        *,
        in_flight_octets_max: int = IN_FLIGHT_OCTETS_MAX,
        message_octets_max: int = MESSAGE_OCTETS_MAX,
    ) -> None:
        self._store = store
        self._in_flight_octets_max = in_flight_octets_max
        self.message_octets_max = message_octets_max
        self._in_flight = 0

    @property
    def in_flight_octets(self) -> int:
        """Octets of bodies that came in and are not answered yet."""
        return self._in_flight

    def enter(self, octets: int) -> None:
        """Let a message in, or more of one; whoever enters leaves with as many octets.

        Raises:
            TooLarge: It is over what one message may have.
            Overloaded: Not now.
        """
        if octets > self.message_octets_max:
            raise TooLarge(f"The message is larger than {self.message_octets_max} octets.")
        reason = self._store.reason_to_shed()
        if reason is not None:
            raise Overloaded("The server is busy. Try again later.", retry_after_s=SHED_RETRY_AFTER_S)
        if self._in_flight + octets > self._in_flight_octets_max:
            raise Overloaded("Too many messages arrive at once. Try again later.", retry_after_s=SHED_RETRY_AFTER_S)
        self._in_flight += octets

    def leave(self, octets: int) -> None:
        """The message was answered."""
        self._in_flight -= octets
        assert self._in_flight >= 0, "left more often than entered"

    @staticmethod
    def refusal(domain: SendingDomain) -> NotAllowed | None:
        """Why the domain may not send; None when it may."""
        if domain.state == "disabled":
            return NotAllowed(f"Domain {domain.name} is not allowed to send: The domain is disabled.")
        return None
