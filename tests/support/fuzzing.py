"""A fuzz target as a program: under atheris, or on octets made from a seed where atheris is not there."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable

RUNS = 20_000  # some seconds


def main(target: Callable[[bytes], None], generated: Callable[[random.Random], bytes]) -> None:
    """Run a target: ``[corpus]`` under atheris, ``--seed N [--runs N]`` without; the octets that break it are printed.

    Args:
        target: Raises when its invariant does not hold.
        generated: Octets that get further than noise would.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--runs", type=int, default=RUNS)
    known, rest = parser.parse_known_args()
    if known.seed is None:
        import atheris

        atheris.Setup([sys.argv[0], *rest], target)
        atheris.Fuzz()
    for run in range(known.runs):
        octets = generated(random.Random(f"{known.seed}:{run}"))
        try:
            target(octets)
        except BaseException:
            print(f"seed={known.seed} run={run} octets={octets!r}")
            raise
