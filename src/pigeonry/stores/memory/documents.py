"""Identity and Directory in memory: for tests, simulation and a trial run.

A ``Shelf`` holds the documents; several ``MemoryDocuments`` over one shelf are what several workers over one file
are. Nothing blocks and nothing survives the process.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict, TooLarge
from pigeonry.ports.documents import Change, Document

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryDocuments", "Shelf"]

VALUE_OCTETS_MAX: Final = 64 * 1024  # the port's limit


class Shelf:
    """What several instances share: the last change of each document, in the order of positions."""

    def __init__(self) -> None:
        self.changes: dict[tuple[str, str], Change] = {}
        self.position = 0

    def write(self, kind: str, key: str, document: Document | None) -> None:
        """Put a document, or its tombstone, at the end of the feed."""
        self.position += 1
        self.changes.pop((kind, key), None)
        self.changes[kind, key] = Change(position=self.position, kind=kind, id=key, document=document)

    def version(self, kind: str, key: str) -> int:
        """The version that stands now, 0 for none."""
        change = self.changes.get((kind, key))
        return 0 if change is None or change.document is None else change.document.version


class MemoryDocuments:
    """Documents in memory. See ``ports.documents.Documents`` for the contract.

    Args:
        shelf: Shared with other instances; an own one when not given.
    """

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = shelf or Shelf()

    async def open(self) -> None:
        """There is nothing to open; the stores are used alike."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def get(self, kind: str, id: str) -> Document | None:  # noqa: A002  # the field's word
        """The document, or None."""
        change = self._shelf.changes.get((kind, id))
        return change.document if change else None

    async def put(self, kind: str, id: str, value: bytes, *, expect: int | None) -> Document:  # noqa: A002
        """Create or change a document."""
        if len(value) > VALUE_OCTETS_MAX:
            raise TooLarge(f"A document has at most {VALUE_OCTETS_MAX} octets.")
        version = self._checked(kind, id, expect) + 1
        document = Document(kind=kind, id=id, value=bytes(value), version=version)
        self._shelf.write(kind, id, document)
        return document

    async def delete(self, kind: str, id: str, *, expect: int | None) -> bool:  # noqa: A002
        """Delete a document; whether there was one."""
        if not self._checked(kind, id, expect):
            return False
        self._shelf.write(kind, id, None)
        return True

    async def list(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[Document]:
        """Documents of a kind in the order of their ids."""
        found = sorted(
            (change.document for change in self._shelf.changes.values() if change.kind == kind and change.document),
            key=lambda document: document.id,
        )
        return [d for d in found if d.id > after and d.id.startswith(prefix)][:limit]

    async def changes(self, *, after: int, limit: int = 1000) -> Sequence[Change]:
        """The feed behind a position."""
        newest_first = takewhile(lambda change: change.position > after, reversed(self._shelf.changes.values()))
        return list(newest_first)[::-1][:limit]

    def _checked(self, kind: str, key: str, expect: int | None) -> int:
        version = self._shelf.version(kind, key)
        if expect is not None and expect != version:
            raise Conflict("Somebody else changed it first; read it again.")
        return version
