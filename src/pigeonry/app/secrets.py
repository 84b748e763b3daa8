"""Secrets of an installation that are made once and shared by all its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict
from pigeonry.queue.event_ids import EventIds

if TYPE_CHECKING:
    from pigeonry.ports.documents import Directory
    from pigeonry.ports.environment import IdSource

__all__ = ["event_ids"]

KIND: Final = "secret"
EVENT_IDS: Final = "event-ids"
OCTETS: Final = 32


async def event_ids(directory: Directory, ids: IdSource) -> EventIds:
    """The deriver of event ids with this installation's key, made at the first start.

    Raises:
        Fault: The Directory cannot be reached.
    """
    kept = await directory.get(KIND, EVENT_IDS)
    if kept is None:
        try:
            kept = await directory.put(KIND, EVENT_IDS, ids.octets(OCTETS), expect=0)
        except Conflict:  # another worker was first
            kept = await directory.get(KIND, EVENT_IDS)
            assert kept is not None, "what another made first is there"
    return EventIds(kept.value)
