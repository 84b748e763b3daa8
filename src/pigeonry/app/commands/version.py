"""``pigeonry version``."""

from __future__ import annotations

import platform
import ssl
import sys

from pigeonry import __version__
from pigeonry.app.output import Json, print_json

__all__ = ["version"]


def version(*, json: Json = False) -> None:
    """Say which release this is, and what it runs on."""
    import apsw

    facts = {
        "pigeonry": __version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }
    if json:
        print_json(facts)
    else:
        sys.stdout.write("".join(f"{name} {value}\n" for name, value in facts.items()))
