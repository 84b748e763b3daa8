"""The fake servers keep to SMTP, and what they break they break where they say."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.ports.network import DnsFailure, NoSuchDomain
from pigeonry.testing.dice import SeededDice
from pigeonry.testing.loop import VirtualLoop
from pigeonry.testing.network import FakeDialer, FakeResolver
from pigeonry.testing.world import Temper, World


class Client(asyncio.Protocol):
    """Says what it is told and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: list[Exception | None] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    async def say(self, octets: bytes) -> bytes:
        self.heard = b""
        self.transport.write(octets)
        await asyncio.sleep(3)
        return self.heard


class Rig:
    def __init__(self, loop: VirtualLoop, temper: Temper) -> None:
        self.loop = loop
        self.world = World(loop, SeededDice("world"), temper, sites=2)
        self.dialer = FakeDialer(loop, self.world, SeededDice("dialer"))

    async def connect(self) -> Client:
        client = Client()
        await self.dialer.dial(lambda: client, "198.51.100.1", 25, source="", timeout_s=5)
        await asyncio.sleep(3)
        return client


def play(story, **temper: float) -> None:
    loop = VirtualLoop()
    loop.play(story(Rig(loop, Temper(**temper))))


ENVELOPE = b"EHLO a.test\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@site0.test>\r\n"


def test_a_message_by_data_is_unstuffed_and_taken() -> None:
    async def story(rig: Rig) -> None:
        client = await rig.connect()
        assert client.heard.startswith(b"220 ")
        assert (await client.say(ENVELOPE + b"DATA\r\n")).endswith(b"354 go on\r\n")
        assert await client.say(b"Subject: x\r\n\r\n..dot\r\n.\r\n") == b"250 2.0.0 taken\r\n"
        (arrival,) = rig.world.arrivals
        assert (arrival.recipient, arrival.content) == ("r@site0.test", b"Subject: x\r\n\r\n.dot\r\n")
        assert (await client.say(b"QUIT\r\n")).startswith(b"221 ")
        assert client.lost == [None]

    play(story)


def test_a_message_by_chunks_and_the_next_one_on_the_same_connection() -> None:
    async def story(rig: Rig) -> None:
        client = await rig.connect()
        heard = await client.say(ENVELOPE + b"BDAT 3\r\na\r\nBDAT 4 LAST\r\n.\r\nb")
        assert heard.endswith(b"250 2.0.0 chunk\r\n250 2.0.0 taken\r\n")
        heard = await client.say(ENVELOPE[13:] + b"DATA\r\n")
        assert heard.endswith(b"354 go on\r\n")
        assert await client.say(b".\r\n") == b"250 2.0.0 taken\r\n"
        assert [arrival.content for arrival in rig.world.arrivals] == [b"a\r\n.\r\nb", b""]

    play(story)


def test_commands_out_of_order_are_refused() -> None:
    async def story(rig: Rig) -> None:
        client = await rig.connect()
        heard = await client.say(b"RCPT TO:<r@x>\r\nDATA\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nRSET\r\nNOOP\r\n")
        codes = [line[:3] for line in heard.split(b"\r\n") if line]
        assert codes == [b"503", b"554", b"250", b"503", b"250", b"500"]

    play(story)


def test_every_stage_can_break_before_or_after_the_message_is_taken() -> None:
    taken: dict[str, int] = {}

    async def story(rig: Rig) -> None:
        stages: list[str] = []
        rig.world.on_line = lambda text: stages.append(text.rpartition(" ")[2]) if " breaks at " in text else None
        for _ in range(60):
            client = await rig.connect()
            before, stages[:] = len(rig.world.arrivals), []
            for octets in (ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n", b"QUIT\r\n"):
                await client.say(octets)
            assert len(client.lost) == 1
            if stages:
                assert isinstance(client.lost[0], ConnectionResetError)
                taken[stages[0]] = len(rig.world.arrivals) - before

    play(story, broken=1.0, stalls=0.0)
    assert taken.pop("reply") == 1
    assert {"MAIL", "RCPT", "DATA", "body", "dot"} <= set(taken)
    assert set(taken.values()) == {0}


def test_a_stalled_connection_says_nothing_and_stays() -> None:
    async def story(rig: Rig) -> None:
        for _ in range(5):
            client = await rig.connect()
            await client.say(ENVELOPE + b"DATA\r\n")
            await client.say(b"x\r\n.\r\n")
            assert await client.say(b"QUIT\r\n") in {b"", b"221 2.0.0 bye\r\n"}

    play(story, broken=1.0, stalls=1.0)


def test_connections_are_refused_lost_or_turned_away() -> None:
    async def refused(rig: Rig) -> None:
        with pytest.raises(ConnectionRefusedError):
            await rig.connect()

    async def silent(rig: Rig) -> None:
        with pytest.raises(TimeoutError):
            await rig.connect()
        assert rig.loop.time() == 5.0

    async def turned_away(rig: Rig) -> None:
        client = await rig.connect()
        assert client.heard.startswith(b"421 ")
        assert client.lost == [None]

    play(refused, refuse=1.0)
    play(silent, silent=1.0)
    play(turned_away, greet_4yz=1.0)


def test_tls_begins_the_session_anew_or_fails() -> None:
    async def story(rig: Rig) -> None:
        client = await rig.connect()
        transport = client.transport
        _, peer = await rig.dialer.start_tls(transport, client, server_name="x", verify=True, timeout_s=1)
        assert peer.verified
        assert b"STARTTLS" not in await client.say(b"EHLO a.test\r\n")
        rig.world.temper = msgspec.structs.replace(rig.world.temper, tls=1.0)
        with pytest.raises(OSError):
            await rig.dialer.start_tls(transport, client, server_name="x", verify=True, timeout_s=1)
        with pytest.raises(ConnectionResetError):
            await rig.dialer.start_tls(transport, client, server_name="x", verify=True, timeout_s=1)

    play(story)


def test_what_a_dead_machine_had_sent_arrives_only_if_the_power_stayed_on() -> None:
    async def story(rig: Rig) -> None:
        for sent_arrives in (True, False):
            rig.dialer = FakeDialer(rig.loop, rig.world, SeededDice("dialer"))
            client = await rig.connect()
            await client.say(ENVELOPE + b"DATA\r\n")
            client.transport.write(b"x\r\n.\r\n")
            before = len(rig.world.arrivals)
            rig.dialer.go_down(sent_arrives=sent_arrives)
            client.transport.write(b"ignored")
            await asyncio.sleep(5)
            assert len(rig.world.arrivals) - before == int(sent_arrives)
            assert not client.lost  # nobody is there to hear of it
            with pytest.raises(ConnectionRefusedError):
                await rig.connect()

    play(story)


def test_a_paused_reader_gets_it_all_later() -> None:
    async def story(rig: Rig) -> None:
        client = await rig.connect()
        client.transport.pause_reading()
        assert await client.say(b"EHLO a.test\r\nRSET\r\n") == b""
        client.transport.resume_reading()
        assert client.heard.endswith(b"250 2.0.0 ok\r\n")

    play(story)


def test_names_resolve_do_not_exist_or_fail() -> None:
    async def story(rig: Rig) -> None:
        fault = [0.0]
        resolver = FakeResolver(
            exchangers=rig.world.exchangers, hosts=rig.world.hosts, dice=SeededDice("dns"), fault=lambda: fault[0]
        )
        (first, *_) = await resolver.mx("site0.test")
        assert await resolver.addresses(first.host)
        for ask in (resolver.mx, resolver.addresses, resolver.txt):
            with pytest.raises(NoSuchDomain):
                await ask("nowhere.test")
        fault[0] = 1.0
        with pytest.raises(DnsFailure):
            await resolver.mx("site0.test")

    play(story)
