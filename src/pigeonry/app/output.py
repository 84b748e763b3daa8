"""What a command prints: JSON for machines, tables for people, errors with an exit status.

``--json`` prints one JSON value on standard output. Without it a person's view is printed; colour and boxes only
where standard output is a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app import exits
from pigeonry.app.config import ConfigInvalid
from pigeonry.app.installation import FolderUnusable
from pigeonry.app.sockets import AddressTaken
from pigeonry.domain.errors import Conflict, Fault, NotAllowed, NotAuthenticated, NotFound, PigeonryError
from pigeonry.net.sealing import SealKeyError
from pigeonry.stores.formats import NewerFormat, SchemaUnusable

__all__ = ["ConfigFile", "Json", "complain", "is_expected", "print_json", "print_rows", "toml_table"]

ConfigFile = Annotated[
    str | None,
    Parameter(
        name="--config", env_var="PIGEONRY_CONFIG", help="The TOML file with the settings. Left out: the defaults."
    ),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value and nothing else.")]


def print_json(value: Any) -> None:
    """One JSON value on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, none: str = "") -> None:
    """Rows for a person; tab-separated values where nobody looks.

    Args:
        none: What to say at a terminal when there are no rows.
    """
    texts = [[str(row.get(column, "")) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        for text in texts:
            sys.stdout.write("\t".join(text) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not texts and none:
        console.print(none, style="dim")
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for text in texts:
        table.add_row(*map(Text, text))
    console.print(table)


def complain(error: BaseException) -> int:
    """Say what went wrong on standard error; the exit status that stands for it."""
    sentences = error.problems if isinstance(error, ConfigInvalid) else [str(error) or type(error).__name__]
    for sentence in sentences:
        sys.stderr.write(f"pigeonry: {sentence}\n")
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), exits.FAILED)


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that a command may end with; any other is a fault of ours and shows its traceback."""
    return any(isinstance(error, kind) for kind, _ in _STATUSES)


_STATUSES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (ConfigInvalid, exits.CONFIG),
    (SealKeyError, exits.CONFIG),
    (FolderUnusable, exits.CONFIG),
    (NewerFormat, exits.CONFIG),
    (SchemaUnusable, exits.CONFIG),
    (AddressTaken, exits.FAILED),
    (NotFound, exits.NOT_FOUND),
    (Conflict, exits.CONFLICT),
    (NotAuthenticated, exits.AUTH),
    (NotAllowed, exits.AUTH),
    (Fault, exits.UNREACHABLE),
    (PigeonryError, exits.FAILED),
)


def toml_table(table: dict[str, Any], name: str) -> str:
    """A section in TOML, with its lists of tables below it."""
    inner = {key: value for key, value in table.items() if isinstance(value, list) and value and _is_table(value[0])}
    rows = "".join(f"{key} = {_toml(value)}\n" for key, value in table.items() if key not in inner)
    below = [
        f"\n[[{name}.{key}]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in row.items())
        for key, values in inner.items()
        for row in values
    ]
    return f"[{name}]\n{rows}" + "".join(below)


def _toml(value: Any) -> str:
    """A value as TOML has it: JSON, but for tables."""
    if _is_table(value):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return msgspec.json.encode(value).decode()


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)
