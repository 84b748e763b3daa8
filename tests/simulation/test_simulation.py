"""Hundreds of seeds, each twice: every promise is kept, and the same seed is the same run to the last octet."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.harness import Run
from simulation.plan import DEDICATED, SHARED, SPARE, draw

SEEDS = 500
TOGETHER = 20  # seeds in one test, so that several processes can share the work
TESTS = Path(__file__).parent.parent


def told(seed: int, what: str) -> str:
    return f"seed={seed} {what}\nplay it again with its trace: pytest tests/simulation --seed {seed}"


def play_twice(seed: int, *, show: bool = False) -> str:
    """The trace of a seed that kept its promises, twice."""
    run = Run(draw(seed), keep=show)
    try:
        trace = run.play()
    except Exception as error:
        raise AssertionError(told(seed, f"broke its promises:\n{error}")) from error
    finally:
        if run.ledger.lines is not None:
            print("\n".join(run.ledger.lines))
    again = Run(draw(seed)).play()
    assert trace == again, told(seed, "took another course the second time")
    return trace


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        config = metafunc.config
        one = config.getoption("--seed", default=None)
        count = config.getoption("--seeds", default=None) or SEEDS
        metafunc.parametrize(
            ("first", "count"),
            [(one, 1)] if one is not None else [(n, min(TOGETHER, count - n)) for n in range(0, count, TOGETHER)],
        )


@pytest.mark.slow
def test_every_seed_keeps_the_promises_and_replays(first: int, count: int, request: pytest.FixtureRequest) -> None:
    show = request.config.getoption("--seed", default=None) is not None
    for seed in range(first, first + count):
        play_twice(seed, show=show)


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """Hashes of strings differ there, and so does every address in memory."""
    seeds = range(12)
    here = hashlib.sha256("".join(Run(draw(seed)).play() for seed in seeds).encode()).hexdigest()
    program = (
        "import hashlib\n"
        "from simulation.harness import Run\n"
        "from simulation.plan import draw\n"
        f"print(hashlib.sha256(''.join(Run(draw(s)).play() for s in range({len(seeds)})).encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
        there = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert there.stdout.strip() == here


def test_seeds_cover_what_can_go_wrong() -> None:
    """A simulation in which nothing happens proves nothing."""
    seen: set[str] = set()
    for seed in range(40):
        run = Run(draw(seed), keep=True)
        run.play()
        assert run.ledger.lines is not None
        text = "\n".join(run.ledger.lines)
        for what in (
            "crash power=True",
            "crash power=False",
            "refused",
            "StoreBusy",
            "StoreInDoubt",
            "stalls at",
            "breaks at reply",
            "breaks at dot",
            "refuse ",
            "silent ",
            "tls fails",
            "cannot be believed",
            "is-possible-duplicate",
            '"event":"delivered"',
            '"severity":"temporary"',
            '"severity":"permanent"',
            '"reason":"cancelled"',
            "retry ",
            '"code":650',
            '"code":498',
            "handing over",
            "handed over",
            "the clock is set back",
            "was carried",
            "in flight",
            " again",
            "leaves us",
            "comes to them",
            '"code":603',
            f"from {DEDICATED[0]}",
            f"from {SHARED[1]}",
            f"from {SPARE[0]}",
        ):
            if what in text:
                seen.add(what)
    assert len(seen) == 32, seen
