"""The tables of a day file, and how a connection to one is set up.

A day file holds the messages accepted on a day (UTC), their recipients with state, and the events that go with
a change of state, so that both change in one transaction (invariant I2). Rows are written once and looked up
by their integer key; the only index that a delivered message pays for is ``pending``, over recipients that wait.

``recipient.carried_to`` names the day file in which a recipient goes on. ``message.first_seq`` is the seq of its
first ``accepted`` event, 0 where the message was carried here. ``dot_sent`` holds a row for each attempt whose final
dot may have left; settling takes it away, so that recovery reads as many rows as attempts were in flight.
``ledger`` counts what became of the recipients of this file (``ports.ledger``); who is carried is accepted in the other
file from then on, so that each file balances by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.stores.formats import NewerFormat

if TYPE_CHECKING:
    from pigeonry.ports.disk import Disk

__all__ = ["open_reader", "open_writer", "wal_octets"]

FORMAT: Final = 1
_APPLICATION: Final = 0x7067_6E79  # "pgny": lets file(1) and operators tell what it is.

_LEDGER: Final = """
CREATE TABLE ledger(
    minute INTEGER NOT NULL, domain TEXT NOT NULL, accepted INTEGER NOT NULL, delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL, PRIMARY KEY(minute, domain)) WITHOUT ROWID;
"""
_LEDGER_OF_OLD: Final = """
INSERT INTO ledger SELECT CAST(m.meta ->> '$.accepted_at' / 60 AS INTEGER), m.meta ->> '$.domain',
    count(*), sum(r.state = 1), sum(r.state = 2)
FROM recipient AS r CROSS JOIN message AS m ON m.serial = r.message WHERE r.state < 3 GROUP BY 1, 2;
"""
_TABLES: Final = """
CREATE TABLE message(
    serial INTEGER PRIMARY KEY, day INTEGER NOT NULL, recipients INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
    voided INTEGER NOT NULL, tenant TEXT NOT NULL, scope BLOB, meta BLOB NOT NULL);
CREATE INDEX own_file ON message(segment) WHERE offset = -1;
CREATE TABLE recipient(
    serial INTEGER PRIMARY KEY, message INTEGER NOT NULL, state INTEGER NOT NULL, due REAL NOT NULL,
    attempts INTEGER NOT NULL, first_attempt_at REAL NOT NULL, in_doubt INTEGER NOT NULL, address TEXT NOT NULL,
    variables BLOB, notify TEXT, original TEXT, carried_to INTEGER);
CREATE INDEX pending ON recipient(due) WHERE state = 0;
CREATE INDEX carried ON recipient(serial) WHERE state = 4;
CREATE TABLE dot_sent(serial INTEGER PRIMARY KEY, attempt INTEGER NOT NULL);
CREATE TABLE event(seq INTEGER PRIMARY KEY, octets BLOB NOT NULL);
CREATE TABLE idempotency(
    scope BLOB PRIMARY KEY, fingerprint BLOB NOT NULL, response BLOB NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE segment(number INTEGER PRIMARY KEY);
CREATE TABLE carry_batch(serial INTEGER PRIMARY KEY, from_day INTEGER NOT NULL);
CREATE TABLE state(
    id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, seq_floor INTEGER NOT NULL,
    segment INTEGER NOT NULL, segment_end INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0, 0, 0, 0);
"""

_CACHE_KIB: Final = 8 * 1024  # A group touches some hundred pages; the rest comes from the kernel's page cache.
_BUSY_MS: Final = 100  # Only another connection's recovery can hold us up, and that is short.


def open_writer(disk: Disk, path: str) -> apsw.Connection:
    """The one connection that writes a day file, which is made when it is not there. May block.

    Raises:
        NewerFormat: A newer release wrote it.
        apsw.Error: It is damaged, or the disk fails.
    """
    connection = apsw.Connection(path, vfs=disk.sqlite_vfs or None)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        if not disk.shared_memory:
            _all(connection, "PRAGMA locking_mode = EXCLUSIVE")
        _all(connection, "PRAGMA journal_mode = WAL")
        _all(connection, "PRAGMA synchronous = FULL")
        _all(connection, "PRAGMA wal_autocheckpoint = 0")
        _all(connection, "PRAGMA cache_spill = OFF")
        _all(connection, f"PRAGMA cache_size = -{_CACHE_KIB}")
        _all(connection, "PRAGMA temp_store = MEMORY")
        version = int(connection.pragma("user_version"))
        _refuse_newer(path, version)
        if version == 0:
            with connection:
                _all(connection, _TABLES + _LEDGER)
                _all(connection, f"PRAGMA application_id = {_APPLICATION}")
                _all(connection, f"PRAGMA user_version = {FORMAT}")
        elif not connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'ledger')").get:
            with connection:  # It was written before there was one; the release that did so does not mind it.
                _all(connection, _LEDGER + _LEDGER_OF_OLD)
    except BaseException:
        connection.close(force=True)
        raise
    return connection


def open_reader(disk: Disk, path: str) -> apsw.Connection:
    """A connection that only reads; it never repairs and never copies the WAL back. May block."""
    connection = apsw.Connection(path, vfs=disk.sqlite_vfs or None, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    except BaseException:
        connection.close(force=True)
        raise
    return connection


def wal_octets(disk: Disk, path: str) -> int:
    """Size of a day file's WAL; 0 when there is none. May block."""
    return max(0, disk.size(f"{path}-wal"))


def _refuse_newer(path: str, version: int) -> None:
    if version > FORMAT:
        raise NewerFormat(f"{path} has format {version}; this release knows {FORMAT}. Install the newer release.")


def _all(connection: apsw.Connection, statements: str) -> None:
    for _ in connection.execute(statements):
        continue
