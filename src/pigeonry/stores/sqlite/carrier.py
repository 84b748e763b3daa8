"""Carries what still waits out of old day files, so that no day is kept for the sake of one recipient.

A batch goes with its bodies into today's file and is durable there before it is marked carried in the old one. Between
the two it stands in both; the writer's turn and the gate of ``due`` are held meanwhile, so nobody sees that, and after
a crash the newer file wins (``recovery``). An attempt whose final dot may have left is not carried: its recipient goes
with a later round. Who still names the old day is led after it by ``carried_to``.

Rows come and go in one SQL step each, as JSON: see ``rows`` for why.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from pigeonry.stores.sqlite import failure

if TYPE_CHECKING:
    from pigeonry.ports.disk import Disk
    from pigeonry.stores.sqlite.day_file import DayFile
    from pigeonry.stores.sqlite.layout import Layout

__all__ = ["COUNTED", "UNCOUNT", "HalfCarried", "carry_batch"]

BATCH_OCTETS_MAX: Final = 8 * 1024 * 1024  # Bodies moved in one turn: some 50 ms during which no group is written.

_SERIALS: Final = """
SELECT json_group_array(message) FROM (
    SELECT DISTINCT r.message FROM recipient AS r INDEXED BY pending WHERE r.state = 0
    AND NOT EXISTS (SELECT 1 FROM dot_sent AS d WHERE d.serial = r.serial AND d.attempt > r.attempts) LIMIT ?1)
"""
_MESSAGES: Final = """
SELECT json_group_array(json_array(serial, day, recipients, segment, offset, length, crc, tenant, hex(meta)))
FROM message WHERE serial IN (SELECT value FROM json_each(?1))
"""
_RECIPIENTS: Final = """
SELECT json_group_array(json_array(r.serial, r.message, r.due, r.attempts, r.first_attempt_at, r.in_doubt, r.address,
    hex(coalesce(r.variables, x'')), coalesce(r.notify, ''), coalesce(r.original, '')))
FROM json_each(?1) AS wanted CROSS JOIN message AS m ON m.serial = wanted.value
CROSS JOIN recipient AS r ON r.serial >= m.serial AND r.serial < m.serial + m.recipients
WHERE r.state = 0 AND NOT EXISTS (SELECT 1 FROM dot_sent AS d WHERE d.serial = r.serial AND d.attempt > r.attempts)
"""
_INSERT_MESSAGES: Final = """
INSERT OR IGNORE INTO message SELECT value->>0, value->>1, value->>2, 0, value->>3, value->>4, value->>5, value->>6, 0,
    value->>7, NULL, unhex(value->>8) FROM json_each(?1)
"""
_INSERT_RECIPIENTS: Final = """
INSERT INTO recipient SELECT value->>0, value->>1, 0, value->>2, value->>3, value->>4, value->>5, value->>6,
    nullif(unhex(value->>7), x''), nullif(value->>8, ''), nullif(value->>9, ''), NULL FROM json_each(?1)
"""
COUNTED: Final = """
SELECT json_group_array(json_array(minute, domain, waiting)) FROM (
    SELECT CAST(m.meta ->> '$.accepted_at' / 60 AS INTEGER) AS minute, m.meta ->> '$.domain' AS domain,
        count(*) AS waiting
    FROM json_each(?1) AS moved CROSS JOIN recipient AS r ON r.serial = moved.value ->> 0
    CROSS JOIN message AS m ON m.serial = r.message WHERE r.state = 0 GROUP BY 1, 2)
"""
"""Of recipients that are about to be carried: the rows of the ledger that count them."""
UNCOUNT: Final = """
UPDATE ledger SET accepted = accepted - moved.value ->> 2 FROM json_each(?1) AS moved
WHERE (minute, domain) = (moved.value ->> 0, moved.value ->> 1)
"""
_COUNT: Final = """
INSERT INTO ledger SELECT value ->> 0, value ->> 1, value ->> 2, 0, 0 FROM json_each(?1) WHERE true
ON CONFLICT DO UPDATE SET accepted = accepted + excluded.accepted
"""
_BATCH: Final = "INSERT INTO carry_batch SELECT value->>0, ?2 FROM json_each(?1)"
_MARK: Final = """
UPDATE recipient SET state = 4, carried_to = ?2 WHERE serial IN (SELECT value->>0 FROM json_each(?1)) AND state = 0
"""


class HalfCarried(Exception):
    """Recipients may stand in both files: nothing may be served before recovery has looked at them."""


_Message = tuple[int, int, int, int, int, int, int, str, str]
_Recipient = tuple[int, int, float, int, float, int, str, str, str, str]
_serials_decoder: Final = msgspec.json.Decoder(list[int])
_messages_decoder: Final = msgspec.json.Decoder(list[_Message])
_recipients_decoder: Final = msgspec.json.Decoder(list[_Recipient])
_encode: Final = msgspec.json.Encoder().encode


def carry_batch(source: DayFile, target: DayFile, *, disk: Disk, layout: Layout, messages_max: int) -> int:
    """Move some of the messages that wait in one day file to a newer one. May block.

    Both files must be open, and nobody else may write or page through them meanwhile.

    Returns:
        How many recipients were moved; 0 when nothing can be moved now.

    Raises:
        apsw.Error, OSError: Nothing was moved.
        HalfCarried, SyncFailed: The store must be opened anew.
    """
    assert source.connection is not None
    assert target.connection is not None
    serials = source.connection.execute(_SERIALS, (messages_max,)).get
    if not _serials_decoder.decode(serials):
        return 0
    messages = _within(_messages_decoder.decode(source.connection.execute(_MESSAGES, (serials,)).get))
    wanted = _encode([message[0] for message in messages]).decode()
    recipients = source.connection.execute(_RECIPIENTS, (wanted,)).get
    counted = source.connection.execute(COUNTED, (recipients,)).get
    moved = len(_recipients_decoder.decode(recipients))
    present = set(
        _serials_decoder.decode(
            target.connection.execute(
                "SELECT json_group_array(serial) FROM message WHERE serial IN (SELECT value FROM json_each(?))",
                (wanted,),
            ).get
        )
    )
    bodies = {
        message[0]: _body(source.shard, message, disk=disk, layout=layout)
        for message in messages
        if message[0] not in present
    }
    target.begin_carrying()
    try:
        rows = [_moved(target, message, bodies[message[0]]) for message in messages if message[0] in bodies]
        execute = target.connection.execute
        execute(_INSERT_MESSAGES, (_encode(rows).decode(),))
        execute(_INSERT_RECIPIENTS, (recipients,))
        execute("DELETE FROM carry_batch")
        execute(_BATCH, (recipients, source.day))
        execute(_COUNT, (counted,))
        target.end_carrying(moved)
        source.connection.execute("BEGIN IMMEDIATE")
        source.connection.execute(UNCOUNT, (counted,))
        source.connection.execute(_MARK, (recipients, target.day))
        target.segments.write_out()
        _commit(target, source)
    except (apsw.Error, OSError):
        target.rollback()
        if source.connection.in_transaction:
            source.connection.execute("ROLLBACK")
        raise
    source.carries = True
    source.pending -= moved
    return moved


def _commit(target: DayFile, source: DayFile) -> None:
    try:
        target.commit()
    except apsw.Error as error:
        if failure.uncertain(error):
            raise HalfCarried(str(error)) from error
        raise
    try:
        source.commit()
    except apsw.Error as error:
        raise HalfCarried(str(error)) from error


def _within(messages: list[_Message]) -> list[_Message]:
    """As many as their bodies allow, one at least."""
    octets, count = 0, 0
    for message in messages:
        octets += message[5]
        if count and octets > BATCH_OCTETS_MAX:
            break
        count += 1
    return messages[:count]


def _body(shard: int, message: _Message, *, disk: Disk, layout: Layout) -> bytes | None:
    """The octets to move; None when they are spoilt, and then they are named where they are."""
    _, _, _, segment, offset, length, crc, _, _ = message
    path = layout.own_file(shard, segment) if offset < 0 else layout.segment(shard, segment)
    octets = disk.read(path, max(offset, 0), length)
    return octets if len(octets) == length and zlib.crc32(octets) == crc else None


def _moved(target: DayFile, message: _Message, body: bytes | None) -> _Message:
    serial, day, recipients, segment, offset, length, crc, tenant, meta = message
    if body is not None:
        segment, offset = target.segments.number, target.segments.place(body)
    return (serial, day, recipients, segment, offset, length, crc, tenant, meta)
