"""What a command of the shell reaches on its own node: the documents in their files, the workers by their sockets.

A worker passes on what another is to do, on this node or elsewhere, so the shell needs no certificate and no store.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.app import exits
from pigeonry.app.cluster_status import Status, Written, status_of
from pigeonry.app.commanding import Forwarded, ask_beside
from pigeonry.app.config import default_data, load, own_hostname, sealing_key_path, worker_count
from pigeonry.app.installation import check_owner, prepare
from pigeonry.domain.errors import OwnerUnreachable
from pigeonry.doors.commands.client import NobodyListens
from pigeonry.doors.commands.owners import Told
from pigeonry.doors.commands.wire import Command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pigeonry.app.accounts import Accounts
    from pigeonry.app.settings import Settings

__all__ = [
    "ask_any_worker",
    "ask_every_worker",
    "ask_owner",
    "cluster_status",
    "names_of",
    "node_data",
    "open_accounts",
    "tell_left_out",
]

ASK_S: Final = 30.0  # what an owner may take for a command


def node_data(config: str | None) -> tuple[Settings, str]:
    """The settings and the absolute data folder, which may not be there yet.

    Raises:
        ConfigInvalid: The configuration cannot be used.
        FolderUnusable: The folder is another user's.
    """
    settings = load(config, os.environ)
    data = Path(default_data(settings, os.environ)).absolute()
    check_owner(data)
    return settings, str(data)


@contextlib.asynccontextmanager
async def open_accounts(config: str | None) -> AsyncIterator[Accounts]:
    """Accounts over this node's Identity and Directory, whether it runs or not; a new installation is made.

    Raises:
        ConfigInvalid, FolderUnusable, SealKeyError, SchemaUnusable, NewerFormat, Fault: As said there.
    """
    from pigeonry.app.accounts import Accounts
    from pigeonry.app.egress import addresses_of
    from pigeonry.app.engines import open_documents
    from pigeonry.auth.passwords import Passwords
    from pigeonry.net.environment import SystemClock, SystemDice, SystemIds
    from pigeonry.net.lanes import ThreadLanes
    from pigeonry.net.sealing import load_seal

    settings, data = node_data(config)
    seal_key = sealing_key_path(settings, os.environ)
    prepare(data, seal_key)
    lanes, clock, ids = ThreadLanes(), SystemClock(), SystemIds()
    async with open_documents(settings, data=data, lanes=lanes, clock=clock, dice=SystemDice(), ids=ids) as documents:
        yield Accounts(
            identity=documents.identity,
            directory=documents.directory,
            passwords=Passwords(lanes.lane("passwords")),
            seal=load_seal(Path(seal_key)),
            clock=clock,
            ids=ids,
            lane=lanes.lane("keys"),
            hostname=own_hostname(settings),
            pools=[pool.id for pool in settings.egress.pools],
            addresses=addresses_of(settings.egress),
        )


async def ask_owner(config: str | None, name: str, *, shard: int, argument: Any) -> Any:
    """Have the worker that owns a shard do something, on whichever node it is.

    Raises:
        OwnerUnreachable: It does not answer.
    """
    return await ask_any_worker(config, "forward", Forwarded(name, argument, shard), first=shard)


async def ask_every_worker(config: str | None, name: str, argument: Any = None) -> Sequence[Told]:
    """Have each worker of the installation do something, on all its nodes; what each answered.

    Raises:
        OwnerUnreachable: No worker of this node answers.
    """
    told = await ask_any_worker(config, "forward.all", Forwarded(name, argument))
    return msgspec.convert(told, type=list[Told])


def names_of(silent: Sequence[Told]) -> list[str]:
    """The workers that did not answer, as JSON names them."""
    return [f"{told.node}/{told.slot}" for told in silent]


def tell_left_out(silent: Sequence[Told]) -> int:
    """Say on standard error who did not answer; the command's exit status."""
    for told in silent:
        sys.stderr.write(f"pigeonry: worker {told.node}/{told.slot} is left out: {told.problem}\n")
    return exits.UNREACHABLE if silent else exits.OK


async def cluster_status(config: str | None) -> Status:
    """How the cluster stands, asked through a worker of this node.

    Raises:
        OwnerUnreachable: None answers.
        StoreBusy: It cannot be found out.
    """
    written = msgspec.convert(await ask_any_worker(config, "cluster.show"), type=Written)
    return status_of(written, await ask_every_worker(config, "member.show"))


async def ask_any_worker(config: str | None, name: str, argument: Any = None, *, first: int = 0) -> Any:
    """Have a worker of this node do something.

    Args:
        first: Where to begin to look for one that listens; the owner of the shard of this number, in a node alone.

    Raises:
        OwnerUnreachable: None does.
    """
    settings, data = node_data(config)
    beside, workers = ask_beside(data), worker_count(settings)
    for turn in range(workers):
        command = Command(name, msgspec.to_builtins(argument), slot=(first + turn) % workers, within_s=ASK_S)
        with contextlib.suppress(NobodyListens):
            return await beside(command)
    raise OwnerUnreachable(
        f"No worker of the node in {data} answers: does `pigeonry serve` run with this configuration?"
    )
