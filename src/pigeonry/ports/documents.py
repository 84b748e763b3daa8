"""Small documents with compare-and-set and a change feed: what Identity and Directory are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Change", "Directory", "Document", "Documents", "Identity"]


class Document(msgspec.Struct, frozen=True):
    """A stored document.

    Args:
        version: 1 when created, one more with each change.
    """

    kind: str
    id: str
    value: bytes
    version: int


class Change(msgspec.Struct, frozen=True):
    """One entry of the change feed.

    Args:
        position: Rises with every change of the store.
        document: The document as it is now, None when it was deleted.
    """

    position: int
    kind: str
    id: str
    document: Document | None


class Documents(Protocol):
    """A store of small documents (up to 64 KiB each), shared by all workers of a node.

    Durable before a write returns. tests/conformance/test_documents.py holds every implementation to this.
    """

    async def get(self, kind: str, id: str) -> Document | None:  # noqa: A002  # the field's word
        """The document, or None."""
        ...

    async def put(self, kind: str, id: str, value: bytes, *, expect: int | None) -> Document:  # noqa: A002
        """Create or change a document.

        Args:
            expect: The version it must have: 0 for "must not exist", None for any.

        Raises:
            Conflict: It has another version.
            TooLarge: The value is over 64 KiB.
            StoreBusy: Not in time; nothing was stored.
        """
        ...

    async def delete(self, kind: str, id: str, *, expect: int | None) -> bool:  # noqa: A002
        """Delete a document; whether there was one.

        Raises:
            Conflict: It has another version.
        """
        ...

    async def list(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[Document]:
        """Documents of a kind in the order of their ids, those with ids over ``after`` that begin with ``prefix``."""
        ...

    async def changes(self, *, after: int, limit: int = 1000) -> Sequence[Change]:
        """The feed after a position, in order; each document at most once, as it is now.

        Position 0 gives every document there is. A change by another process is in the feed within 1 s.
        """
        ...


class Identity(Documents, Protocol):
    """Accounts, keys, credentials. Owned by the auth role; auth depends on nothing else (invariant I6)."""


class Directory(Documents, Protocol):
    """Domains, suppressions, routes, templates, lists, settings."""
