"""What is asked of an index for a page of events, and by whom it is answered: the seam between paging and looking.

In a node alone its index answers for all shards (``WholeNode``). In a cluster each owner answers for its own
(``events.own_shards``), and ``events.scatter`` puts the answers together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from pigeonry.events import expression
from pigeonry.ports.event_index import IndexMark, IndexQuery, Term

if TYPE_CHECKING:
    from pigeonry.ports.event_index import EventIndex

__all__ = ["Ask", "Events", "Found", "WholeNode", "query_of"]


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page, as one node asks another for it.

    Args:
        domain, begin_us, end_us, ascending, limit, after: As in ``ports.event_index.IndexQuery``.
        filters: Field and expression; all must hold.
        shards: Which are meant; unused where one index answers for all.
        marks: As in ``IndexQuery``.
    """

    domain: str
    begin_us: int
    end_us: int
    ascending: bool
    limit: int
    filters: tuple[tuple[str, str], ...] = ()
    after: IndexMark | None = None
    shards: tuple[int, ...] = ()
    marks: Mapping[int, int] = {}


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found.

    Args:
        items: Marks and encoded events in the asked order, none of them beyond the watermark.
        watermark_us: Up to where all events were there to be found, microseconds since the Unix epoch.
        upto, covered: As in ``ports.event_index.IndexPage``.
    """

    items: Sequence[tuple[IndexMark, bytes]]
    watermark_us: int
    upto: IndexMark | None = None
    covered: Mapping[int, tuple[int, int]] = {}


class Events(Protocol):
    """Where events are looked for."""

    async def look(self, ask: Ask) -> Found:
        """Look for a page, or for as much of it as can be had in a moment.

        Raises:
            Fault: Not all events that it may have can be seen just now.
        """
        ...


class WholeNode:
    """The index of a node that owns all shards."""

    def __init__(self, index: EventIndex) -> None:
        self._index = index

    async def look(self, ask: Ask) -> Found:
        """See ``Events``."""
        watermark_us = int(await self._index.watermark() * 1e6)
        page = await self._index.search(query_of(ask, upto_us=watermark_us))
        return Found(page.items, watermark_us, page.upto)


def query_of(ask: Ask, *, upto_us: int) -> IndexQuery:
    """The question for an index, of which nothing beyond a time is shown."""
    terms = [term for field, text in ask.filters if (term := expression.parse(field, text)) is not None]
    where = Term("and", parts=tuple(terms)) if len(terms) > 1 else (terms[0] if terms else None)
    return IndexQuery(
        domain=ask.domain,
        begin_us=ask.begin_us,
        end_us=min(ask.end_us, upto_us),
        ascending=ask.ascending,
        limit=ask.limit,
        after=ask.after,
        where=where,
    )
