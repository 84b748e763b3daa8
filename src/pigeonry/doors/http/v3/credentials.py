"""``/v3/domains/{domain}/credentials``: the SMTP logins of a domain, and the old name ``/v3/{domain}/mailboxes``.

A login works in every worker as soon as the answer is out: logins that memory does not know are looked up. A password
that was changed ends within a second where a worker still keeps the result of its last check.

Trust: parameters come from API users. A password that was made here is in one answer and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from pigeonry.auth.register import login_for
from pigeonry.domain.errors import BadAddress, BadRequest, NotFound
from pigeonry.doors.http.guard import caller_of
from pigeonry.doors.http.respond import json_response
from pigeonry.doors.http.v3.domains import owned
from pigeonry.doors.http.v3.fields import page_of, read_fields

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from pigeonry.admission.registry import DomainRegistry
    from pigeonry.auth.register import Register
    from pigeonry.domain.tenant import SendingDomain, SmtpCredential

__all__ = ["routes"]

PAGE_DEFAULT: Final = 100  # as the API promises
PAGE_MAX: Final = 1000  # as the API promises
_NOTE: Final = "The password was made here and is not shown again."


def routes(*, registry: DomainRegistry, register: Register) -> list[Route]:
    """The resource's routes.

    Args:
        registry: Finds the domain.
        register: Reads and writes logins.
    """
    endpoint = _Endpoint(registry, register)
    found: list[Route] = []
    for many in ("/v3/domains/{domain}/credentials", "/v3/{domain}/mailboxes"):
        one = f"{many}/{{login}}"
        found += [
            Route(many, endpoint.list, methods=["GET"]),
            Route(many, endpoint.create, methods=["POST"]),
            Route(many, endpoint.delete_all, methods=["DELETE"]),
            Route(one, endpoint.change, methods=["PUT"]),
            Route(one, endpoint.delete, methods=["DELETE"]),
        ]
    return found


class _Endpoint:
    def __init__(self, registry: DomainRegistry, register: Register) -> None:
        self._registry = registry
        self._register = register

    async def list(self, request: Request) -> Response:
        domain = await self._domain(request)
        skip, limit = page_of(await read_fields(request), default=PAGE_DEFAULT, most=PAGE_MAX)
        found = await self._register.credentials(domain.name)
        page = [_shown(credential) for credential in found[skip : skip + limit]]
        return json_response({"total_count": len(found), "items": page})

    async def create(self, request: Request) -> Response:
        domain = await self._domain(request)
        fields = await read_fields(request)
        given = fields.text("login") or fields.text("mailbox")
        if not given:
            raise BadRequest("Parameter login is required.")
        login = login_for(given, domain=domain.name)
        answer = await self._put(login, fields.exact("password"), domain)
        return json_response({"message": "Created 1 credentials pair(s)", **answer})

    async def change(self, request: Request) -> Response:
        domain = await self._domain(request)
        fields = await read_fields(request)
        login = await self._known(request, domain)
        answer = await self._put(login, fields.exact("password"), domain)
        return json_response({"message": "Password changed", **answer})

    async def delete(self, request: Request) -> Response:
        domain = await self._domain(request)
        login = await self._known(request, domain)
        if login == f"postmaster@{domain.name}":
            raise BadRequest("The postmaster's login cannot be deleted; its password can be changed.")
        await self._register.delete_credential(login)
        return json_response({"message": "Credentials have been deleted", "spec": login})

    async def delete_all(self, request: Request) -> Response:
        domain = await self._domain(request)
        found = await self._register.credentials(domain.name)
        for credential in found:
            await self._register.delete_credential(credential.login)
        return json_response({"message": "All domain credentials have been deleted", "count": len(found)})

    async def _domain(self, request: Request) -> SendingDomain:
        return await owned(caller_of(request), request.path_params["domain"], self._registry)

    async def _known(self, request: Request, domain: SendingDomain) -> str:
        """The login in the path, which must exist."""
        try:
            login = login_for(request.path_params["login"], domain=domain.name)
        except (BadAddress, BadRequest):
            raise NotFound("Credentials not found") from None
        if not await self._register.has_credential(login):
            raise NotFound("Credentials not found")
        return login

    async def _put(self, login: str, given: str, domain: SendingDomain) -> dict[str, Any]:
        _, password = await self._register.put_credential(login, given, domain=domain)
        return {} if given else {"note": _NOTE, "credentials": {login: password}}


def _shown(credential: SmtpCredential) -> dict[str, Any]:
    return {
        "login": credential.login,
        "mailbox": credential.login,
        "created_at": format_datetime(datetime.fromtimestamp(credential.created_at, UTC)),
        "size_bytes": None,
    }
