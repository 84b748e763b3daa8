"""What becomes of the files of the search index: damage, loss of power, retention. The log has it all again."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.net.disk import LocalDisk
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.event_index import IndexQuery, Term
from pigeonry.stores.sqlite.event_index import SqliteEventIndex
from pigeonry.stores.sqlite.event_index_file import IndexFile
from pigeonry.testing.power import ForgetfulDisk
from support.events import T0, SetClock, accepted, delivered, ids

DAY = 86_400.0
LOG = [(seq, accepted(seq, T0 + seq * DAY / 4)) for seq in range(1, 13)]  # three days and a bit, four events each
NOW = T0 + 5 * DAY
ALL = IndexQuery(domain="mail.example", begin_us=0, end_us=2**62, ascending=True, limit=100)


class Owner:
    """An index over a folder, and the log it is fed from."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock(NOW)
        self.files = folder / "shards" / "0000" / "index"
        self.folder = folder
        self.index = self.other()

    def other(self, *, moving: bool = False) -> SqliteEventIndex:
        return SqliteEventIndex(
            str(self.folder), disk=LocalDisk(str(self.folder)), lanes=ThreadLanes(), clock=self.clock, moving=moving
        )

    async def follow(self, upto: int = len(LOG), *, oldest: int = 1, level: bool = True) -> list[int]:
        """Feed what lies beyond the cursor, three at a time; the seqs that were fed."""
        fed = []
        while rest := [e for e in LOG[:upto] if max(await self.index.cursor(0) + 1, oldest) <= e[0]]:
            await self.index.feed(0, rest[:3])
            fed += [seq for seq, _ in rest[:3]]
        if level:
            await self.index.level({0: self.clock.now()})
        return fed

    async def reopen(self) -> None:
        await self.index.close()
        self.index = self.other()

    async def holds(self) -> list[int]:
        return ids(await self.index.search(ALL))

    def remove_first_day(self) -> None:
        for path in self.files.glob(f"{self.days()[0].name}*"):
            path.unlink()

    def days(self) -> list[Path]:
        return sorted(self.files.glob("*.db"))


@pytest.fixture
async def owner(tmp_path: Path):
    owner = Owner(tmp_path)
    yield owner
    await owner.index.close()


EVERY = list(range(1, 13))


async def test_index_goes_on_where_it_was(owner: Owner):
    await owner.follow(7)
    await owner.reopen()
    assert await owner.index.cursor(0) == 7
    assert await owner.follow() == [8, 9, 10, 11, 12]
    assert await owner.holds() == EVERY


@pytest.mark.parametrize("which", [0, 1, 2, 3])
async def test_damaged_file_is_replaced_and_only_its_events_come_again(owner: Owner, which: int):
    await owner.follow()
    before = await owner.index.search(ALL)
    await owner.index.close()
    owner.days()[which].write_bytes(b"SQLite format 3\0" + b"\x5a" * 20_000)
    owner.index = owner.other()
    cursor = await owner.index.cursor(0)
    fed = await owner.follow()
    assert fed[0] == cursor + 1
    assert 1 <= len(fed) <= 6
    assert await owner.index.search(ALL) == before
    assert await owner.index.cursor(0) == 12


async def test_damage_that_a_reader_finds_is_mended_by_the_owner(owner: Owner):
    await owner.follow()
    await owner.reopen()
    await owner.index.cursor(0)
    path = owner.days()[1]
    octets = bytearray(path.read_bytes())
    octets[8192:] = b"\x5a" * (len(octets) - 8192)
    path.write_bytes(octets)
    reader = owner.other()
    with pytest.raises(StoreBusy):
        await reader.search(ALL)
    owner.clock.time += 11.0
    await owner.index.level({0: owner.clock.now()})
    assert await owner.index.cursor(0) < 8
    await owner.follow()
    assert ids(await reader.search(ALL)) == EVERY
    await reader.close()


async def test_end_of_yesterday_that_a_power_cut_took_comes_again(owner: Owner, tmp_path: Path):
    await owner.follow(5, level=False)
    await owner.index.close()
    day = owner.days()[-1]
    shutil.copy(day, tmp_path / "older")
    owner.index = owner.other()
    await owner.follow()
    before = await owner.index.search(ALL)
    await owner.index.close()
    assert owner.days()[-1] != day
    shutil.copy(tmp_path / "older", day)
    owner.index = owner.other()
    assert await owner.index.cursor(0) == 5
    await owner.follow()
    assert await owner.index.search(ALL) == before


async def test_what_is_lost_holds_the_watermark_until_it_is_back(owner: Owner):
    await owner.follow()
    await owner.index.close()
    for path in owner.days():
        path.unlink()
    owner.index = owner.other()
    await owner.index.cursor(0)
    await owner.index.feed(0, LOG[:4])
    assert await owner.index.watermark() < T0 + 2 * DAY
    await owner.follow()
    assert await owner.holds() == EVERY
    assert await owner.index.watermark() > NOW - 1


async def test_gap_that_the_log_has_nothing_for_any_more_is_passed_over(owner: Owner):
    await owner.follow()
    await owner.index.close()
    owner.days()[0].write_bytes(b"nothing")
    owner.index = owner.other()
    assert await owner.index.cursor(0) == 0
    await owner.follow(oldest=9)
    assert await owner.index.cursor(0) == 12
    assert set(await owner.holds()) >= {9, 10, 11, 12}


async def test_old_days_are_retired_and_readers_let_go_of_them(owner: Owner):
    await owner.follow()
    reader = owner.other()
    assert ids(await reader.search(ALL)) == EVERY
    kept = len(owner.days())
    await owner.index.retire(before=T0 + DAY)
    assert len(owner.days()) == kept - 1
    assert ids(await reader.search(ALL)) == await owner.holds() != EVERY
    await owner.reopen()
    assert await owner.index.cursor(0) == 12
    await owner.index.retire(before=NOW)
    assert len(owner.days()) == 1  # the one that says where to go on
    await reader.close()


async def test_what_could_not_be_written_is_not_counted_and_comes_again(owner: Owner, monkeypatch):
    await owner.follow(5)
    add = IndexFile.add

    def full(*_):
        raise apsw.FullError("disk full")

    monkeypatch.setattr(IndexFile, "add", full)
    with pytest.raises(StoreBusy):
        await owner.index.feed(0, LOG[5:8])
    assert await owner.index.cursor(0) == 5
    monkeypatch.setattr(IndexFile, "add", add)
    await owner.follow()
    assert await owner.holds() == EVERY
    late = (await owner.index.search(ALL)).items[5][0]
    assert late.time_us > (NOW - 1) * 1e6  # the failed attempt is not taken for an earlier reading


async def test_loss_of_power_takes_no_more_than_the_end(tmp_path: Path):
    clock = SetClock(NOW)
    disk = ForgetfulDisk(LocalDisk(str(tmp_path)))
    index = SqliteEventIndex(str(tmp_path), disk=disk, lanes=ThreadLanes(), clock=clock)
    await index.cursor(0)
    await index.feed(0, LOG)
    again = SqliteEventIndex(str(tmp_path / "copy"), disk=LocalDisk(str(tmp_path)), lanes=ThreadLanes(), clock=clock)
    shutil.copytree(tmp_path / "shards", tmp_path / "copy" / "shards")  # what reached the disk
    cursor = await again.cursor(0)
    assert cursor <= 12
    await again.feed(0, LOG[cursor:])
    assert ids(await again.search(ALL)) == EVERY
    await again.close()
    await index.close()


async def test_page_is_given_in_parts_when_looking_takes_long(owner: Owner):
    await owner.follow()

    class Hurried(SetClock):
        def monotonic(self) -> float:
            self.time += 0.1
            return self.time

    await owner.index.feed(0, [(seq, accepted(seq, NOW)) for seq in range(13, 400)])
    owner.clock.time += 1
    hurried = SqliteEventIndex(
        str(owner.folder), disk=LocalDisk(str(owner.folder)), lanes=ThreadLanes(), clock=Hurried(NOW)
    )
    rare = Term("has", "from", "nobody")
    page = await hurried.search(IndexQuery("mail.example", 0, 2**62, ascending=True, limit=5, where=rare))
    assert page.items == ()
    looks = 1
    while page.upto is not None:
        looks += 1
        query = IndexQuery("mail.example", 0, 2**62, ascending=True, limit=5, where=rare, after=page.upto)
        page = await hurried.search(query)
    assert looks >= 3
    await hurried.close()


@pytest.mark.parametrize("ascending", [True, False])
async def test_skipping_events_of_other_kinds_goes_on_where_it_stopped(owner: Owner, monkeypatch, ascending: bool):
    """SQLite skips what is of another kind in one step, so a step must not be long."""
    monkeypatch.setattr("pigeonry.stores.sqlite.event_index_reader._WINDOW_ROWS", 7)
    owner.clock.time = T0 + 100
    made = [delivered(i, T0 + i) if i in {3, 30} else accepted(i, T0 + i) for i in range(1, 40)]
    await owner.index.feed(0, list(enumerate(made, 1)))
    query = IndexQuery("mail.example", 0, 2**62, ascending=ascending, limit=9, where=Term("is", "event", "delivered"))
    found, looks = [], 0
    while True:
        page = await owner.index.search(query)
        found += ids(page)
        looks += 1
        if page.upto is None:
            break
        query = msgspec.structs.replace(query, after=page.upto)
    assert found == ([3, 30] if ascending else [30, 3])
    assert looks > 4


async def test_what_was_deleted_from_a_file_is_restored_where_it_stood(owner: Owner):
    await owner.follow()
    before = (await owner.index.search(ALL)).items
    for path in owner.days():
        db = apsw.Connection(str(path))
        db.execute("DELETE FROM event WHERE seq IN (2, 3, 4, 7, 12)")
        db.close()
    assert len(await owner.holds()) == len(before) - 5
    assert await owner.index.restore(0, LOG) == 5
    assert (await owner.index.search(ALL)).items == before
    assert await owner.index.restore(0, LOG) == 0


async def test_a_file_that_is_gone_is_begun_anew_by_restoring(owner: Owner):
    await owner.follow()
    before = (await owner.index.search(ALL)).items
    owner.remove_first_day()
    await owner.index.restore(0, LOG)
    await owner.follow()
    assert (await owner.index.search(ALL)).items == before


async def test_what_came_while_another_node_had_the_shard_is_placed_by_its_time(owner: Owner):
    await owner.index.close()
    owner.index = owner.other(moving=True)
    owner.clock.time = T0 + 1.5 * DAY
    await owner.follow(4)
    await owner.index.give_up(0)
    owner.clock.time = NOW
    assert await owner.follow() == EVERY[4:]
    places = [mark.time_us for mark, _ in (await owner.index.search(ALL)).items]
    assert places[4:] == [round((T0 + seq * DAY / 4) * 1e6) for seq in EVERY[4:]]


async def test_old_days_of_a_shard_that_went_elsewhere_are_removed_and_the_last_one_stays(owner: Owner):
    await owner.index.close()
    owner.index = owner.other(moving=True)
    await owner.follow()
    days = [path.name for path in owner.days()]
    await owner.index.retire(before=T0 + 1.5 * DAY)
    assert [path.name for path in owner.days()] == days[1:]
    await owner.index.give_up(0)
    await owner.index.retire(before=NOW)
    assert [path.name for path in owner.days()] == days[-1:]
    assert await owner.index.cursor(0) == 12
