"""Chance and identity from a seed, so that a run can be played again."""

from __future__ import annotations

import hashlib
from random import Random  # noqa: TID251  # these are the Dice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SeededDice", "SeededIds"]

T = TypeVar("T")


class SeededDice:
    """Dice that always fall the same way for the same seed.

    Args:
        seed: Any text.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._random = Random(seed)  # noqa: S311  # replaying needs a generator that anybody can predict
        self.random = self._random.random

    def fork(self, name: str) -> SeededDice:
        """Dice of their own for a part, so that one part's throws do not shift another's."""
        return SeededDice(f"{self._seed}/{name}")

    def chance(self, probability: float) -> bool:
        """Whether it happens this time."""
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return low + (high - low) * self.random()

    def count(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self.random() * (high - low + 1))

    def choose(self, of: Sequence[T]) -> T:
        """One of them."""
        return of[int(self.random() * len(of))]


class SeededIds:
    """Octets that anybody can guess who knows the seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def octets(self, count: int) -> bytes:
        """So many octets, others each time."""
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(count)
