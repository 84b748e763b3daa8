"""``pigeonry cluster ...``: how the members stand, and the certificates that nodes show each other."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app import exits
from pigeonry.app.local import cluster_status
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.app.settings import NODE_NAME
from pigeonry.domain.errors import BadRequest

__all__ = ["make_certs", "status"]

SHOWN_MAX: Final = 20  # numbers of shards on one line; --json has all


def status(*, config: ConfigFile = None, json: Json = False) -> int:
    """Print the members of the cluster, what each owns, and whether it answers this node.

    The exit status is 4 when a member does not answer, and 1 when a shard is nobody's.
    """
    found = asyncio.run(cluster_status(config))
    if json:
        print_json(found)
    else:
        columns = ("member", "address", "location", "state", "shards", "open", "release", "problem")
        print_rows([msgspec.structs.asdict(member) for member in found.members], columns)
        if found.unowned:
            numbers = ", ".join(map(str, found.unowned[:SHOWN_MAX]))
            sys.stderr.write(f"pigeonry: {len(found.unowned)} of {found.shards} shards are nobody's: {numbers}\n")
    if any(member.problem for member in found.members):
        return exits.UNREACHABLE
    return exits.FAILED if found.unowned else exits.OK


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
