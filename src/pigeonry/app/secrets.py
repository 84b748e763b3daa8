"""Secrets of an installation that are made once and shared by all its workers.

They lie sealed in the Directory, as private keys do: whoever reads the data folder alone can sign no page token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict
from pigeonry.protocol.sealing import NONCE_OCTETS
from pigeonry.queue.event_ids import EventIds

if TYPE_CHECKING:
    from pigeonry.ports.documents import Directory
    from pigeonry.ports.environment import IdSource
    from pigeonry.protocol.sealing import Seal

__all__ = ["event_ids", "page_secret"]

KIND: Final = "secret"
EVENT_IDS: Final = "event-ids"
EVENT_PAGES: Final = "event-pages"
OCTETS: Final = 32


async def event_ids(directory: Directory, ids: IdSource, seal: Seal) -> EventIds:
    """The deriver of event ids with this installation's key.

    Raises:
        Fault: The Directory cannot be reached, or another key sealed what is kept there (``WrongSealKey``).
    """
    return EventIds(await _secret(directory, ids, seal, EVENT_IDS))


async def page_secret(directory: Directory, ids: IdSource, seal: Seal) -> bytes:
    """What signs the tokens of event pages.

    Raises:
        Fault: The Directory cannot be reached, or another key sealed what is kept there (``WrongSealKey``).
    """
    return await _secret(directory, ids, seal, EVENT_PAGES)


async def _secret(directory: Directory, ids: IdSource, seal: Seal, name: str) -> bytes:
    """A secret by its name, made at the first start."""
    kept = await directory.get(KIND, name)
    if kept is None:
        try:
            sealed = seal.close(ids.octets(OCTETS), context=f"{KIND} {name}", nonce=ids.octets(NONCE_OCTETS))
            kept = await directory.put(KIND, name, sealed, expect=0)
        except Conflict:  # another worker was first
            kept = await directory.get(KIND, name)
            assert kept is not None, "what another made first is there"
    return seal.open(kept.value, context=f"{KIND} {name}")
