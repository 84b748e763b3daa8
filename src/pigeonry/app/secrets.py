"""Secrets of an installation that are made once and shared by all its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict
from pigeonry.queue.event_ids import EventIds

if TYPE_CHECKING:
    from pigeonry.ports.documents import Directory
    from pigeonry.ports.environment import IdSource

__all__ = ["event_ids", "page_secret"]

KIND: Final = "secret"
EVENT_IDS: Final = "event-ids"
EVENT_PAGES: Final = "event-pages"
OCTETS: Final = 32


async def event_ids(directory: Directory, ids: IdSource) -> EventIds:
    """The deriver of event ids with this installation's key.

    Raises:
        Fault: The Directory cannot be reached.
    """
    return EventIds(await _secret(directory, ids, EVENT_IDS))


async def page_secret(directory: Directory, ids: IdSource) -> bytes:
    """What signs the tokens of event pages.

    Raises:
        Fault: The Directory cannot be reached.
    """
    return await _secret(directory, ids, EVENT_PAGES)


async def _secret(directory: Directory, ids: IdSource, name: str) -> bytes:
    """A secret by its name, made at the first start."""
    kept = await directory.get(KIND, name)
    if kept is None:
        try:
            kept = await directory.put(KIND, name, ids.octets(OCTETS), expect=0)
        except Conflict:  # another worker was first
            kept = await directory.get(KIND, name)
            assert kept is not None, "what another made first is there"
    return kept.value
