"""DNS by dnspython: cached by TTL, negative answers too, one query in flight for each name and type.

``dns`` is imported when the first name is asked for, in a thread, as it takes most of a second: a worker that only
knows a smarthost by its address never pays for it.

Whether DNSSEC vouches for an answer (the AD bit) is believed only of servers that are ``trusted``: those on loopback,
or as configuration says. A query asks for the bit by setting it, which costs no octet.

Standards: RFC 1035 (A, MX, TXT); RFC 2308 (negative caching, by the SOA's minimum; section 7: failures, briefly);
RFC 3596 (AAAA); RFC 6698 (TLSA) and RFC 7672 section 2.2 (which of them count); RFC 6761 section 6.3 (localhost needs
no question); RFC 6840 section 5.7 (AD in queries); RFC 6891 (EDNS, 1,232 octets).
Trust: answers come from the configured servers, which are to be near and validating. Number of records, number of
cached names and time for an answer are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Sequence
from itertools import chain, zip_longest
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from pigeonry.ports.environment import Clock
from pigeonry.ports.network import DnsFailure, MailExchanger, NoSuchDomain, TlsaAnswer

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as Stub

__all__ = ["DnsResolver", "DnsServer"]

ENTRIES_MAX: Final = 100_000  # cached answers, some 500 octets each
TTL_S_MAX: Final = 86_400.0  # seconds; a day, so that an absurd TTL is not kept for weeks
NEGATIVE_S_MAX: Final = 10_800.0  # seconds; RFC 2308 section 5 suggests one to three hours
FAILURE_S: Final = 5.0  # seconds that a failure is remembered; RFC 2308 section 7.1 allows 300
ANSWER_S: Final = 10.0  # seconds for one answer, retries and other servers included
RECORDS_MAX: Final = 100  # records of one answer that are looked at
EDNS_OCTETS: Final = 1_232  # of a UDP answer that is not fragmented on any path

_LOOPBACK: Final = ("127.0.0.1", "::1")
_T = TypeVar("_T")


class DnsServer(msgspec.Struct, frozen=True):
    """A recursive name server: IP address and port."""

    address: str
    port: int = 53


class _Answer(msgspec.Struct, frozen=True, gc=False):
    """What is cached: records as text (``preference host`` for MX), or why there are none.

    Args:
        expires_at: Monotonic time.
        authentic: Whether DNSSEC vouches for it.
        canonical: The name that the records are of, at the end of all aliases.
    """

    expires_at: float
    records: tuple[str, ...] = ()
    missing: bool = False
    failed: bool = False
    authentic: bool = False
    canonical: str = ""


class DnsResolver:
    """Implements ``ports.network.Resolver``.

    Args:
        clock: Monotonic time for TTLs.
        servers: Whom to ask; what /etc/resolv.conf says when empty.
        answer_s: Seconds that an answer may take.
        trusted: Whether the servers are believed when they say that an answer is authentic; None: if all of them are
            on loopback.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        servers: Sequence[DnsServer] = (),
        answer_s: float = ANSWER_S,
        entries_max: int = ENTRIES_MAX,
        trusted: bool | None = None,
    ) -> None:
        self._clock = clock
        self._servers = tuple(servers)
        self._answer_s = answer_s
        self._entries_max = entries_max
        self._trusted = trusted
        self._cache: dict[tuple[str, str], _Answer] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[_Answer]] = {}
        self._stub: Stub | None = None
        self._loading: asyncio.Task[Stub] | None = None

    async def mx(self, domain: str) -> Sequence[MailExchanger]:
        """MX records by preference. See the port."""
        exchangers = []
        answer = await self._answered(domain, "MX")
        for record in _given_by(answer, domain):
            preference, _, host = record.partition(" ")
            exchangers.append(MailExchanger(int(preference), host, answer.authentic))
        return sorted(exchangers, key=lambda exchanger: exchanger.preference)

    async def addresses(self, host: str) -> Sequence[str]:
        """IPv6 and IPv4 addresses in turn, so that who has no IPv6 soon gets to the other. See the port."""
        literal = _literal(host)
        if literal:
            return (literal,)
        if _is_local(host):
            return _LOOPBACK
        six, four = await asyncio.gather(_caught(self._records(host, "AAAA")), _caught(self._records(host, "A")))
        found = [
            address for address in chain.from_iterable(zip_longest(_given(six), _given(four))) if address is not None
        ]
        if not found and (isinstance(six, DnsFailure) or isinstance(four, DnsFailure)):
            raise DnsFailure(host)
        # Only when there is no other: some servers deny the name when it just has no address of the one family.
        if not found and (isinstance(six, NoSuchDomain) or isinstance(four, NoSuchDomain)):
            raise NoSuchDomain(host)
        return found

    async def txt(self, name: str) -> Sequence[str]:
        """TXT records. See the port."""
        return await self._records(name, "TXT")

    async def tlsa(self, host: str, port: int) -> TlsaAnswer | None:
        """TLSA records of a host's port. See the port.

        Of a host that is an alias, the records at the end of the alias come first, then those of the alias itself.
        """
        if self._trusted is False or _literal(host) or _is_local(host):
            return None
        six, four = await asyncio.gather(self._answered(host, "AAAA"), self._answered(host, "A"))
        if not self._trusted:  # the stub was made by now, and said
            return None
        found = [answer for answer in (six, four) if answer.records]
        if not found:
            return None
        name = host.rstrip(".").lower()
        bases = {answer.canonical for answer in found if answer.authentic}
        if not bases and all(answer.canonical == name for answer in found):
            return None
        if not bases and not (await self._answered(host, "CNAME")).authentic:
            return None
        for base in (*sorted(bases - {name}), name):
            asked = f"_{port}._tcp.{base}"
            answer = await self._answered(asked, "TLSA")
            if answer.failed:
                raise DnsFailure(asked)
            if answer.authentic and answer.records:
                return TlsaAnswer(base, answer.records)
        return None

    async def _records(self, name: str, kind: str) -> tuple[str, ...]:
        return _given_by(await self._answered(name, kind), name)

    async def _answered(self, name: str, kind: str) -> _Answer:
        key = (name.rstrip(".").lower(), kind)
        answer = self._cache.get(key)
        if answer is None or answer.expires_at <= self._clock.monotonic():
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = asyncio.ensure_future(self._ask(key))
                asking.add_done_callback(lambda _: self._asking.pop(key, None))
            # Shielded: that one of those who wait gives up is nothing to the others.
            answer = await asyncio.shield(asking)
        return answer

    async def _ask(self, key: tuple[str, str]) -> _Answer:
        answer = await self._query(await self._ready_stub(), *key)
        self._cache.pop(key, None)
        while len(self._cache) >= self._entries_max:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = answer
        return answer

    async def _query(self, stub: Stub, name: str, kind: str) -> _Answer:
        dns = _dns()
        try:
            qname = dns.name.from_text(name)
            found = await stub.resolve(qname, kind, raise_on_no_answer=False, lifetime=self._answer_s, search=False)
        except dns.resolver.NXDOMAIN as none:
            ttl_s = none.response(qname).resolve_chaining().minimum_ttl
            return self._answer(ttl_s, most_s=NEGATIVE_S_MAX, missing=True)
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape, UnicodeError):
            return self._answer(TTL_S_MAX, most_s=NEGATIVE_S_MAX, missing=True)
        except (dns.exception.DNSException, OSError):
            return self._answer(FAILURE_S, most_s=FAILURE_S, failed=True)
        ttl_s = found.chaining_result.minimum_ttl
        if found.rrset is None:
            return self._answer(ttl_s, most_s=NEGATIVE_S_MAX)
        records = tuple([_text(kind, record) for record in list(found.rrset)[:RECORDS_MAX]])
        authentic = self._trusted is True and bool(found.response.flags & dns.flags.AD)
        canonical = found.canonical_name.to_text(omit_final_dot=True).lower()
        return _Answer(
            self._clock.monotonic() + min(ttl_s, TTL_S_MAX), records, authentic=authentic, canonical=canonical
        )

    def _answer(self, ttl_s: float, *, most_s: float, missing: bool = False, failed: bool = False) -> _Answer:
        return _Answer(self._clock.monotonic() + min(ttl_s, most_s), (), missing, failed)

    async def _ready_stub(self) -> Stub:
        if self._stub is None:
            if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
                self._loading = asyncio.ensure_future(asyncio.to_thread(self._make_stub))
            self._stub = await asyncio.shield(self._loading)
        return self._stub

    def _make_stub(self) -> Stub:
        dns = _dns()
        stub: Stub = dns.asyncresolver.Resolver(configure=not self._servers)
        if self._servers:
            stub.nameservers = [dns.nameserver.Do53Nameserver(server.address, server.port) for server in self._servers]
        if self._trusted is None:
            self._trusted = all(_is_loopback(server) for server in stub.nameservers)
        stub.use_edns(0, 0, EDNS_OCTETS)
        stub.flags = dns.flags.RD | (dns.flags.AD if self._trusted else 0)
        stub.cache = None
        return stub


def _dns() -> Any:
    """dnspython, imported at last."""
    import dns.asyncresolver  # noqa: PLC0415  # slow, and not needed by everybody
    import dns.exception  # noqa: PLC0415
    import dns.flags  # noqa: PLC0415
    import dns.name  # noqa: PLC0415
    import dns.nameserver  # noqa: PLC0415
    import dns.resolver  # noqa: PLC0415

    module: ModuleType = dns
    return module


def _text(kind: str, record: Any) -> str:
    if kind == "MX":
        return f"{record.preference} {record.exchange.to_text(omit_final_dot=True).lower().removesuffix('.')}"
    if kind == "TXT":
        return b"".join(record.strings).decode("utf-8", "replace")
    if kind == "TLSA":
        return f"{record.usage} {record.selector} {record.mtype} {record.cert.hex()}"
    if kind == "CNAME":
        return str(record.target.to_text(omit_final_dot=True)).lower()
    return str(record.address)


def _is_local(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _is_loopback(server: Any) -> bool:
    address = server if isinstance(server, str) else server.address
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _literal(host: str) -> str:
    """The address that a literal is, with or without brackets; empty when it is a name."""
    try:
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]").removeprefix("IPv6:")))
    except ValueError:
        return ""


async def _caught(asked: Awaitable[_T]) -> _T | NoSuchDomain | DnsFailure:
    try:
        return await asked
    except (NoSuchDomain, DnsFailure) as none:
        return none


def _given_by(answer: _Answer, name: str) -> tuple[str, ...]:
    if answer.missing:
        raise NoSuchDomain(name)
    if answer.failed:
        raise DnsFailure(name)
    return answer.records


def _given(answer: tuple[str, ...] | NoSuchDomain | DnsFailure) -> tuple[str, ...]:
    return answer if isinstance(answer, tuple) else ()
