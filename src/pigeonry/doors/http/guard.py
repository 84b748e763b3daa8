"""Who is asking, and what may they touch: the same answer for the hot routes and for Starlette's.

Basic authentication with any user name and an API key as the password. A key that belongs to one domain (a
*domain sending key*) may send mail for that domain and nothing else.

``HttpDoor`` puts its guard into every request's scope, so a Starlette endpoint writes::

    caller = caller_of(request)
    domain = own_domain(request, request.path_params["domain"])

Standards: RFC 7617 (Basic), RFC 9110 section 11.6.
Trust: the header comes from outside. A secret is compared by its digest (``KeyRing``) and never logged or repeated.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final, Protocol

from pigeonry.domain.errors import NotAllowed, NotAuthenticated, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from pigeonry.domain.tenant import Caller, SendingDomain

__all__ = ["CALLER", "GUARD", "Domains", "Guard", "Keys", "caller_of", "own_domain"]

GUARD: Final = "pigeonry.guard"  # key in the ASGI scope
CALLER: Final = "pigeonry.caller"  # key in the ASGI scope, once somebody asked who it is
AUTHORIZATION_OCTETS_MAX: Final = 1024  # a key has 72 octets or fewer; the rest is the user name
_WRITERS: Final = frozenset({"admin", "developer"})
_SENDERS: Final = _WRITERS | {"sending"}
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Keys(Protocol):
    """Finds a caller by secret, from memory (``auth.keys.KeyRing``)."""

    def by_secret(self, secret: str) -> Caller | None:
        """The caller whose key this is; None when it is nobody's."""
        ...


class Domains(Protocol):
    """Finds a sending domain by name, from memory (``admission.domains.DomainBook``)."""

    def get(self, name: str) -> SendingDomain | None:
        """The domain; None when there is none."""
        ...


class Guard:
    """Authenticates requests and says which domains a caller owns.

    Args:
        keys: Who holds which key.
        domains: The sending domains.
    """

    def __init__(self, *, keys: Keys, domains: Domains) -> None:
        self._keys = keys
        self._domains = domains

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller, by the headers of a request (names in lower case).

        Raises:
            NotAuthenticated: No key, or one that is nobody's.
            NotAllowed: The request asks to act for a subaccount; there are none.
        """
        secret = _secret(headers.get(b"authorization", b""))
        caller = self._keys.by_secret(secret) if secret else None
        if caller is None:
            raise NotAuthenticated("Forbidden")
        if b"x-mailgun-on-behalf-of" in headers:
            raise NotAllowed("X-Mailgun-On-Behalf-Of names no subaccount of this account.")
        return caller

    def sender(self, headers: Mapping[bytes, bytes], name: str) -> tuple[Caller, SendingDomain]:
        """The caller and the domain it wants to send from.

        Raises:
            NotAuthenticated: As ``authenticate``.
            NotAllowed: The key's role may not send.
            NotFound: It is no domain of the caller's.
        """
        caller = self.authenticate(headers)
        if caller.role not in _SENDERS:
            raise NotAllowed("This API key may not send messages.")
        return caller, self.own_domain(caller, name)

    def own_domain(self, caller: Caller, name: str) -> SendingDomain:
        """The domain of that name, if this caller may know of it.

        Raises:
            NotFound: There is none, or it is another's: the two look the same from outside.
        """
        domain = self._domains.get(name)
        if domain is None and not name.islower():
            domain = self._domains.get(name.lower())
        if domain is None or domain.account != caller.account or (caller.domain and caller.domain != domain.name):
            raise NotFound(f"Domain not found: {_shown(name)}")
        return domain


def caller_of(request: Request) -> Caller:
    """Who asks, for an endpoint that manages or reads: not for keys that may only send.

    Roles ``support`` and ``basic`` may read but change nothing here.

    Raises:
        NotAuthenticated: No key, or one that is nobody's.
        NotAllowed: The key's role may not do this.
    """
    guard: Guard = request.scope[GUARD]
    caller = guard.authenticate(dict(request.scope["headers"]))
    request.scope[CALLER] = caller
    if caller.role == "sending" or (caller.role not in _WRITERS and request.method not in _READS):
        raise NotAllowed("This API key may not do that.")
    return caller


def own_domain(request: Request, name: str) -> SendingDomain:
    """The domain of that name, if the request's caller owns it.

    Raises:
        NotAuthenticated: As ``caller_of``, which runs first when nobody called it yet.
        NotFound: ``Domain not found: <name>``.
    """
    caller = request.scope.get(CALLER)
    if caller is None:
        caller = caller_of(request)
    guard: Guard = request.scope[GUARD]
    return guard.own_domain(caller, name)


def _secret(authorization: bytes) -> str:
    """The password in a Basic authorization; empty when it is none."""
    if len(authorization) > AUTHORIZATION_OCTETS_MAX or authorization[:6].lower() != b"basic ":
        return ""
    try:
        return binascii.a2b_base64(authorization[6:]).partition(b":")[2].decode("utf-8")
    except ValueError:
        return ""


def _shown(name: str) -> str:
    """A name from outside, fit to be repeated in an error."""
    return "".join(c if c.isprintable() else "?" for c in name[:255])
