"""Opening a shard: find how far its files go, mend what a crash left, and say each repair in a sentence.

What can be found: a group that was committed while nobody heard of it (it stands); octets in a segment that no
committed row names (cut off); files of large bodies that no row names (removed); attempts whose final dot may have left
(in doubt, held back); recipients that were being carried (the newer file wins); messages that a predecessor could
not void before it ended (voided now, before anything is served).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from pigeonry.ports.queue_store import RecoveryReport
from pigeonry.stores.sqlite.carrier import COUNTED, UNCOUNT
from pigeonry.stores.sqlite.failure import leave_old_wal
from pigeonry.stores.sqlite.schema import wal_octets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.message import MessageKey
    from pigeonry.ports.disk import Disk
    from pigeonry.stores.sqlite.day_file import DayFile
    from pigeonry.stores.sqlite.layout import Layout
    from pigeonry.stores.sqlite.limits import Limits
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["recover"]

_TAIL_CHECKED: Final = 64  # Newest bodies whose checksum is looked at: those that a torn write could have hit.

_IN_DOUBT: Final = """
UPDATE recipient NOT INDEXED SET in_doubt = 1, attempts = attempts + 1, due = max(due, ?1),
    first_attempt_at = CASE first_attempt_at WHEN 0.0 THEN ?2 ELSE first_attempt_at END
WHERE serial IN (SELECT serial FROM dot_sent) AND state = 0
    AND attempts + 1 = (SELECT d.attempt FROM dot_sent AS d WHERE d.serial = recipient.serial)
"""
_FLYING: Final = """
SELECT count(*) FROM dot_sent AS d CROSS JOIN recipient AS r ON r.serial = d.serial
WHERE r.state = 0 AND d.attempt = r.attempts + 1
"""
_MARK_CARRIED: Final = "UPDATE recipient SET state = 4, carried_to = ? WHERE serial = ? AND state = 0"
_NEWEST_BODIES: Final = """
SELECT json_group_array(json_array(serial, offset, length, crc))
FROM (SELECT * FROM message WHERE offset >= 0 AND segment = ?1 ORDER BY serial DESC LIMIT ?2)
"""


def recover(
    shard: Shard, *, disk: Disk, layout: Layout, limits: Limits, now: float, voids: Sequence[MessageKey]
) -> RecoveryReport:
    """Open every day file of the shard. May block.

    Args:
        now: Seconds since the Unix epoch.
        voids: Messages whose fate a predecessor could not settle.

    Raises:
        apsw.Error, OSError: A file is damaged beyond what the store mends, or the disk fails.
    """
    repairs: list[str] = []
    number = shard.number
    segments = layout.numbers(disk, number, "seg")
    own_files = layout.numbers(disk, number, "body")
    shard.body_number = max([0, *segments, *own_files])
    in_doubt = 0
    named: set[int] = set()
    used: set[int] = set()
    for day in layout.days(disk, number):
        file = shard.day_file(day)
        connection = file.open(disk)
        if wal_octets(disk, file.path):
            leave_old_wal(connection)
        in_doubt += _read_state(shard, file, connection)
        named.update(own for (own,) in connection.execute("SELECT segment FROM message WHERE offset = -1"))
        used.update(found for (found,) in connection.execute("SELECT number FROM segment"))
        repairs += _mend_segment(file, connection, disk=disk, layout=layout)
    for own in own_files:
        if own not in named:
            disk.unlink(layout.own_file(number, own))
            repairs.append(f"Removed the body file {own:06d}, which no message names.")
    for unused in segments:
        if unused not in used:
            disk.unlink(layout.segment(number, unused))
            repairs.append(f"Removed segment {unused:06d}, which no committed message names.")
    repairs += _void(shard, voids)
    repairs += _finish_carrying(shard)
    if in_doubt:
        _hold_back(shard, until=now + limits.in_doubt_delay_s, now=now)
        repairs.append(f"Held back {in_doubt} recipients whose last attempt may have been delivered.")
    pending = 0
    for file in shard.files.values():
        connection = file.open(disk)
        file.pending = connection.execute("SELECT count(*) FROM recipient WHERE state = 0").get
        file.carries = connection.execute("SELECT EXISTS (SELECT 1 FROM recipient WHERE state = 4)").get == 1
        pending += file.pending
    shard.seq_durable = shard.seq_next - 1
    return RecoveryReport(number, pending, in_doubt, tuple(repairs))


def _read_state(shard: Shard, file: DayFile, connection: apsw.Connection) -> int:
    epoch, seq_floor, segment, segment_end = connection.execute(
        "SELECT epoch, seq_floor, segment, segment_end FROM state"
    ).get
    file.seq_last = connection.execute("SELECT coalesce(max(seq), 0) FROM event").get
    shard.epoch = max(shard.epoch, epoch)
    shard.seq_next = max(shard.seq_next, file.seq_last + 1, seq_floor)
    shard.body_number = max(shard.body_number, segment)
    file.segments.resume(segment, segment_end)
    flying: int = connection.execute(_FLYING).get
    return flying


def _mend_segment(file: DayFile, connection: apsw.Connection, *, disk: Disk, layout: Layout) -> list[str]:
    number, end = file.segments.number, file.segments.end
    repairs: list[str] = []
    if not number:
        return repairs
    path = layout.segment(file.shard, number)
    size = disk.size(path)
    if size > end:
        segment = disk.append(path)
        try:
            segment.truncate(end)
            segment.sync()
        finally:
            segment.close()
        repairs.append(f"Cut {size - end} octets off segment {number:06d}: no committed message names them.")
    elif size < end:
        repairs.append(f"Segment {number:06d} ends {end - max(size, 0)} octets early: bodies in it are lost.")
    spans = connection.execute(_NEWEST_BODIES, (number, _TAIL_CHECKED)).get
    for serial, offset, length, crc in msgspec.json.decode(spans, type=list[tuple[int, int, int, int]]):
        octets = disk.read(path, offset, length) if size >= 0 else b""
        if len(octets) != length or zlib.crc32(octets) != crc:
            repairs.append(f"The body of message {serial} in segment {number:06d} does not match its checksum.")
    if size < end:  # New bodies must not land where old rows point: the next one begins a new segment.
        file.segments.resume(0, 0)
    return repairs


def _void(shard: Shard, voids: Sequence[MessageKey]) -> list[str]:
    count = 0
    for file in shard.files.values():
        assert file.connection is not None
        mine = [key for key in voids if key.shard == shard.number and key.day == file.day]
        if mine:
            with file.connection:
                for key in mine:
                    file.void(key)
            count += len(mine)
    return [f"Voided {count} messages that were never acknowledged."] if count else []


def _finish_carrying(shard: Shard) -> list[str]:
    repairs = []
    for file in shard.files.values():
        assert file.connection is not None
        batch = list(file.connection.execute("SELECT serial, from_day FROM carry_batch"))
        count = 0
        for from_day in {day for _, day in batch}:
            older = shard.files.get(from_day)
            if older is None or older.connection is None:
                continue
            carried = msgspec.json.encode([[serial] for serial, day in batch if day == from_day]).decode()
            with older.connection:
                older.connection.execute(UNCOUNT, (older.connection.execute(COUNTED, (carried,)).get,))
                for serial, day in batch:
                    if day == from_day:
                        older.connection.execute(_MARK_CARRIED, (file.day, serial))
                        count += older.connection.changes()
        if count:
            repairs.append(f"Finished carrying {count} recipients into {file.path.rpartition('/')[2]}.")
    return repairs


def _hold_back(shard: Shard, *, until: float, now: float) -> None:
    for file in shard.files.values():
        assert file.connection is not None
        with file.connection:
            file.connection.execute(_IN_DOUBT, (until, now))
