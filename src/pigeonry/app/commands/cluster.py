"""``pigeonry cluster ...``: the certificates that nodes show each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pigeonry.app.output import Json, print_json, print_rows
from pigeonry.app.settings import NODE_NAME
from pigeonry.domain.errors import BadRequest

__all__ = ["make_certs"]


def make_certs(
    folder: Annotated[Path, Parameter(name="DIR", help="Where they are kept. The authority's key is looked for here.")],
    /,
    *,
    node: Annotated[
        list[str], Parameter(help="Name of a node, as `[node] name` has it; may be given more than once.", negative="")
    ],
    days: Annotated[int, Parameter(help="Days that a node's certificate is valid.")] = 365,
    json: Json = False,
) -> None:
    """Make the certificates of a cluster's nodes, or renew them; and its authority the first time.

    Each node needs `ca.crt`, `NAME.crt` and `NAME.key`. `ca.key` goes to no node: who has it can make himself a member.
    """
    from pigeonry.app.cluster_certificates import make_certificates
    from pigeonry.net.environment import SystemClock

    for name in node:
        if not re.fullmatch(NODE_NAME, name):
            raise BadRequest(f"--node: {name!r} is no name of a node, such as node-1 or mx1.example.org")
    if not 1 <= days <= 3_650:
        raise BadRequest("--days: is between 1 and 3650")
    try:
        written = make_certificates(folder, node, now=SystemClock().now(), days=days)
    except OSError as error:
        raise BadRequest(f"{error.filename or folder} cannot be used: {error.strerror}") from None
    if json:
        print_json({"files": [str(path) for path in written]})
        return
    print_rows([{"file": str(path)} for path in written], ("file",))
