"""Options of the simulation: ``--seed N`` plays one seed and shows its trace, ``--seeds N`` says how many to play."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="Play only this seed of the simulation, with its trace.")
    parser.addoption("--seeds", type=int, default=None, help="How many seeds of the simulation to play.")
