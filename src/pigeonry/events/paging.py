"""The tokens by which one goes on from a page of events.

A token holds the whole question and a place in the order, signed with the node's secret: it needs no memory of ours,
any worker understands it, and it cannot be made up or turned towards another domain's events.

Trust: tokens come from outside; nothing of one is looked at before its signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from pigeonry.domain.errors import NotFound
from pigeonry.ports.event_index import IndexMark

__all__ = ["Question", "TokenSigner"]

TOKEN_CHARACTERS_MAX: Final = 16_384  # the longest filters that are taken give a third of it
_MAC_OCTETS: Final = 16
_PURPOSE: Final = b"events-page-1"  # another layout of Question is another purpose: its tokens are not understood


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What is asked, and which page of the answer.

    Args:
        begin_us, end_us: Both included; microseconds since the Unix epoch.
        ascending: Whether the answer's order is oldest first.
        limit: Events on a page.
        filters: Field and expression, as asked.
        place: Where the page before ended; None for the answer's beginning (its end, when ``backward``).
        backward: Whether the page lies before ``place`` in the asked order.
        marks: Where the page before ended, in a cluster: the last seq of each shard, by its number, that lies before
            that in time; -1 where ``place`` says it. A shard's owner may change, and with it the place of an event.
    """

    domain: str
    begin_us: int
    end_us: int
    ascending: bool
    limit: int
    filters: tuple[tuple[str, str], ...]
    place: IndexMark | None = None
    backward: bool = False
    marks: tuple[int, ...] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Question)


class TokenSigner:
    """Makes tokens of questions and takes them back.

    Args:
        secret: The same for all workers of a node.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, person=_PURPOSE, digest_size=32).digest()

    def token(self, question: Question) -> str:
        """A token of base64url characters, fit for the last segment of a path."""
        signed = _ENCODER.encode(question)
        return base64.urlsafe_b64encode(signed + self._mac(signed)).rstrip(b"=").decode("ascii")

    def question(self, token: str, *, domain: str) -> Question:
        """Take a token back.

        Raises:
            NotFound: It is none of ours, or belongs to another domain than the path says.
        """
        octets = _octets(token)
        signed, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
        if not hmac.compare_digest(mac, self._mac(signed)):
            raise NotFound("Page not found: the token is not one of this server's. Begin again without a token.")
        try:
            question = _DECODER.decode(signed)
        except msgspec.MsgspecError:
            raise NotFound("Page not found: the token is of another release. Begin again without a token.") from None
        if question.domain != domain:
            raise NotFound("Page not found: the token belongs to another domain.")
        return question

    def _mac(self, signed: bytes) -> bytes:
        return hashlib.blake2b(signed, key=self._key, digest_size=_MAC_OCTETS).digest()


def _octets(token: str) -> bytes:
    """What the characters stand for; empty, which is never signed, when they are no base64url."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        return b""
    try:
        return base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""
