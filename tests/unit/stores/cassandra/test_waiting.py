"""Recipients that wait are found in the order in which they fall due, whatever came and went."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pigeonry.domain.message import MessageKey, Pending
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.cassandra.waiting import Waiting

DUE = st.floats(min_value=0.0, max_value=400.0, allow_nan=False)
STEPS = st.lists(st.tuples(st.integers(1, 12), st.none() | DUE), max_size=60)


def pending(serial: int, due: float) -> Pending:
    return Pending(MessageKey(3, 1, serial), serial, 1, "r@y.test", due, "acct", "x.test", "", 1e12)


@given(STEPS, DUE, st.integers(0, 13), DUE)
def test_a_page_is_all_beyond_the_mark_up_to_the_time_in_order(steps, after_due, after_serial, until):
    waiting, model = Waiting(objects_max=3), dict[int, float]()
    for serial, due in steps:
        if due is None:
            assert waiting.remove(serial) == (model.pop(serial, None) is not None)
        else:
            waiting.put(pending(serial, due))
            model[serial] = due
    mark = DueMark(after_due, 3, after_serial)
    found = [(each.due, each.serial) for each in waiting.due(after=mark, until=until, shard=3)]
    wanted = sorted((due, serial) for serial, due in model.items() if due <= until)
    assert found == [each for each in wanted if each > (after_due, after_serial)]
    assert len(waiting) == len(model)
    assert sorted(waiting.serials()) == sorted(model)


def test_who_is_due_never_or_was_due_always_is_found_too():
    waiting = Waiting()
    for serial, due in enumerate((1e300, -1e300, 5.0), 1):
        waiting.put(pending(serial, due))
    found = waiting.due(after=DueMark(-math.inf), until=math.inf, shard=3)
    assert [each.serial for each in found] == [2, 3, 1]


@given(st.integers(0, 5), st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(("", "pool")))
def test_one_that_is_kept_as_octets_comes_back_as_it_was(index, address, pool):
    first = Pending(MessageKey(3, 20_001, 9 << 40), 9 << 40, 20_002, address, 5.5, "acct", "x.test", pool, 1e12)
    again = msgspec.structs.replace(
        first,
        serial=first.serial + index,
        attempts=7,
        first_attempt_at=1.25,
        in_doubt=True,
        tenant="other",
        accepted_minute=29_000_000,
    )
    kept_by_default = [name for name, default in _defaults() if getattr(again, name) == default]
    assert not kept_by_default  # or whether it came back could not be seen
    waiting = Waiting(objects_max=0)
    for each in (first, again):
        waiting.put(each)
        assert waiting.get(each.serial) == each
    waiting.remove(first.serial)
    waiting.remove(again.serial)
    waiting.put(again)
    assert waiting.get(again.serial) == again
    assert waiting.get(first.serial + 6) is None


def _defaults() -> list[tuple[str, object]]:
    names = Pending.__struct_fields__[-len(Pending.__struct_defaults__) :]
    return list(zip(names, Pending.__struct_defaults__, strict=True))
