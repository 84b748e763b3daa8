import pytest

from pigeonry.stores.formats import NewerFormat
from pigeonry.stores.sqlite.layout import Layout, day_of, establish
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk

LAYOUT = Layout("/q")


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SeededDice(1))


def write(disk: FaultyDisk, path: str, octets: bytes) -> None:
    file = disk.append(path)
    file.write(octets)
    file.sync()
    file.close()


def test_the_number_of_shards_only_grows(disk: FaultyDisk) -> None:
    assert establish(LAYOUT, disk, shards=4, slot=0).shards == 4
    assert establish(LAYOUT, disk, shards=64, slot=1).shards == 64
    assert establish(LAYOUT, disk, shards=16, slot=0).shards == 64


def test_a_store_of_a_newer_release_is_refused(disk: FaultyDisk) -> None:
    write(disk, "/q/store.json", b'{"format":2,"shards":4}')
    with pytest.raises(NewerFormat, match="newer release"):
        establish(LAYOUT, disk, shards=4, slot=0)


@pytest.mark.parametrize("octets", [b"", b"{", b'{"format":1}', b"\x00" * 40])
def test_a_spoilt_promise_is_refused_and_not_guessed_at(disk: FaultyDisk, octets: bytes) -> None:
    write(disk, "/q/store.json", octets)
    with pytest.raises(ValueError, match="cannot be read"):
        establish(LAYOUT, disk, shards=4, slot=0)


@pytest.mark.parametrize("shards", [0, -1, 4097])
def test_a_number_of_shards_that_keys_cannot_hold_is_refused(disk: FaultyDisk, shards: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 4096"):
        establish(LAYOUT, disk, shards=shards, slot=0)
    assert disk.size("/q/store.json") < 0


def test_days_are_named_by_date_and_what_is_not_ours_is_left_alone(disk: FaultyDisk) -> None:
    for name in ("2026-11-24.db", "2026-11-23.db", "2026-11-24.db-wal", "notes.db", "lock"):
        write(disk, f"/q/shards/0003/{name}", b"x")
    assert LAYOUT.days(disk, 3) == [20780, 20781]
    assert LAYOUT.day_file(3, 20781) == "/q/shards/0003/2026-11-24.db"
    assert day_of(20781 * 86400.0) == 20781
    assert day_of(20781 * 86400.0 - 0.001) == 20780
