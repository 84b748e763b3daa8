"""Tests that are run on both event loops: the one of the standard library, and the one that nodes run on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A coroutine function as a test that is run on each loop; its parameters are fixtures as ever."""

    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=FACTORIES[loop]) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    own = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", sorted(FACTORIES))(run)
    return marked
