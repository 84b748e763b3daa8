"""Signs messages with DKIM: relaxed/relaxed, RSA-SHA256 or Ed25519-SHA256.

Delivery signs each attempt right before it is sent (the octets below the signature stay the same, invariant I9).
The key is parsed once, when the signer is made; signing an ordinary message then costs what RSA costs, some 330 us,
and some 40 us of ours. Signers of one message share its body hash and its canonical fields.

Which fields are signed, and why some are listed once more than they occur: a field that stands in ``h=`` beyond its
last occurrence is signed as absent (RFC 6376 section 8.15), so nobody can put a second From, Subject or Content-Type
on top of a message and have it shown under our signature.

Standards: RFC 6376 sections 3.5 (the field), 3.7 (what is hashed), 5.4 (choice of fields); RFC 8463 (Ed25519).
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from pigeonry.protocol.dkim.canonical import body_start, relaxed_body, relaxed_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.protocol.dkim.keys import PrivateKey

__all__ = ["OVERSIGNED", "SIGNED", "DkimSigner", "sign_many"]

OVERSIGNED: Final = (
    "from", "to", "cc", "subject", "reply-to", "date", "message-id", "mime-version", "content-type",
)  # fmt: skip
"""What a reader is shown or what decides how the rest is read: signed once more than it occurs."""

SIGNED: Final = (
    *OVERSIGNED, "sender", "content-transfer-encoding", "in-reply-to", "references", "list-id", "list-unsubscribe",
    "list-unsubscribe-post", "feedback-id",
)  # fmt: skip
"""Signed as often as it occurs. Trace fields (Received, Return-Path) are not: they change on the way."""

_LINE_OCTETS: Final = 72  # folded so that a line stays under the 78 octets of RFC 5322 section 2.1.1
_FIELDS_EACH_MAX: Final = 16  # occurrences of one field that are signed: more is an attack on the length of h=
_SHAPES_KEPT: Final = 512  # different lists of fields whose folded h= is kept; senders have few
_HASH: Final = SHA256()
_PADDING: Final = PKCS1v15()
_WANTED: Final = {
    spelled.encode(): name.encode()
    for name in SIGNED
    for spelled in (name, name.title(), name.title().replace("-Id", "-ID").replace("Mime-", "MIME-"))
}
_OVERSIGNED: Final = tuple(name.encode() for name in OVERSIGNED)


class DkimSigner:
    """Signs for one domain with one key. Immutable, and safe to share between threads."""

    def __init__(
        self, *, domain: str, selector: str, key: PrivateKey, valid_s: float | None = None, identity: str = ""
    ) -> None:
        """Prepare everything that does not depend on the message.

        Args:
            domain: The signing domain (``d=``), in A-labels.
            selector: The label below ``_domainkey`` (``s=``).
            key: From ``keys.load_private_key``.
            valid_s: Seconds until the signature expires (``x=``), None for never.
            identity: The agent or user (``i=``), left out when empty.
        """
        self.domain = domain
        self.selector = selector
        self.algorithm = "ed25519" if isinstance(key, Ed25519PrivateKey) else "rsa"
        self._key = key
        self._valid_s = valid_s
        tags = f"v=1; a={self.algorithm}-sha256; c=relaxed/relaxed;"
        self._who = [tags.encode("ascii"), f"d={domain}; s={selector};".encode("ascii")]
        if identity:
            self._who.append(f"i={identity};".encode())

    def __repr__(self) -> str:
        return f"DkimSigner({self.selector}._domainkey.{self.domain}, {self.algorithm})"

    def sign(self, octets: bytes, *, now: float) -> bytes:
        """One complete ``DKIM-Signature`` field, folded, with its CRLF, to put in front of the message.

        Args:
            octets: The whole message as it goes on the wire but for dot-stuffing: lines end in CRLF. It is to have
                a From; without one the signature says that there was none.
            now: Wall time, seconds since the Unix epoch.
        """
        return self._signature(_Signable(octets), now)

    def _signature(self, message: _Signable, now: float) -> bytes:
        when = b"t=%d;" % now
        if self._valid_s is not None:
            when += b" x=%d;" % (now + self._valid_s)
        lines = [*self._who, when, *message.names, b"bh=%b;" % message.body_hash, b"b="]
        signed = b"%bdkim-signature:%b" % (message.fields, b" ".join(lines))
        key = self._key
        if isinstance(key, Ed25519PrivateKey):
            # RFC 8463 section 3: Ed25519 signs the SHA-256 digest, not the text
            value = key.sign(hashlib.sha256(signed).digest())
        else:
            value = key.sign(signed, _PADDING, _HASH)
        text = b2a_base64(value, newline=False)
        lines[-1] += text[: _LINE_OCTETS - 2]
        lines += [text[at : at + _LINE_OCTETS] for at in range(_LINE_OCTETS - 2, len(text), _LINE_OCTETS)]
        return b"DKIM-Signature: %b\r\n" % b"\r\n\t".join(lines)


def sign_many(signers: Sequence[DkimSigner], octets: bytes, *, now: float) -> bytes:
    """The fields of all signers, in their order, ready to put in front of the message; empty without signers.

    The message is canonicalised and its body hashed once. No signature covers another.
    """
    if not signers:
        return b""
    message = _Signable(octets)
    return b"".join([signer._signature(message, now) for signer in signers])  # noqa: SLF001  # two halves of one thing


class _Signable:
    """A message as signatures see it: ``names`` the folded ``h=``, ``fields`` what it lists, ``body_hash`` base64."""

    __slots__ = ("body_hash", "fields", "names")

    def __init__(self, octets: bytes) -> None:
        start = body_start(octets)
        digest = hashlib.sha256(relaxed_body(octets, start)).digest()
        self.body_hash = b2a_base64(digest, newline=False)
        names, fields = relaxed_fields(octets[:start], _WANTED)
        if len(names) > _FIELDS_EACH_MAX:
            names, fields = _without_excess(names, fields)
        self.fields = b"".join(fields)
        self.names = _names_tag(tuple(names))


def _without_excess(names: list[bytes], fields: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The last ``_FIELDS_EACH_MAX`` occurrences of each field, from the last to the first."""
    seen: Counter[bytes] = Counter()
    kept: list[tuple[bytes, bytes]] = []
    for name, field in zip(names, fields, strict=True):
        seen[name] += 1
        if seen[name] <= _FIELDS_EACH_MAX:
            kept.append((name, field))
    return [name for name, _ in kept], [field for _, field in kept]


@lru_cache(_SHAPES_KEPT)
def _names_tag(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The ``h=`` tag for fields in this order, what is oversigned named once more, in lines broken behind a colon."""
    counts = Counter(names)
    items = [*names, *(name for name in _OVERSIGNED if counts[name] < _FIELDS_EACH_MAX)]
    lines: list[bytes] = []
    line = b"h="
    for index, name in enumerate(items):
        item = name + (b";" if index == len(items) - 1 else b":")
        if len(line) + len(item) > _LINE_OCTETS:
            lines.append(line)
            line = b""
        line += item
    lines.append(line)
    return tuple(lines)
