from pigeonry.stores.sqlite.layout import Layout
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.shard import Shard
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk


def shard() -> Shard:
    disk = FaultyDisk(SeededDice(1))
    return Shard(3, disk=disk, layout=Layout("/q"), limits=Limits(), lock=disk.lock("/q/lock"))


def test_nothing_is_shown_beyond_an_event_that_is_still_to_be_voided() -> None:
    one = shard()
    one.seq_durable = 9
    assert one.seq_visible() == 9
    one.doubts = {100: 7, 200: 5}
    assert one.seq_visible() == 4
    one.doubts = {100: 12}
    assert one.seq_visible() == 9


def test_serials_of_a_later_opening_are_over_all_of_an_earlier_one() -> None:
    one, two = shard(), shard()
    one.start_accepting(epoch=1, day=20_000)
    two.start_accepting(epoch=2, day=20_000)
    earlier = [one.allocate(1_000_000) for _ in range(1_000)]
    assert earlier[-1].serial + 1_000_000 <= two.allocate(1).serial
    assert [key.serial for key in earlier[:2]] == [1 << 40, (1 << 40) + 1_000_000]


def test_a_key_without_recipients_still_has_a_serial_of_its_own() -> None:
    one = shard()
    one.start_accepting(epoch=1, day=20_000)
    assert one.allocate(0) != one.allocate(0)
