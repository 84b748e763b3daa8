"""What a drill prints: one line per figure beside its bar, and a timeline."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pigeonry.ports.environment import Clock

__all__ = ["Figure", "Report"]


class Figure(msgspec.Struct, frozen=True):
    """One measured figure.

    Args:
        name: What was measured, with its unit.
        value: What came out.
        bar: What it is held against, as people read it.
        met: Whether it holds.
    """

    name: str
    value: str
    bar: str
    met: bool


class Report:
    """Collects figures and the timeline of one drill."""

    def __init__(self, name: str, clock: Clock, show: Callable[[str], None]) -> None:
        self.name = name
        self.figures: list[Figure] = []
        self.timeline: list[tuple[float, str]] = []
        self._clock = clock
        self._started = clock.monotonic()
        self._show = show

    def happened(self, what: str) -> None:
        """Add to the timeline, and show it as progress."""
        at = self._clock.monotonic() - self._started
        self.timeline.append((at, what))
        self._show(f"{at:8.1f} s  {what}")

    def none_of(self, name: str, count: int) -> None:
        """A figure whose bar is zero."""
        self.figures.append(Figure(name, str(count), "0", count == 0))

    def exactly(self, name: str, value: int, bar: int) -> None:
        """A figure that must be met to the unit."""
        self.figures.append(Figure(name, str(value), str(bar), value == bar))

    def at_most(self, name: str, value: float, bar: float) -> None:
        """A figure that must not be over its bar; seconds, mostly."""
        self.figures.append(Figure(name, f"{value:.2f}", f"<= {bar:g}", value <= bar))

    def broke_off(self, why: str) -> None:
        """The drill could not go on to its end, so no bar counts as met."""
        self.happened(why)
        self.figures.append(Figure(why, "broke off", "to its end", False))

    def noted(self, name: str, value: str) -> None:
        """A figure without a bar."""
        self.figures.append(Figure(name, value, "-", True))  # a fact, not an option

    @property
    def met(self) -> bool:
        """Whether every bar was met."""
        return all(figure.met for figure in self.figures)

    def text(self) -> str:
        """The figures as a table."""
        width = max((len(figure.name) for figure in self.figures), default=0)
        lines = [
            f"{'ok  ' if figure.met else 'FAIL'}  {figure.name:<{width}}  {figure.value:>14}  bar {figure.bar}"
            for figure in self.figures
        ]
        return "\n".join([f"drill {self.name}", *lines])

    def record(self) -> str:
        """The figures and the timeline, to be kept."""
        timeline = [f"{at:8.1f} s  {what}" for at, what in self.timeline]
        return "\n".join([self.text(), "", "timeline", *timeline, ""])
