"""Every resolver against the port's text. The real one asks a name server that the test runs on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from pigeonry.net.resolver import DnsResolver, DnsServer
from pigeonry.ports.network import DnsFailure, MailExchanger, NoSuchDomain, TlsaAnswer

SOA = ("test.", 600, "IN", "SOA", "ns.test. admin.test. 1 60 60 60 30")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table: (name, type) to TTL and records; what is not there does not exist."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.broken: set[str] = set()
        self.mute: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.flags: list[int] = []
        self.authentic: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.gate: asyncio.Event | None = None
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: object) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text().rstrip(".").lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if name in self.mute:
            return
        self.flags.append(query.flags)
        owner = question.name
        response = dns.message.make_response(query, recursion_available=True)
        if name in self.authentic:
            response.flags |= dns.flags.AD
        if name in self.aliases and kind != "CNAME":
            target = self.aliases[name]
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", target + "."))
            name, owner = target, dns.name.from_text(target)
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) in self.zone:
            ttl, records = self.zone[name, kind]
            response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, *records))
        else:
            if (name, kind) in self.denied or not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text(*SOA))
        assert self.transport is not None
        self.transport.sendto(response.to_wire(), addr)  # type: ignore[arg-type]


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    yield protocol
    transport.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(server: NameServer, clock: Clock) -> DnsResolver:
    assert server.transport is not None
    port = server.transport.get_extra_info("sockname")[1]
    return DnsResolver(clock=clock, servers=(DnsServer("127.0.0.1", port),), answer_s=0.5, entries_max=4)


async def test_mx_comes_by_preference(server, resolver):
    server.zone["to.test", "MX"] = (60, ["20 B.mx.test.", "10 a.mx.test."])
    assert await resolver.mx("to.test") == [MailExchanger(10, "a.mx.test"), MailExchanger(20, "b.mx.test")]


async def test_null_mx_is_an_empty_host(server, resolver):
    server.zone["to.test", "MX"] = (60, ["0 ."])
    assert await resolver.mx("to.test") == [MailExchanger(0, "")]


async def test_name_without_mx_has_none(server, resolver):
    server.zone["to.test", "A"] = (60, ["192.0.2.1"])
    assert await resolver.mx("to.test") == []


async def test_name_that_does_not_exist_is_said_not_to(resolver):
    for ask in (resolver.mx, resolver.addresses, resolver.txt):
        with pytest.raises(NoSuchDomain):
            await ask("nowhere.test")


@pytest.mark.parametrize("how", ["broken", "mute"])
async def test_no_answer_is_a_failure(server, resolver, how):
    getattr(server, how).add("to.test")
    for ask in (resolver.mx, resolver.addresses):
        with pytest.raises(DnsFailure):
            await ask("to.test")


async def test_addresses_are_of_both_families(server, resolver):
    server.zone["h.test", "A"] = (60, ["192.0.2.1"])
    server.zone["h.test", "AAAA"] = (60, ["2001:db8::1"])
    assert sorted(await resolver.addresses("h.test")) == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("denied", ["A", "AAAA"])
async def test_a_name_denied_for_one_family_has_the_addresses_of_the_other(server, resolver, denied):
    zone = {"A": "192.0.2.1", "AAAA": "2001:db8::1"}
    server.denied.add(("h.test", denied))
    del zone[denied]
    for kind, address in zone.items():
        server.zone["h.test", kind] = (60, [address])
    assert list(await resolver.addresses("h.test")) == list(zone.values())


async def test_host_without_addresses_has_none(server, resolver):
    server.zone["h.test", "TXT"] = (60, ['"x"'])
    assert await resolver.addresses("h.test") == []


@pytest.mark.parametrize("literal", ["192.0.2.7", "2001:db8::7"])
async def test_address_literal_is_its_own_answer(server, resolver, literal):
    assert list(await resolver.addresses(literal)) == [literal]
    assert server.asked == []


async def test_txt_strings_are_joined(server, resolver):
    server.zone["t.test", "TXT"] = (60, ['"one" "two"'])
    assert await resolver.txt("t.test") == ("onetwo",)


async def test_answer_is_kept_for_its_ttl(server, resolver, clock):
    server.zone["to.test", "MX"] = (60, ["10 a.mx.test."])
    await resolver.mx("to.test")
    clock.at += 59.0
    await resolver.mx("TO.test.")
    assert len(server.asked) == 1
    clock.at += 2.0
    await resolver.mx("to.test")
    assert len(server.asked) == 2


async def test_negative_answer_is_kept_for_the_minimum_of_the_soa(server, resolver, clock):
    for expected in (1, 1, 2):
        with pytest.raises(NoSuchDomain):
            await resolver.mx("nowhere.test")
        assert len(server.asked) == expected
        clock.at += 20.0


async def test_failure_is_asked_again_soon(server, resolver, clock):
    server.broken.add("to.test")
    with pytest.raises(DnsFailure):
        await resolver.mx("to.test")
    server.broken.clear()
    server.zone["to.test", "MX"] = (60, ["10 a.mx.test."])
    clock.at += 6.0
    assert await resolver.mx("to.test") == [MailExchanger(10, "a.mx.test")]


async def test_one_query_is_in_flight_for_each_name(server, resolver):
    server.zone["to.test", "MX"] = (60, ["10 a.mx.test."])
    await asyncio.gather(*[resolver.mx("to.test") for _ in range(10)])
    assert server.asked == [("to.test", "MX")]


async def test_one_who_gives_up_takes_nothing_from_the_others(server, resolver):
    server.zone["to.test", "MX"] = (60, ["10 a.mx.test."])
    first = asyncio.ensure_future(resolver.mx("to.test"))
    second = asyncio.ensure_future(resolver.mx("to.test"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [MailExchanger(10, "a.mx.test")]


async def test_number_of_answers_kept_is_bounded(server, resolver):
    for n in range(6):
        server.zone[f"t{n}.test", "TXT"] = (60, ['"x"'])
        await resolver.txt(f"t{n}.test")
    await resolver.txt("t5.test")
    assert len(server.asked) == 6
    await resolver.txt("t0.test")
    assert len(server.asked) == 7


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".test", "." + "x.test", ".".join(["x" * 60] * 6)])
async def test_name_that_can_be_nobodys_does_not_exist(server, resolver, name):
    with pytest.raises(NoSuchDomain):
        await resolver.mx(name)
    assert server.asked == []


RECORD = "3 1 1 " + "ab" * 32


def resolver_that(server: NameServer, clock: Clock, *, trusted: bool | None) -> DnsResolver:
    assert server.transport is not None
    port = server.transport.get_extra_info("sockname")[1]
    return DnsResolver(clock=clock, servers=(DnsServer("127.0.0.1", port),), answer_s=0.5, trusted=trusted)


@pytest.fixture
def signed(server: NameServer) -> NameServer:
    """A host with a TLSA record, all of it authentic."""
    server.zone["to.test", "MX"] = (60, ["10 mx.test."])
    server.zone["mx.test", "A"] = (60, ["192.0.2.1"])
    server.zone["_25._tcp.mx.test", "TLSA"] = (60, [RECORD])
    server.authentic |= {"to.test", "mx.test", "_25._tcp.mx.test"}
    return server


async def test_authentic_records_of_an_authentic_host_are_found(signed, resolver):
    assert await resolver.mx("to.test") == [MailExchanger(10, "mx.test", authentic=True)]
    assert await resolver.tlsa("mx.test", 25) == TlsaAnswer("mx.test", (RECORD,))
    assert all(flags & dns.flags.AD for flags in signed.flags)


async def test_nobody_is_believed_who_is_not_trusted(signed, clock):
    resolver = resolver_that(signed, clock, trusted=False)
    assert await resolver.mx("to.test") == [MailExchanger(10, "mx.test")]
    assert await resolver.tlsa("mx.test", 25) is None
    assert ("_25._tcp.mx.test", "TLSA") not in signed.asked
    assert not any(flags & dns.flags.AD for flags in signed.flags)


@pytest.mark.parametrize(
    ("address", "trusted", "believed"),
    [("127.0.0.1", None, True), ("::1", None, True), ("192.0.2.53", None, False), ("192.0.2.53", True, True)],
)
def test_who_is_trusted_unless_said_otherwise(clock, address, trusted, believed):
    resolver = DnsResolver(clock=clock, servers=(DnsServer(address),), trusted=trusted)
    resolver._make_stub()
    assert resolver._trusted is believed


@pytest.mark.parametrize("plain", ["mx.test", "_25._tcp.mx.test"])
async def test_what_is_not_authentic_does_not_count(signed, resolver, plain):
    signed.authentic.discard(plain)
    assert await resolver.tlsa("mx.test", 25) is None


async def test_records_of_a_host_that_is_not_authentic_are_not_even_asked_for(signed, resolver):
    """Zones without signatures often stand on servers that do not answer for TLSA (RFC 7672 section 2.2.2)."""
    signed.authentic.discard("mx.test")
    signed.broken.add("_25._tcp.mx.test")
    assert await resolver.tlsa("mx.test", 25) is None


@pytest.mark.parametrize("how", ["broken", "mute"])
async def test_records_that_cannot_be_had_are_a_failure(signed, resolver, how):
    getattr(signed, how).add("_25._tcp.mx.test")
    with pytest.raises(DnsFailure):
        await resolver.tlsa("mx.test", 25)


async def test_no_records_are_no_failure(signed, resolver):
    del signed.zone["_25._tcp.mx.test", "TLSA"]
    assert await resolver.tlsa("mx.test", 25) is None
    assert await resolver.tlsa("127.0.0.1", 25) is None
    assert await resolver.tlsa("localhost", 25) is None


async def test_of_an_alias_the_records_at_its_end_come_first(signed, resolver):
    signed.aliases["alias.test"] = "mx.test"
    signed.authentic.add("alias.test")
    assert await resolver.tlsa("alias.test", 25) == TlsaAnswer("mx.test", (RECORD,))


async def test_then_those_of_the_alias_itself(signed, resolver):
    signed.aliases["alias.test"] = "mx.test"
    del signed.zone["_25._tcp.mx.test", "TLSA"]
    signed.zone["_25._tcp.alias.test", "TLSA"] = (60, [RECORD])
    signed.authentic |= {"alias.test", "_25._tcp.alias.test"}
    assert await resolver.tlsa("alias.test", 25) == TlsaAnswer("alias.test", (RECORD,))


@pytest.mark.parametrize("believed", [True, False])
async def test_an_authentic_alias_of_a_host_that_is_not_has_its_own(server, resolver, believed):
    server.aliases["alias.test"] = "mx.plain.test"
    server.zone["mx.plain.test", "A"] = (60, ["192.0.2.1"])
    server.zone["_25._tcp.alias.test", "TLSA"] = (60, [RECORD])
    server.zone["alias.test", "CNAME"] = (60, ["mx.plain.test."])
    server.authentic.add("_25._tcp.alias.test")
    resolver._entries_max = 100
    if not believed:
        assert await resolver.tlsa("alias.test", 25) is None
        return

    def asked(data: bytes, addr: object) -> None:
        """Only the alias itself is authentic, not what is at its end."""
        kind = dns.rdatatype.to_text(dns.message.from_wire(data).question[0].rdtype)
        (server.authentic.add if kind == "CNAME" else server.authentic.discard)("alias.test")
        NameServer.datagram_received(server, data, addr)

    server.datagram_received = asked
    assert await resolver.tlsa("alias.test", 25) == TlsaAnswer("alias.test", (RECORD,))
