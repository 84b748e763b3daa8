"""Reading day files: one SQL step for each question, whatever it returns.

apsw gives up the interpreter lock at every step of a statement, and a lane must then wait for a busy loop to hand it
back: up to 5 ms a row. So pages are put together inside SQLite (``json_group_array``, ``group_concat``) and come
over in one step, decoded here by msgspec.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.message import BodyRef, IdempotencyRecord, Message, MessageKey, Pending, RecipientState, minute_of
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.ledger import LedgerRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

__all__ = [
    "MessageRow",
    "RecipientRow",
    "decode_message",
    "due_page",
    "encode_message",
    "event_page",
    "idempotency_record",
    "ledger_page",
    "message_row",
    "recipient_rows",
]

_OfMessage = tuple[str, str | None, float, float]
_DueRow = tuple[int, int, int, str, float, str, _OfMessage, int, float, int]
_DUE: Final = """
SELECT json_group_array(json_array(
    r.serial, m.serial, m.day, r.address, r.due, m.tenant,
    json_extract(m.meta, '$.domain', '$.options.pool', '$.expires_at', '$.accepted_at'), r.attempts, r.first_attempt_at,
    r.in_doubt))
FROM (SELECT * FROM recipient INDEXED BY pending WHERE state = 0 AND (due, serial) > (?1, ?2) AND due <= ?3
      ORDER BY due, serial LIMIT ?4) AS r
CROSS JOIN message AS m ON m.serial = r.message
"""
_EVENTS: Final = """
SELECT json_group_array(json_array(seq, length(octets))), CAST(group_concat(octets, '') AS BLOB)
FROM (SELECT seq, octets FROM event WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3)
"""
_MESSAGE: Final = """
SELECT day, recipients, first_seq, segment, offset, length, crc, voided, tenant, meta FROM message WHERE serial = ?1
"""
_RECIPIENTS: Final = """
SELECT json_group_array(json_array(serial, state, due, attempts, first_attempt_at, in_doubt, address,
    hex(coalesce(variables, x'')), coalesce(notify, ''), coalesce(original, ''), coalesce(carried_to, 0)))
FROM (SELECT * FROM recipient WHERE serial >= ?1 AND serial < ?2 ORDER BY serial)
"""
_IDEMPOTENCY: Final = "SELECT fingerprint, response, expires_at FROM idempotency WHERE scope = ?1"

_LEDGER: Final = """
SELECT (SELECT count(*) FROM recipient INDEXED BY pending WHERE state = 0),
    (SELECT coalesce(sum(accepted - delivered - failed), 0) FROM ledger),
    (SELECT json_group_array(json_array(domain, minute, accepted, delivered, failed)) FROM ledger
     WHERE minute >= ?1 OR (minute >= ?2 AND accepted > delivered + failed))
"""

_due_decoder: Final = msgspec.json.Decoder(list[_DueRow])
_spans_decoder: Final = msgspec.json.Decoder(list[tuple[int, int]])
_message_decoder: Final = msgspec.json.Decoder(Message)
_message_encoder: Final = msgspec.json.Encoder()


class MessageRow(msgspec.Struct, frozen=True):
    """A message as its row tells."""

    day: int
    recipients: int
    first_seq: int
    body: BodyRef
    voided: bool
    tenant: str
    meta: bytes


class RecipientRow(msgspec.Struct, frozen=True, array_like=True):
    """A recipient as its row tells; ``variables`` is in hexadecimal."""

    serial: int
    state: RecipientState
    due: float
    attempts: int
    first_attempt_at: float
    in_doubt: int
    address: str
    variables: str
    notify: str
    original: str
    carried_to: int


_ledger_decoder: Final = msgspec.json.Decoder(list[LedgerRow])
_recipients_decoder: Final = msgspec.json.Decoder(list[RecipientRow])


def encode_message(message: Message) -> bytes:
    """What ``message.meta`` holds. JSON: the user's variables are kept as the JSON they came as."""
    return _message_encoder.encode(message)


def decode_message(octets: bytes) -> Message:
    """Read back what ``encode_message`` gave."""
    return _message_decoder.decode(octets)


def due_page(
    connection: apsw.Connection,
    *,
    shard: int,
    day: int,
    after: tuple[float, int],
    until: float,
    limit: int,
) -> list[Pending]:
    """Recipients that wait, by (due, serial), after that place. May block."""
    row = connection.execute(_DUE, (*after, until, limit)).get
    page = [
        Pending(
            MessageKey(shard, key_day, message),
            serial,
            day,
            address,
            due,
            intern(tenant),  # thousands of recipients share what is the same for their message
            intern(domain),
            pool or "",
            expires_at,
            attempts,
            first,
            in_doubt != 0,
            minute_of(accepted_at),
        )
        for serial, message, key_day, address, due, tenant, (
            domain,
            pool,
            expires_at,
            accepted_at,
        ), attempts, first, in_doubt in _due_decoder.decode(row)
    ]
    page.sort(key=_place)
    return page


def event_page(connection: apsw.Connection, *, after: int, until: int, limit: int) -> list[LogEntry]:
    """Events with ``after`` < seq <= ``until``, in order. May block."""
    spans, octets = connection.execute(_EVENTS, (after, until, limit)).get
    entries, start = [], 0
    for seq, length in _spans_decoder.decode(spans):
        entries.append(LogEntry(seq, octets[start : start + length] if length else b""))
        start += length
    return entries


def ledger_page(connection: apsw.Connection, *, kept: int, audited: int) -> tuple[int, int, list[LedgerRow]]:
    """Who waits, what is pending by the ledger, and its rows from these minutes on, of one moment. May block."""
    waiting, pending, rows = connection.execute(_LEDGER, (kept, audited)).get
    return waiting, pending, _ledger_decoder.decode(rows)


def message_row(connection: apsw.Connection, *, shard: int, serial: int) -> MessageRow | None:
    """A message, None when it is not in this file. May block."""
    row = connection.execute(_MESSAGE, (serial,)).get
    if row is None:
        return None
    day, recipients, first_seq, segment, offset, length, crc, voided, tenant, meta = row
    body = BodyRef(shard, segment, offset, length, crc)
    return MessageRow(day, recipients, first_seq, body, voided != 0, tenant, meta)


def recipient_rows(connection: apsw.Connection, *, serial: int, count: int) -> Sequence[RecipientRow]:
    """The recipients with that serial and the ones that follow, as far as they are in this file. May block."""
    return _recipients_decoder.decode(connection.execute(_RECIPIENTS, (serial, serial + count)).get)


def idempotency_record(connection: apsw.Connection, *, scope: bytes) -> IdempotencyRecord | None:
    """The record of a scope, expired or not. May block."""
    row = connection.execute(_IDEMPOTENCY, (scope,)).get
    return None if row is None else IdempotencyRecord(scope, *row)


def _place(pending: Pending) -> tuple[float, int]:
    return pending.due, pending.serial
