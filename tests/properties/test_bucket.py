"""A token bucket gives at most its limit and one more for each period, and all of that to who asks for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.ports.buckets import Bucket, Rate
from pigeonry.quota.bucket import block, drawn, given_back, wait_s

RATES = st.builds(Rate, st.integers(1, 100_000), st.floats(0.1, 86_400.0))
STEPS = st.lists(st.tuples(st.floats(-10.0, 1_000.0), st.integers(0, 5_000), st.booleans()), max_size=60)


@given(rate=RATES, steps=STEPS)
def test_whatever_is_drawn_and_given_back_in_any_order_never_more_than_the_rate_is_used(
    rate: Rate, steps: list[tuple[float, int, bool]]
) -> None:
    bucket: Bucket | None = None
    now = furthest = 1_000_000.0
    used, held = 0, 0
    for later, want, back in steps:
        now += later
        furthest = max(furthest, now)
        if back:
            bucket = given_back(bucket, rate, held, now)
            held = 0
            continue
        bucket, taken = drawn(bucket, rate, want, now)
        used, held = used + taken - taken // 2, held + taken // 2
        assert 0.0 <= bucket.level <= rate.limit
        allowed = rate.limit + (furthest - 1_000_000.0) * rate.limit / rate.period_s
        assert used + held <= allowed + 1e-6 * max(1.0, allowed)


@given(rate=RATES, want=st.integers(1, 100_000), spent=st.integers(0, 100_000))
def test_after_the_time_that_it_says_there_is_enough_and_not_before(rate: Rate, want: int, spent: int) -> None:
    want = min(want, rate.limit)
    bucket, _ = drawn(None, rate, spent, 0.0)
    wait = wait_s(bucket, rate, want)
    _, early = drawn(bucket, rate, want, wait * 0.99 - 1e-3)
    _, then = drawn(bucket, rate, want, wait * (1 + 1e-9) + 1e-6)
    assert then == want or wait == 0.0
    assert early < want or wait <= 1e-3


@given(rate=RATES)
def test_a_block_is_a_thousandth_or_one(rate: Rate) -> None:
    assert block(rate) == max(1, rate.limit // 1_000)
