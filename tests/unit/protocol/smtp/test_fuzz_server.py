"""A small, seeded share of tests/fuzz/smtp_server.py in every run."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest


def fuzz() -> ModuleType:
    path = Path(__file__).parents[3] / "fuzz" / "smtp_server.py"
    spec = importlib.util.spec_from_file_location("fuzz_smtp_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(4))
def test_any_octets_leave_the_server_sound(seed: int) -> None:
    module = fuzz()
    for run in range(150):
        module.target(module.generated(random.Random(f"{seed}:{run}")))
