"""Pages of events.

Nothing is shown beyond the index's watermark, and nothing is ever placed at or before it: whoever follows ``next``
misses nothing and sees nothing twice. ``next`` of an empty page keeps its place, which is how one waits for more; a
page that looked at everything there is goes on from the watermark, so that waiting does not look at it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.events import expression
from pigeonry.events.asking import Ask
from pigeonry.events.paging import Question, TokenSigner
from pigeonry.ports.event_index import IndexMark
from pigeonry.protocol.mime.dates import seconds_of

if TYPE_CHECKING:
    from pigeonry.events.asking import Events, Found
    from pigeonry.ports.environment import Clock

__all__ = ["FIELDS", "EventPage", "EventSearch", "Question"]

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 300  # what the events API promises
FILTERS_MAX: Final = 32  # parameters of one question that are filters
FILTER_CHARACTERS_MAX: Final = 4096  # in all of them: with them, a token fits into any client's URLs
ENOUGH_S: Final = 0.5  # after which what was found is a page, also when it is not full
SEARCH_S: Final = 5.0  # after which nothing was found, and the client is told why
MARKS_MAX: Final = 1024
"""Shards whose marks fit into a token, five octets each. With more of them pages go on from a place in time, and who
pages while a shard moves may miss or see twice what came late."""
FIELDS: Final = (
    "event",
    "list",
    "attachment",
    "from",
    "message-id",
    "subject",
    "to",
    "size",
    "recipient",
    "recipients",
    "tags",
    "severity",
    "user-variables",
)
_END_US: Final = 2**62
_SHARD_END: Final = 2**16
_SEQ_END: Final = 2**62
_YES: Final = frozenset({"yes", "true", "1"})
_NO: Final = frozenset({"no", "false", "0"})


class EventPage(msgspec.Struct, frozen=True):
    """Encoded events in the asked order, and the tokens of the pages around them.

    Args:
        watermark: Seconds since the Unix epoch up to which all events were there to be found.
    """

    items: Sequence[bytes]
    next: str
    previous: str
    first: str
    last: str
    watermark: float


class _Looked:
    """What was found until now, and what of each shard was looked at (``ports.event_index.IndexPage.covered``)."""

    def __init__(self) -> None:
        self.items: list[tuple[IndexMark, bytes]] = []
        self.upto: IndexMark | None = None
        self.watermark_us = _END_US
        self.low: dict[int, int] = {}
        self.high: dict[int, int] = {}

    def add(self, found: Found, *, ascending: bool) -> None:
        self.items += found.items
        self.upto = found.upto
        self.watermark_us = min(self.watermark_us, found.watermark_us)
        for shard, (low, high) in found.covered.items():
            if ascending:
                self.low.setdefault(shard, low)
                self.high[shard] = high
            else:
                self.high.setdefault(shard, high)
                self.low[shard] = low


class EventSearch:
    """Answers questions about what happened to a domain's messages.

    Args:
        events: Where they are looked for.
        secret: Signs tokens; the same for all workers of an installation.
    """

    def __init__(self, events: Events, clock: Clock, secret: bytes) -> None:
        self._events = events
        self._clock = clock
        self._signer = TokenSigner(secret)

    def question(self, domain: str, parameters: Mapping[str, Sequence[str]]) -> Question:
        """Understand a request's parameters. Unknown ones mean nothing.

        Raises:
            BadRequest: One of them is malformed; the text names it.
        """
        low, high, ascending = self._range(parameters)
        asked = [(field, text) for field in FIELDS for text in parameters.get(field, ())]
        if len(asked) > FILTERS_MAX:
            raise BadRequest(f"There are more than {FILTERS_MAX} filters.")
        if sum(len(text) for _, text in asked) > FILTER_CHARACTERS_MAX:
            raise BadRequest(f"The filters together are longer than {FILTER_CHARACTERS_MAX} characters.")
        filters = tuple((field, text) for field, text in asked if expression.parse(field, text) is not None)
        return Question(domain, low, high, ascending, _limit(_one(parameters, "limit")), filters)

    def read_token(self, domain: str, token: str) -> Question:
        """Take a token back.

        Raises:
            NotFound: It is none of ours, or belongs to another domain.
        """
        return self._signer.question(token, domain=domain)

    async def page(self, question: Question, *, since_us: int = 0) -> EventPage:
        """The page that a question or a token asks for.

        Args:
            question: What ``question`` or ``read_token`` gave.
            since_us: Nothing before this is shown; microseconds since the Unix epoch.

        Raises:
            BadRequest: The filter matches nothing in more events than can be looked at.
            StoreBusy: Not all events can be seen just now.
        """
        if question.begin_us < since_us:
            question = msgspec.structs.replace(question, begin_us=since_us)
        looked = await self._look(question, since_us)
        items, upto = looked.items, looked.upto
        if question.backward:
            items.reverse()
            before = upto or (items[0][0] if items else question.place)
            after = items[-1][0] if items else None
        else:
            before = items[0][0] if items else question.place
            after = upto or _beyond(question, items, min(question.end_us, looked.watermark_us))
        low, high = _marks(looked.low), _marks(looked.high)
        (before_marks, after_marks) = (low, high) if question.ascending else (high, low)
        base = msgspec.structs.replace(question, place=None, backward=False, marks=())
        token, at = self._signer.token, msgspec.structs.replace
        return EventPage(
            items=[octets for _, octets in items],
            next=token(base if after is None else at(base, place=after, marks=after_marks)),
            previous=token(base if before is None else at(base, place=before, marks=before_marks, backward=True)),
            first=token(base),
            last=token(at(base, backward=True)),
            watermark=looked.watermark_us / 1e6,
        )

    async def _look(self, question: Question, since_us: int) -> _Looked:
        """Look for the events of the page, nearest to its place first."""
        looked = _Looked()
        ask = _first_ask(question, since_us)
        began = self._clock.monotonic()
        while True:
            found = await self._events.look(ask)
            looked.add(found, ascending=ask.ascending)
            spent = self._clock.monotonic() - began
            items = looked.items
            if found.upto is None or len(items) >= question.limit or (items and spent >= ENOUGH_S):
                return looked
            if spent >= SEARCH_S:
                raise BadRequest(
                    "The filters match too little of too many events. Narrow begin and end,"
                    " or ask for a recipient, message-id, tag, event or words of the subject."
                )
            marks = looked.high if ask.ascending else looked.low
            ask = msgspec.structs.replace(
                ask, limit=question.limit - len(items), after=found.upto, marks={**ask.marks, **marks}
            )

    def _range(self, parameters: Mapping[str, Sequence[str]]) -> tuple[int, int, bool]:
        """Lowest and highest time, and whether the answer begins with the lowest.

        ``begin`` is where the answer begins, so an ``end`` before it means newest first. Without ``end`` the answer
        goes up to now and on, or, when ``ascending=no`` says so, down to the oldest event.
        """
        begin, end = (_time(name, _one(parameters, name)) for name in ("begin", "end"))
        ascending = _flag("ascending", _one(parameters, "ascending"))
        if begin is not None and end is not None:
            if ascending is not None and begin != end and ascending != (begin < end):
                side = "before" if begin < end else "after"
                raise BadRequest(f"Parameter ascending contradicts begin and end: begin is {side} end.")
            return min(begin, end), max(begin, end), begin <= end if ascending is None else ascending
        if begin is not None:
            return (0, begin, False) if ascending is False else (begin, _END_US, True)
        now_us = int(self._clock.now() * 1e6)
        if end is not None:
            return (0, end, True) if ascending or end >= now_us else (end, now_us, False)
        return (0, _END_US, True) if ascending else (0, now_us, False)


def _beyond(question: Question, items: list[tuple[IndexMark, bytes]], shown_us: int) -> IndexMark | None:
    """Where the page after one begins that looked at all it was to look at."""
    if items and len(items) >= question.limit:
        return items[-1][0]
    place = items[-1][0] if items else question.place
    if not question.ascending:
        return place
    looked = IndexMark(shown_us, _SHARD_END, _SEQ_END)
    return looked if place is None or looked > place else place


def _first_ask(question: Question, since_us: int) -> Ask:
    """What is to be looked for first.

    Who goes on from marks has begun already: an event that another owner placed before the beginning is not left out.
    """
    ascending = question.ascending != question.backward
    marks = {shard: seq for shard, seq in enumerate(question.marks) if seq >= 0}
    return Ask(
        domain=question.domain,
        begin_us=since_us if marks and ascending else question.begin_us,
        end_us=_END_US if marks and not ascending else question.end_us,
        ascending=ascending,
        limit=question.limit,
        filters=question.filters,
        after=question.place,
        marks=marks,
    )


def _marks(seqs: Mapping[int, int]) -> tuple[int, ...]:
    """As a token has them."""
    if len(seqs) > MARKS_MAX:
        return ()
    return tuple(seqs.get(shard, -1) for shard in range(max(seqs, default=-1) + 1))


def _one(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    """The last value of a parameter that counts once; empty when it is not there."""
    values = parameters.get(name, ())
    return values[-1].strip() if values else ""


def _time(name: str, text: str) -> int | None:
    """Microseconds since the Unix epoch, of seconds or of a date; a date without a zone is UTC."""
    if not text:
        return None
    seconds = seconds_of(text)
    if seconds is None or seconds >= _END_US / 1e6:
        raise BadRequest(f"Parameter {name} is neither an RFC 2822 date nor seconds since 1970.")
    return round(seconds * 1e6)


def _flag(name: str, text: str) -> bool | None:
    if not text:
        return None
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise BadRequest(f"Parameter {name} is neither yes nor no.")


def _limit(text: str) -> int:
    if not text:
        return LIMIT_DEFAULT
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or int(text) < 1:
        raise BadRequest(f"Parameter limit is not a number from 1 to {LIMIT_MAX}.")
    return min(int(text), LIMIT_MAX)
