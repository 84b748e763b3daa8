"""Joins the metrics of several processes into one page, each sample with the process's own label.

Standards: Prometheus text exposition format 0.0.4: one HELP and TYPE per family, its samples together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["merge"]


def merge(pages: Mapping[str, bytes], *, label: str) -> bytes:
    """One page out of many.

    Args:
        pages: Exposition of each process by what its ``label`` is to say.
        label: Name of the label that tells them apart.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for value, page in pages.items():
        own = f'{label}="{value}"'
        family = ""
        for line in page.decode().splitlines():
            if line.startswith("#"):
                _, kind, family, *_ = line.split(" ", 3)
                head = heads.setdefault(family, [])
                if not any(known.startswith(f"# {kind} ") for known in head):
                    head.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, own))
    lines = [line for family, rows in samples.items() for line in (*heads.get(family, ()), *rows)]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _labelled(sample: str, own: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{own}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{own}}} {value}"
