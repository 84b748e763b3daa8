"""``pigeonry intervene suspend|drop|rebind|list|lift``: what delivery is to do with some of the mail, until a time.

It holds on all workers of all nodes within a second, for what waits and for what comes, and ends by itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import open_accounts
from pigeonry.app.mail_scope import Account, Domain, Site, Source, Tag, To
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import BadRequest
from pigeonry.domain.intervention import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.intervention import Action, Intervention

__all__ = ["drop", "lift", "rebind", "show_all", "suspend"]

Reason = Annotated[str, Parameter(help="Why; it is shown to those who ask what became of a message.")]
Lasting = Annotated[str, Parameter(name="--for", help="How long it holds, such as 30m, 12h or 7d.")]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")


def suspend(
    *,
    account: Account = "",
    domain: Domain = "",
    to: To = "",
    tag: Tag = "",
    site: Site = "",
    source: Source = "",
    reason: Reason = "",
    lasting: Lasting = "24h",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Let mail wait to which all of this applies. It still expires when it would have."""
    _make("suspend", Scope(account, domain, to, tag, site, source), reason, lasting, config=config, json=json)


def drop(
    *,
    account: Account = "",
    domain: Domain = "",
    to: To = "",
    tag: Tag = "",
    site: Site = "",
    source: Source = "",
    reason: Reason = "",
    lasting: Lasting = "1h",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """End mail for good to which all of this applies, when it falls due: it fails with reason `dropped`.

    `pigeonry queue hasten` makes what waits for a later time fall due now.
    """
    _make("drop", Scope(account, domain, to, tag, site, source), reason, lasting, config=config, json=json)


def rebind(
    pool: Annotated[str, Parameter(help="Id of the egress pool.")],
    /,
    *,
    account: Account = "",
    domain: Domain = "",
    to: To = "",
    reason: Reason = "",
    lasting: Lasting = "24h",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Have mail leave by another egress pool to which all of this applies."""
    _make("rebind", Scope(account, domain, to), reason, lasting, pool=pool, config=config, json=json)


def show_all(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print the interventions that stand, the oldest first."""

    async def work() -> Sequence[Intervention]:
        async with open_accounts(config) as accounts:
            return await accounts.interventions()

    found = asyncio.run(work())
    if json:
        print_json({"items": [msgspec.to_builtins(each) for each in found]})
        return
    columns = ("id", "action", "scope", "pool", "until", "reason")
    print_rows([_described(each) for each in found], columns, none="Nothing is suspended, dropped or rebound.")


def lift(
    name: Annotated[str, Parameter(help="Its id, as `list` prints it.")],
    /,
    *,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """End an intervention now: what waited goes on at once."""

    async def work() -> None:
        async with open_accounts(config) as accounts:
            await accounts.lift(name)

    asyncio.run(work())
    if json:
        print_json({"id": name, "lifted": True})
    else:
        sys.stdout.write(f"Intervention {name} was lifted.\n")


def _make(
    action: Action,
    scope: Scope,
    reason: str,
    lasting: str,
    *,
    config: str | None,
    json: bool,
    pool: str = "",
) -> None:
    lasting_s = _seconds(lasting)

    async def work() -> Intervention:
        async with open_accounts(config) as accounts:
            return await accounts.intervene(action, scope, reason=reason, lasting_s=lasting_s, pool=pool)

    made = asyncio.run(work())
    if json:
        print_json(made)
    else:
        row = _described(made)
        sys.stdout.write(f"{row['action']} {row['scope']} until {row['until']}; to end it: ")
        sys.stdout.write(f"pigeonry intervene lift {made.id}\n")


def _described(each: Intervention) -> dict[str, Any]:
    until = dt.datetime.fromtimestamp(each.until, tz=dt.UTC).isoformat(timespec="seconds")
    return {**msgspec.to_builtins(each), "scope": str(each.scope), "until": until}


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise BadRequest("A duration is a number and one of s, m, h, d: 30m, 12h, 7d.")
    return int(found[1]) * _UNITS[found[2]]
