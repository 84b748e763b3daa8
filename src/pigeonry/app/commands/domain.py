"""``pigeonry domain add|list|delete|dns|pool``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import open_accounts
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.app.accounts import DnsRecord
    from pigeonry.domain.tenant import SendingDomain

__all__ = ["add", "delete", "dns", "pool", "show_all"]

Name = Annotated[str, Parameter(help="The domain, such as mail.example.org.")]


def add(name: Name, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Make a sending domain with its DKIM key, and print the DNS records to publish."""

    async def work() -> tuple[SendingDomain, Sequence[DnsRecord]]:
        async with open_accounts(config) as accounts:
            made = await accounts.create_domain(name)
            return made, accounts.records(made)

    domain, records = asyncio.run(work())
    _print(domain, records, json=json)


def dns(name: Name, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Print the DNS records that a domain needs."""

    async def work() -> tuple[SendingDomain, Sequence[DnsRecord]]:
        async with open_accounts(config) as accounts:
            found = await accounts.domain(name)
            return found, accounts.records(found)

    domain, records = asyncio.run(work())
    _print(domain, records, json=json)


def show_all(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print all sending domains."""

    async def work() -> Sequence[SendingDomain]:
        async with open_accounts(config) as accounts:
            return await accounts.domains()

    rows = [_described(domain) for domain in asyncio.run(work())]
    if json:
        print_json({"items": rows})
    else:
        print_rows(rows, ("name", "state", "type", "account"), none="No domains yet: pigeonry domain add NAME")


def delete(name: Name, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Delete a sending domain and its SMTP logins. Mail that waits is still delivered, unsigned."""

    async def work() -> None:
        async with open_accounts(config) as accounts:
            await accounts.delete_domain(name)

    asyncio.run(work())
    if json:
        print_json({"name": name, "deleted": True})
    else:
        sys.stdout.write(f"Domain {name} was deleted.\n")


def pool(
    name: Name,
    pool: Annotated[str, Parameter(help="Id of the pool; left out: the one that `egress.default_pool` names.")] = "",
    /,
    *,
    also: Annotated[
        tuple[str, ...], Parameter(help="A further pool that its messages may name; may be repeated.")
    ] = (),
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Set the egress pool that a domain's mail leaves by, and those that its messages may name beside it.

    It holds at once, also for mail that waits.
    """

    async def work() -> SendingDomain:
        async with open_accounts(config) as accounts:
            return await accounts.set_pools(name, pool, also)

    changed = asyncio.run(work())
    if json:
        print_json(_described(changed))
        return
    way = f"pool {changed.pool}" if changed.pool else "the default pool"
    named = f", or by {', '.join(changed.pools)} where a message names it" if changed.pools else ""
    sys.stdout.write(f"Mail of {changed.name} leaves by {way}{named}.\n")


def _described(domain: SendingDomain) -> dict[str, Any]:
    return {
        "name": domain.name,
        "state": domain.state,
        "type": domain.type,
        "account": domain.account,
        "pool": domain.pool,
        "pools": list(domain.pools),
        "dkim": [{"selector": key.selector, "algorithm": key.algorithm, "active": key.active} for key in domain.dkim],
    }


def _print(domain: SendingDomain, records: Sequence[DnsRecord], *, json: bool) -> None:
    rows = [msgspec.to_builtins(record) for record in records]
    if json:
        print_json({**_described(domain), "sending_dns_records": rows})
    elif not sys.stdout.isatty():
        print_rows(rows, ("record_type", "name", "value"))
    else:  # no table: a value is to be copied whole
        for record in records:
            sys.stdout.write(f"{record.record_type} {record.name}\n{record.value}\n\n")
