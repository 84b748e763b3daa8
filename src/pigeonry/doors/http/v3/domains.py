"""``/v3/domains`` and ``/v4/domains``: the sending domains of an account.

A new domain is ready to send: it is ``active``, has an RSA key for DKIM, and the answer says what to publish for
receivers to believe its mail. With ``smtp_password`` it gets the login ``postmaster@<domain>``. The answer comes when
the other workers of the node know the domain, half a second later.

Parameters of features that are not there (IP pools, automatic sender security, archiving) are read over, for clients
send them unasked.

Trust: parameters come from API users. A domain of another account is not found, exactly as one that does not exist.
"""

from __future__ import annotations

import contextlib
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.routing import Route

from pigeonry.admission.registry import receiving_records, sending_records
from pigeonry.auth.register import check_password, login_for
from pigeonry.domain.errors import BadRequest, Conflict, Fault, NotAllowed, NotFound
from pigeonry.doors.http.guard import caller_of
from pigeonry.doors.http.respond import json_response
from pigeonry.doors.http.v3.fields import page_of, read_fields
from pigeonry.ports.feed import KNOWN_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from pigeonry.admission.registry import DnsRecord, DomainRegistry
    from pigeonry.auth.register import Register
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.doors.http.v3.fields import Fields
    from pigeonry.ports.environment import Clock

__all__ = ["Book", "owned", "routes"]

PAGE_DEFAULT: Final = 100  # as the API promises
PAGE_MAX: Final = 1000  # as the API promises
MESSAGE_TTL_S: Final = 259_200  # how long a stored message can be read: three days
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SPAM_ACTIONS: Final = {"disabled": "disabled", "tag": "tag", "block": "block", "delete": "block"}
_SCHEMES: Final = {"http": "http", "https": "https"}
_KEY_SIZES: Final = {"1024": "1024", "2048": "2048"}
_STATES: Final = {"active": "active", "unverified": "unverified", "disabled": "disabled"}
_SORTS: Final = {"name": "name", "name:asc": "name", "name:desc": "-name"}


class Book(Protocol):
    """An account's domains from memory (``admission.domains.DomainBook``)."""

    def of(self, account: str) -> Sequence[SendingDomain]:
        """The account's domains."""
        ...

    async def refresh(self) -> None:
        """Bring memory level with the store."""
        ...


def routes(
    *,
    book: Book,
    registry: DomainRegistry,
    register: Register,
    clock: Clock,
    hostname: str = "",
    addresses: Callable[[SendingDomain], Sequence[str]] = lambda _domain: (),
) -> list[Route]:
    """The resource's routes.

    Args:
        book: Lists domains.
        registry: Reads and writes one domain.
        register: Writes the logins that come and go with a domain.
        hostname: The host that sends and receives, for the records to publish.
        addresses: Those that a domain's mail may leave from; none where the system chooses.
    """
    endpoint = _Endpoint(book, registry, register, clock, hostname=hostname, addresses=addresses)
    found: list[Route] = []
    for version in ("v3", "v4"):
        many, one = f"/{version}/domains", f"/{version}/domains/{{name}}"
        found += [
            Route(many, endpoint.list, methods=["GET"]),
            Route(many, endpoint.create, methods=["POST"]),
            Route(one, endpoint.show, methods=["GET"]),
            Route(one, endpoint.change, methods=["PUT"]),
            Route(one, endpoint.delete, methods=["DELETE"]),
        ]
    return found


async def owned(caller: Caller, name: str, registry: DomainRegistry) -> SendingDomain:
    """A caller's domain, as the store has it now.

    Raises:
        NotFound: There is none of that name, or it is another's.
    """
    shown = "".join(c if c.isprintable() else "?" for c in name[:255])
    try:
        domain = await registry.find(name)
    except NotFound:
        raise NotFound(f"Domain not found: {shown}") from None
    if domain.account != caller.account or (caller.domain and caller.domain != domain.name):
        raise NotFound(f"Domain not found: {shown}")
    return domain


class _Endpoint:
    def __init__(
        self,
        book: Book,
        registry: DomainRegistry,
        register: Register,
        clock: Clock,
        *,
        hostname: str,
        addresses: Callable[[SendingDomain], Sequence[str]],
    ) -> None:
        self._book = book
        self._registry = registry
        self._register = register
        self._clock = clock
        self._hostname = hostname
        self._addresses = addresses

    async def list(self, request: Request) -> Response:
        caller = caller_of(request)
        fields = await read_fields(request)
        skip, limit = page_of(fields, default=PAGE_DEFAULT, most=PAGE_MAX)
        state, search = fields.choice("state", _STATES), fields.text("search").lower()
        order = fields.choice("sort", _SORTS)
        with contextlib.suppress(Fault):  # memory is at most some seconds behind, and better than no answer
            await self._book.refresh()
        domains = [
            domain
            for domain in self._book.of(caller.account)
            if (not caller.domain or domain.name == caller.domain)
            and (state is None or domain.state == state)
            and search in domain.name
        ]
        if order is None:
            domains.sort(key=lambda domain: (-domain.created_at, domain.name))
        else:
            domains.sort(key=lambda domain: domain.name, reverse=order == "-name")
        page = [_shown(domain) for domain in domains[skip : skip + limit]]
        return json_response({"total_count": len(domains), "items": page})

    async def create(self, request: Request) -> Response:
        caller = caller_of(request)
        fields = await read_fields(request)
        name, password = fields.required("name"), fields.exact("smtp_password")
        if caller.domain:
            raise NotAllowed("This API key is for one domain and cannot make others.")
        if password:
            check_password(password)
        settings = _settings(fields)
        try:
            domain = await self._registry.create(
                name,
                account=caller.account,
                selector=fields.text("dkim_selector"),
                bits=int(fields.choice("dkim_key_size", _KEY_SIZES) or 2048),
                **settings,
            )
        except Conflict:
            raise BadRequest("This domain name is already taken") from None
        if password:
            await self._set_postmaster(domain, password)
        await self._known()
        shown = self._with_records(domain, message="Domain DNS records have been created")
        if password:
            shown["domain"]["smtp_password"] = password
        return json_response(shown)

    async def show(self, request: Request) -> Response:
        caller = caller_of(request)
        return json_response(self._with_records(await owned(caller, request.path_params["name"], self._registry)))

    async def change(self, request: Request) -> Response:
        caller = caller_of(request)
        domain = await owned(caller, request.path_params["name"], self._registry)
        fields = await read_fields(request)
        password = fields.exact("smtp_password")
        if password:
            check_password(password)
        settings = _settings(fields)
        if settings:
            domain = await self._registry.change(domain.name, **settings)
            await self._known()
        if password:
            await self._set_postmaster(domain, password)
        return json_response(self._with_records(domain, message="Domain has been updated"))

    async def delete(self, request: Request) -> Response:
        caller = caller_of(request)
        domain = await owned(caller, request.path_params["name"], self._registry)
        # what may send goes first: should this be cut short, a second call finds the domain and goes on
        await self._register.forget_domain(domain.name)
        await self._registry.delete(domain.name)
        await self._known()
        return json_response({"message": "Domain will be deleted in the background"})

    async def _set_postmaster(self, domain: SendingDomain, password: str) -> None:
        login = login_for("postmaster", domain=domain.name)
        await self._register.put_credential(login, password, domain=domain)

    async def _known(self) -> None:
        """Return when every worker of the node should know what was changed."""
        await self._clock.sleep(KNOWN_S)

    def _with_records(self, domain: SendingDomain, **more: str) -> dict[str, Any]:
        return {
            **more,
            "domain": _shown(domain),
            "receiving_dns_records": _records(receiving_records(domain, hostname=self._hostname)),
            "sending_dns_records": _records(
                sending_records(domain, hostname=self._hostname, addresses=self._addresses(domain))
            ),
        }


def _settings(fields: Fields) -> dict[str, Any]:
    """What a request sets of a domain, checked; nothing of what it does not name."""
    prefix = fields.text("web_prefix").lower()
    if prefix and not _LABEL.fullmatch(prefix):
        raise BadRequest("Parameter web_prefix is not a DNS label.")
    given = {
        "spam_action": fields.choice("spam_action", _SPAM_ACTIONS),
        "wildcard": fields.flag("wildcard"),
        "require_tls": fields.flag("require_tls"),
        "skip_verification": fields.flag("skip_verification"),
        "web_scheme": fields.choice("web_scheme", _SCHEMES),
        "web_prefix": prefix or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _shown(domain: SendingDomain) -> dict[str, Any]:
    return {
        "id": domain.id,
        "name": domain.name,
        "state": domain.state,
        "type": domain.type,
        "created_at": formatdate(domain.created_at, usegmt=True),
        "smtp_login": f"postmaster@{domain.name}",
        "spam_action": domain.spam_action,
        "wildcard": domain.wildcard,
        "require_tls": domain.require_tls,
        "skip_verification": domain.skip_verification,
        "is_disabled": domain.state == "disabled",
        "disabled": None,
        "web_prefix": domain.web_prefix,
        "web_scheme": domain.web_scheme,
        "tracking_host": f"{domain.web_prefix}.{domain.name}",
        "use_automatic_sender_security": False,
        "archive_to": "",
        "encrypt_incoming_message": False,
        "message_ttl": MESSAGE_TTL_S,
        "subaccount_id": "",
    }


def _records(records: Sequence[DnsRecord]) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for record in records:
        entry: dict[str, Any] = {
            "record_type": record.record_type,
            "name": record.name,
            "value": record.value,
            "valid": "unknown",
            "cached": [],
            "is_active": True,
        }
        if record.priority is not None:
            entry["priority"] = str(record.priority)
        shown.append(entry)
    return shown
