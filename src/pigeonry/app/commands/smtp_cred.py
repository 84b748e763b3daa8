"""``pigeonry smtp-cred add|list|delete``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pigeonry.app.local import open_accounts
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.tenant import SmtpCredential

__all__ = ["add", "delete", "show_all"]

_PASSWORD_HELP = "File with the password, one line; `-` reads standard input. Left out: a fresh one is made and shown."  # noqa: S105


Login = Annotated[str, Parameter(help="An address of a sending domain.")]


def add(
    login: Login,
    /,
    *,
    password_file: Annotated[str, Parameter(help=_PASSWORD_HELP, allow_leading_hyphen=True)] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Make an SMTP login for an address of a sending domain, or change its password."""
    password = _read_password(password_file)

    async def work() -> tuple[SmtpCredential, str]:
        async with open_accounts(config) as accounts:
            return await accounts.create_credential(login, password)

    credential, made = asyncio.run(work())
    if json:
        print_json({"login": credential.login, "password": made, "domain": credential.domain})
    elif password:
        sys.stdout.write(f"Login {credential.login} is set.\n")
    else:
        sys.stdout.write(f"{made}\n")
        sys.stderr.write(f"Password of {credential.login}. It is not shown again.\n")


def show_all(
    *,
    domain: Annotated[str, Parameter(help="Only those of this domain.")] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Print SMTP logins, without their passwords."""

    async def work() -> Sequence[SmtpCredential]:
        async with open_accounts(config) as accounts:
            return await accounts.credentials(domain)

    rows = [{"login": found.login, "domain": found.domain, "account": found.account} for found in asyncio.run(work())]
    if json:
        print_json({"items": rows})
    else:
        print_rows(rows, ("login", "domain", "account"), none="No logins yet: pigeonry smtp-cred add ADDRESS")


def delete(login: Login, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Delete an SMTP login."""

    async def work() -> None:
        async with open_accounts(config) as accounts:
            await accounts.delete_credential(login)

    asyncio.run(work())
    if json:
        print_json({"login": login, "deleted": True})
    else:
        sys.stdout.write(f"Login {login} was deleted.\n")


def _read_password(source: str) -> str:
    if not source:
        return ""
    if source == "-":
        return sys.stdin.readline().rstrip("\r\n")
    try:
        with Path(source).open(encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadRequest(f"--password-file: {source} cannot be read: {reason}") from None
