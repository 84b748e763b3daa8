"""``pigeonry account list|limit``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import open_accounts
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.tenant import Account

__all__ = ["limit", "show_all"]


def show_all(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print all accounts and their limits; 0 is none."""

    async def work() -> Sequence[Account]:
        async with open_accounts(config) as accounts:
            return await accounts.accounts()

    rows = [msgspec.to_builtins(account) for account in asyncio.run(work())]
    if json:
        print_json({"items": rows})
    else:
        print_rows(rows, ("id", "name", "hourly", "daily"), none="No accounts yet: pigeonry key create makes the first")


def limit(
    account: Annotated[str, Parameter(name="ACCOUNT", help="Its id, as `account list` shows it.")],
    /,
    *,
    hourly: Annotated[int | None, Parameter(help="Recipients in an hour; 0: any number. Left out: as it is.")] = None,
    daily: Annotated[int | None, Parameter(help="Recipients in a day; 0: any number. Left out: as it is.")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Limit how many recipients an account may send to, over all workers and nodes.

    So many at once, and as many again in each hour or day, little by little. What is over it is answered with 429 and
    451 4.7.1, and over HTTP with the time after which there is room. It holds within seconds.
    """
    if hourly is None and daily is None:
        raise BadRequest("There is nothing to change: give --hourly or --daily.")
    if min(hourly or 0, daily or 0) < 0:
        raise BadRequest("--hourly and --daily: are 0 or more.")

    async def work() -> Account:
        async with open_accounts(config) as accounts:
            return await accounts.limit_account(account, hourly=hourly, daily=daily)

    changed = asyncio.run(work())
    if json:
        print_json(changed)
    else:
        said = [
            f"{number} {word}" for number, word in ((changed.hourly, "an hour"), (changed.daily, "a day")) if number
        ]
        sys.stdout.write(f"Account {account} may send to {' and '.join(said) or 'any number'} recipients.\n")
