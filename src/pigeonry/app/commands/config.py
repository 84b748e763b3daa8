"""``pigeonry config check|show|schema``."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from pigeonry.app import exits
from pigeonry.app.config import ConfigInvalid, load, resolved
from pigeonry.app.output import ConfigFile, Json, complain, print_json, toml_table
from pigeonry.app.settings import Settings

__all__ = ["check", "schema", "show"]


def check(*, config: ConfigFile = None, json: Json = False) -> int:
    """Say every problem of the configuration; exit status 3 when there is one."""
    try:
        load(config, os.environ)
    except ConfigInvalid as error:
        if not json:
            return complain(error)
        print_json({"valid": False, "problems": error.problems})
        return exits.CONFIG
    if json:
        print_json({"valid": True, "problems": []})
    else:
        sys.stdout.write("The configuration is valid.\n")
    return exits.OK


def show(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print the settings as they would be used. There is no secret among them: they name files that hold secrets."""
    tables: dict[str, dict[str, Any]] = msgspec.to_builtins(resolved(load(config, os.environ), os.environ))
    if json:
        print_json(tables)
        return
    for name, table in tables.items():
        sys.stdout.write(toml_table(table, name) + "\n")


def schema(*, json: Json = False) -> None:
    """Print the JSON Schema of the file, for editors."""
    if json:
        print_json(msgspec.json.schema(Settings))
        return
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Settings)), indent=2).decode() + "\n")
