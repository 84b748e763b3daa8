"""The resolver as the settings describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.app.config import split_address
from pigeonry.net.resolver import DnsResolver, DnsServer

if TYPE_CHECKING:
    from pigeonry.app.settings import Settings
    from pigeonry.ports.environment import Clock

__all__ = ["resolver_of"]


_TRUSTED: Final = {"loopback": None, "always": True, "never": False}


def resolver_of(settings: Settings, clock: Clock) -> DnsResolver:
    """What asks the name servers of ``[dns]``, or the system's where it names none."""
    servers = [_name_server(text) for text in settings.dns.nameservers]
    trusted = _TRUSTED[settings.dns.trusted]
    return DnsResolver(clock=clock, servers=servers, answer_s=settings.dns.timeout_s, trusted=trusted)


def _name_server(text: str) -> DnsServer:
    if text.startswith("[") or text.count(":") == 1:
        return DnsServer(*split_address(text))
    return DnsServer(text)
