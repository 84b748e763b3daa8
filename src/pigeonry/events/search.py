"""Pages of events, and the tokens by which one goes on.

A token holds the whole question and a place in the order, signed, so that it needs no memory of ours and cannot be
turned towards another's events. Nothing is shown beyond the index's watermark, and nothing is ever placed before it:
whoever follows ``next`` misses nothing and sees nothing twice. ``next`` of an empty page keeps its place, which is how
one waits for more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import BadRequest, NotFound
from pigeonry.events import expression
from pigeonry.ports.event_index import IndexMark, IndexQuery, Term

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_index import EventIndex

__all__ = ["FIELDS", "EventPage", "EventSearch", "Question"]

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 300
LOOKS_MAX: Final = 8  # continued looks of one page whose filter matches little; then the client goes on
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
_MAC_OCTETS: Final = 16
_END_US: Final = 2**62
_YES: Final = frozenset({"yes", "true", "1"})
_NO: Final = frozenset({"no", "false", "0"})
_ENCODER: Final = msgspec.msgpack.Encoder()


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What a token holds.

    Args:
        filters: Field and expression, as asked.
        backward: Whether the page lies before ``place`` in the asked order.
    """

    domain: str
    begin_us: int
    end_us: int
    ascending: bool
    limit: int
    filters: tuple[tuple[str, str], ...]
    place: IndexMark | None = None
    backward: bool = False


class EventPage(msgspec.Struct, frozen=True):
    """Encoded events in the asked order, and the tokens of the pages around them."""

    items: Sequence[bytes]
    next: str
    previous: str
    first: str
    last: str


_DECODER: Final = msgspec.msgpack.Decoder(Question)


class EventSearch:
    """Answers questions.

    Args:
        secret: Signs tokens; the same for all workers of a node.
    """

    def __init__(self, index: EventIndex, clock: Clock, secret: bytes) -> None:
        self._index = index
        self._clock = clock
        self._secret = secret

    def question(self, domain: str, parameters: Mapping[str, Sequence[str]]) -> Question:
        """Understand a request's parameters.

        Raises:
            BadRequest: One of them is malformed; the text names it.
        """
        begin, end = (_time(name, _one(parameters, name)) for name in ("begin", "end"))
        now = int(self._clock.now() * 1e6)
        ascending = _flag("ascending", _one(parameters, "ascending"))
        if begin is not None and end is not None:
            implied = end >= begin
            if ascending is not None and ascending != implied:
                raise BadRequest("Parameter ascending contradicts begin and end.")
            low, high, up = min(begin, end), max(begin, end), implied
        elif begin is not None:
            up = bool(ascending)
            low, high = (begin, _END_US) if up else (0, begin)
        elif end is not None:
            up = bool(ascending)
            low, high = (0, end) if up or end >= now else (end, now)
        else:
            up = bool(ascending)
            low, high = (0, _END_US) if up else (0, now)
        asked = [(field, text) for field in FIELDS for text in parameters.get(field, ())]
        filters = [(field, text) for field, text in asked if expression.parse(field, text) is not None]
        return Question(domain, low, high, up, _limit(_one(parameters, "limit")), tuple(filters))

    def read_token(self, domain: str, token: str) -> Question:
        """Take a token back.

        Raises:
            NotFound: It is none of ours, or belongs to another domain.
        """
        try:
            octets = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            signed, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
            if not hmac.compare_digest(mac, self._mac(signed)):
                raise NotFound("Page not found: the token is not one of this server's.")
            question = _DECODER.decode(signed)
        except (binascii.Error, UnicodeEncodeError, msgspec.MsgspecError):
            raise NotFound("Page not found: the token is not one of this server's.") from None
        if question.domain != domain:
            raise NotFound("Page not found: the token belongs to another domain.")
        return question

    async def page(self, question: Question) -> EventPage:
        """The page that a question or a token asks for.

        Raises:
            StoreBusy: The index cannot be read just now.
        """
        forward = question.ascending != question.backward
        shown_us = int(await self._index.watermark() * 1e6)
        where = _where(question.filters)
        place = question.place
        items: list[tuple[IndexMark, bytes]] = []
        for _ in range(LOOKS_MAX):
            query = IndexQuery(
                question.domain,
                question.begin_us,
                min(question.end_us, shown_us),
                forward,
                question.limit - len(items),
                place,
                where,
            )
            found = await self._index.search(query)
            items += found.items
            if found.upto is None or len(items) >= question.limit:
                break
            place = found.upto
        if question.backward:
            items.reverse()
        return self._around(question, items, place)

    def _around(self, question: Question, items: list[tuple[IndexMark, bytes]], place: IndexMark | None) -> EventPage:
        base = msgspec.structs.replace(question, place=None, backward=False)
        after = items[-1][0] if items else place
        before = items[0][0] if items else question.place
        if not question.backward and place is not None and place != question.place and items:
            after = max(after, place) if question.ascending else min(after, place)  # type: ignore[type-var]
        return EventPage(
            [octets for _, octets in items],
            self._token(msgspec.structs.replace(base, place=after)),
            self._token(msgspec.structs.replace(base, place=before, backward=before is not None)),
            self._token(base),
            self._token(msgspec.structs.replace(base, backward=True)),
        )

    def _token(self, question: Question) -> str:
        signed = _ENCODER.encode(question)
        return base64.urlsafe_b64encode(signed + self._mac(signed)).rstrip(b"=").decode("ascii")

    def _mac(self, signed: bytes) -> bytes:
        return hashlib.blake2b(signed, key=self._secret, digest_size=_MAC_OCTETS).digest()


def _where(filters: Sequence[tuple[str, str]]) -> Term | None:
    terms = [term for field, text in filters if (term := expression.parse(field, text)) is not None]
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else Term("and", parts=tuple(terms))


def _one(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    values: Any = parameters.get(name, ())
    return values[-1].strip() if values else ""


def _time(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            seconds = -1.0
    if not 0 <= seconds < _END_US / 1e6:
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
    if not text.isdecimal() or not text.isascii() or len(text) > 6 or int(text) < 1:
        raise BadRequest(f"Parameter limit is not a number from 1 to {LIMIT_MAX}.")
    return min(int(text), LIMIT_MAX)
