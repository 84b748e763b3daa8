"""``pigeonry key create|list|delete``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pigeonry.app.local import open_accounts
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.tenant import ApiKey

__all__ = ["create", "delete", "show_all"]


def create(
    *,
    domain: Annotated[str, Parameter(help="The only domain it may send for; left out: all, and it may manage.")] = "",
    description: Annotated[str, Parameter(help="What it is for, in words for people.")] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Make an API key. It is shown once."""

    async def work() -> tuple[ApiKey, str]:
        async with open_accounts(config) as accounts:
            return await accounts.create_key(domain=domain, description=description)

    key, secret = asyncio.run(work())
    if json:
        print_json({"id": key.id, "key": secret, "role": key.role, "domain": key.domain})
    else:
        sys.stdout.write(f"{secret}\n")
        sys.stderr.write(f"Key {key.id}. It is not shown again.\n")


def show_all(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print all API keys, without their secrets."""

    async def work() -> Sequence[ApiKey]:
        async with open_accounts(config) as accounts:
            return await accounts.keys()

    columns = ("id", "role", "domain", "description", "account")
    rows = [{name: getattr(key, name) for name in columns} for key in asyncio.run(work())]
    if json:
        print_json({"items": rows})
    else:
        print_rows(rows, columns, none="No keys yet: pigeonry key create")


def delete(
    key_id: Annotated[str, Parameter(help="The id that `key list` shows.")],
    /,
    *,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Revoke an API key; every worker refuses it within seconds."""

    async def work() -> None:
        async with open_accounts(config) as accounts:
            await accounts.delete_key(key_id)

    asyncio.run(work())
    if json:
        print_json({"id": key_id, "deleted": True})
    else:
        sys.stdout.write(f"Key {key_id} was revoked.\n")
