"""Writes the reference pages that are made from the code: settings, metrics, commands.

``python -m pigeonry.app.reference FOLDER`` writes them; a test says when what is committed is not what the code says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from pigeonry.app.cli import program
from pigeonry.app.config import rows_of
from pigeonry.app.settings import Settings
from pigeonry.telemetry.metrics import CATALOGUE

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {"settings.md": _settings(), "metrics.md": _metrics(), "cli.md": _commands()}


_HEAD: Final = ("| key | default | bounds | |", "|---|---|---|---|")


def _settings() -> str:
    lines = [
        "# Settings",
        "",
        "`pigeonry serve --config FILE` reads one TOML file. `PIGEONRY_SECTION__KEY` in the environment comes after",
        'it: a list there is `a,b` or TOML\'s `["a", "b"]`. An unknown key is an error. `pigeonry config check` says',
        "every problem at once, `show` prints what would be used, `schema` describes the file to an editor. No secret",
        "stands in it, only the path of a file that holds one. SIGHUP reads it again, but for `node` and `ops`.",
        "",
        "This page is made from the code.",
    ]
    schema = msgspec.json.schema(Settings)["$defs"]
    for section in msgspec.structs.fields(Settings):
        described: dict[str, Any] = schema[section.type.__name__]
        lines += [
            "",
            f"## [{section.name}]",
            "",
            described["description"],
            "",
            *_HEAD,
        ]
        lines += _rows(section.type, described)
        for field in msgspec.structs.fields(section.type):
            if (kind := rows_of(field.type)) is not None:
                inner = schema[kind.__name__]
                lines += ["", f"### [[{section.name}.{field.name}]]", "", inner["description"], ""]
                lines += [*_HEAD, *_rows(kind, inner)]
    return "\n".join(lines) + "\n"


def _rows(kind: type, described: dict[str, Any]) -> list[str]:
    rows = []
    for field in msgspec.structs.fields(kind):
        facts = described["properties"][field.name]
        factory = field.default_factory
        value = field.default if factory is msgspec.NODEFAULT else factory()
        default = "" if field.required else f"`{msgspec.json.encode(value).decode()}`"
        rows.append(f"| `{field.name}` | {default} | {_bounds(facts)} | {facts['description']} |")
    return rows


def _bounds(facts: dict[str, Any]) -> str:
    if "enum" in facts:
        return ", ".join(f"`{value}`" for value in facts["enum"])
    words = {
        "minimum": "{} or more",
        "exclusiveMinimum": "over {}",
        "maximum": "at most {}",
        "maxItems": "at most {} of them",
    }
    return ", ".join(text.format(facts[name]) for name, text in words.items() if name in facts)


def _metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "`/metrics` on the ops listener (`[ops] listen`), in Prometheus' text format. Each worker's samples carry the",
        "label `worker`. `process_*` are Prometheus' own for a process. This page is made from the code.",
        "",
        "| metric | type | labels | |",
        "|---|---|---|---|",
        "| `pigeonry_worker_restarts_total` | counter | | Workers started again after they ended unasked. |",
        "| `pigeonry_worker_up` | gauge | `worker` | Whether the worker of a slot answers. |",
    ]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"


def _commands() -> str:
    made = program().generate_docs(output_format="markdown", heading_level=1)
    return "\n".join(line.rstrip() for line in made.splitlines()).rstrip() + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
