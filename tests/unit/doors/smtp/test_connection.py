from __future__ import annotations

import asyncio

import pytest

from pigeonry.domain.errors import BadRequest, Overloaded, PigeonryError, StoreBusy, StoreInDoubt, TooManyRequests
from pigeonry.domain.message import BodyRef
from pigeonry.doors.smtp.connection import WAITING_OCTETS_MAX
from pigeonry.protocol.smtp.service import Limits
from support.smtp_door import EHLO, ENVELOPE, LOGIN, WRONG_LOGIN, Bench, Client

TEXT = b"From: a@sender.test\r\n\r\nBody\r\n"
DATA = ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n"
LARGE = TEXT + (b"x" * 78 + b"\r\n") * 10_000


async def test_a_message_is_acknowledged_after_it_was_accepted_and_not_before() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    client = await bench.client()
    assert await client.say(DATA) == ["250 2.1.0", "250 2.1.5", "354 End"]
    assert bench.door.octets_in_flight > 0
    bench.gate.set()
    assert await client.say(b"") == ["250 2.0.0"]
    assert client.transport.written.endswith(b"250 2.0.0 Great success AAEAAE4gAAAAAAAAAAAABw\r\n")
    assert bench.door.octets_in_flight == 0
    assert bench.deadlines == [bench.door.config.accept_s]
    assert bench.door.counts.accepted == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreBusy("x"), "451 4.3.1"),
        (StoreInDoubt("x"), "451 4.3.0"),
        (Overloaded("x"), "451 4.3.2"),
        (BadRequest("x"), "554 5.6.0"),
        (RuntimeError("a bug"), "451 4.3.0"),
    ],
)
async def test_an_error_is_the_answer_and_the_session_goes_on(error: Exception, said: str) -> None:
    bench = Bench()
    bench.error = error
    client = await bench.client()
    assert (await client.say(DATA))[-1] == said
    assert b"a bug" not in client.transport.written
    bench.error = None
    assert (await client.say(DATA))[-1] == "250 2.0.0"
    assert bench.door.octets_in_flight == 0


async def test_what_a_client_sends_ahead_is_answered_in_order() -> None:
    bench = Bench()
    client = await bench.client()
    assert await client.say(DATA + DATA + b"QUIT\r\n") == ["250 2.1.0", "250 2.1.5", "354 End", "250 2.0.0"] * 2 + [
        "221 2.0.0"
    ]
    assert len(bench.taken) == 2
    assert client.transport.closed


async def test_reading_stops_while_too_much_waits() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    client = await bench.client()
    await client.say(DATA + b"NOOP\r\n" * 2)
    assert client.transport.reading
    await client.say(b"NOOP\r\n" * (WAITING_OCTETS_MAX // 6))
    assert not client.transport.reading
    bench.gate.set()
    await client.say(b"")
    assert client.transport.reading


async def test_reading_stops_while_the_client_does_not_read() -> None:
    client = await Bench().client()
    client.connection.pause_writing()
    assert not client.transport.reading
    client.connection.resume_writing()
    assert client.transport.reading


# --- large messages


@pytest.mark.parametrize("by", [50_000, 300_000, len(LARGE) + 100])
async def test_a_large_message_is_spooled(by: int) -> None:
    bench = Bench()
    client = await bench.client()
    await client.say(ENVELOPE + b"DATA\r\n")
    said: list[str] = []
    stream = LARGE + b".\r\n"
    for at in range(0, len(stream), by):
        said += await client.say(stream[at : at + by])
    assert said == ["250 2.0.0"]
    made = bench.taken[0]
    if bench.spools:
        spool = bench.spools[0]
        assert made.body == BodyRef(1, 2, -1, len(spool.octets), 3)
        stored = spool.octets
        assert (spool.finished, spool.discarded) == (True, False)
    else:
        stored = made.body  # type: ignore[assignment]
    assert stored.endswith(LARGE.split(b"\r\n\r\n", 1)[1])
    assert stored.startswith(b"Received: from client.test")
    assert made.summary.size == len(stored)
    assert made.summary.headers.from_ == "a@sender.test"


@pytest.mark.parametrize("ending", ["refused", "spoilt", "lost", "drained", "disk", "head"])
async def test_a_large_message_that_fails_leaves_nothing_in_the_spool(ending: str) -> None:
    bench = Bench()
    client = await bench.client()
    await client.say(ENVELOPE + b"DATA\r\n")
    if ending == "disk":
        bench.spool_full = True
    head = b"X-Mailgun-Dkim: perhaps\r\n" if ending == "head" else b""
    await client.say(head + LARGE)
    assert len(bench.spools) == (0 if ending == "head" else 1)
    said: list[str] = []
    if ending == "refused":
        bench.error = StoreBusy("x")
        said = await client.say(b".\r\n")
        assert said == ["451 4.3.1"]
    elif ending == "spoilt":
        assert await client.say(b"bare\n\r\n.\r\n") == ["550 5.6.11"]
    elif ending == "lost":
        client.lose()
    elif ending == "disk":
        assert await client.say(LARGE + b".\r\n") == ["451 4.3.1"]
    elif ending == "head":
        assert await client.say(LARGE + b".\r\n") == ["554 5.6.0"]
    else:
        bench.door.stop()
        client.lose()
    assert all(spool.discarded for spool in bench.spools)
    assert bench.taken == []
    if ending not in {"lost", "drained"}:
        bench.error, bench.spool_full = None, False
        assert (await client.say(DATA))[-1] == "250 2.0.0"


async def test_eight_bit_octets_are_noticed_in_any_piece() -> None:
    for late in (b"", "ä\r\n".encode()):
        bench = Bench()
        client = await bench.client()
        await client.say(ENVELOPE + b"DATA\r\n")
        await client.say(LARGE)
        assert await client.say(late + LARGE + b".\r\n") == ["250 2.0.0"]
        assert bench.taken[0].eight_bit is bool(late)


# --- logins


async def test_a_login_lets_a_stranger_send() -> None:
    bench = Bench()
    stranger = await bench.client(address="192.0.2.1")
    assert (await stranger.say(ENVELOPE))[0] == "530 5.7.0"
    assert await stranger.say(LOGIN) == ["235 2.7.0"]
    assert (await stranger.say(DATA))[-1] == "250 2.0.0"


async def test_wrong_logins_cost_time_and_then_the_connection() -> None:
    bench = Bench()
    stranger = await bench.client(address="192.0.2.1")
    assert await stranger.say(WRONG_LOGIN) == ["535 5.7.8"]
    assert await stranger.say(WRONG_LOGIN) == ["535 5.7.8"]
    assert await stranger.say(WRONG_LOGIN) == ["535 5.7.8", "421 4.7.0"]
    assert bench.clock.slept == [0.5, 1.0, 2.0]
    assert bench.door.counts.failed_logins == 3


async def test_a_client_that_guesses_is_turned_away_over_all_its_connections() -> None:
    bench = Bench()
    for _ in range(10):
        stranger = await bench.client(address="192.0.2.1")
        await stranger.say(WRONG_LOGIN)
        await stranger.say(WRONG_LOGIN)
        stranger.lose()
    stranger = await bench.client(address="192.0.2.1")
    bench.door.now = bench.clock.time
    assert await stranger.say(LOGIN) == ["421 4.7.0"]
    other = await bench.client(address="192.0.2.2")
    assert await other.say(LOGIN) == ["235 2.7.0"]


@pytest.mark.parametrize("error", [Overloaded("x"), RuntimeError("x")])
async def test_a_login_that_cannot_be_checked_is_put_off(error: PigeonryError | Exception) -> None:
    bench = Bench()
    bench.login_error = error
    stranger = await bench.client(address="192.0.2.1")
    assert await stranger.say(LOGIN) == ["454 4.7.0"]
    assert (await stranger.say(ENVELOPE))[0] == "530 5.7.0"


# --- bounds


async def test_mail_is_shed_before_a_transaction_and_not_within_one() -> None:
    bench = Bench()
    client = await bench.client()
    await client.say(ENVELOPE)
    bench.shed = "the disk is slow"
    assert (await client.say(b"DATA\r\n" + TEXT + b".\r\n"))[-1] == "250 2.0.0"
    assert (await client.say(ENVELOPE))[0] == "451 4.3.2"
    assert b"disk" not in client.transport.written
    bench.shed = None
    assert (await client.say(ENVELOPE))[0] == "250 2.1.0"


async def test_octets_in_flight_are_bounded() -> None:
    bench = Bench(octets_in_flight_max=20)
    bench.gate = asyncio.Event()
    first, second = await bench.client(), await bench.client()
    await first.say(DATA)
    assert (await second.say(ENVELOPE))[0] == "451 4.3.2"
    bench.gate.set()
    await first.say(b"")
    assert (await second.say(ENVELOPE))[0] == "250 2.1.0"


async def test_connections_are_bounded_in_all() -> None:
    bench = Bench(connections_max=2)
    clients = [Client(bench) for _ in range(3)]
    assert [client.transport.written[:3] for client in clients] == [b"220", b"220", b"421"]
    clients[0].lose()
    clients[2].lose()
    assert Client(bench).transport.written.startswith(b"220")


async def test_connections_of_one_stranger_are_bounded() -> None:
    bench = Bench(connections_per_client_max=1)
    addresses = [
        "192.0.2.1",
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "127.0.0.1",
        "127.0.0.1",
    ]
    clients = [Client(bench, address=address) for address in addresses]
    greetings = [client.transport.written[:3] for client in clients]
    assert greetings == [b"220", b"421", b"220", b"220", b"421", b"220", b"220", b"220"]
    clients[1].lose()
    clients[0].lose()
    assert Client(bench, address="192.0.2.1").transport.written.startswith(b"220")


async def test_trusted_clients_by_mapped_address() -> None:
    client = await Bench().client(address="::ffff:127.0.0.1")
    assert (await client.say(DATA))[-1] == "250 2.0.0"


async def test_everybody_cannot_be_trusted() -> None:
    for network in ("0.0.0.0/0", "::/0", "nonsense"):
        with pytest.raises(ValueError, match=r"network|everybody"):
            Bench(trusted_networks=(network,))


# --- time and ends


async def test_a_silent_client_is_told_to_go() -> None:
    bench = Bench(idle_s=10.0)
    client = await bench.client()
    bench.clock.time += 9.0
    bench.door._sweep()
    await client.say(b"NOOP\r\n")
    bench.clock.time += 9.0
    bench.door._sweep()
    assert not client.transport.eof
    bench.clock.time += 2.0
    bench.door._sweep()
    assert client.transport.written.endswith(b"421 4.4.2 Too long without a command\r\n")
    assert client.transport.eof
    bench.clock.time += 3.0
    bench.door._sweep()
    assert client.transport.aborted


async def test_an_old_connection_ends_even_when_it_is_busy() -> None:
    bench = Bench(idle_s=10.0, session_s=20.0)
    client = await bench.client()
    for _ in range(3):
        bench.clock.time += 8.0
        bench.door._sweep()
        await client.say(b"NOOP\r\n")
    assert b"421 4.4.2" in client.transport.written


async def test_time_does_not_run_out_on_a_message_that_is_being_accepted() -> None:
    bench = Bench(idle_s=10.0)
    bench.gate = asyncio.Event()
    client = await bench.client()
    await client.say(DATA)
    bench.clock.time += 15.0
    bench.door._sweep()
    bench.gate.set()
    assert await client.say(b"") == ["250 2.0.0"]


async def test_draining_lets_the_message_that_is_owed_finish() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    idle, sending, half = [await bench.client() for _ in range(3)]
    await sending.say(DATA)
    await half.say(ENVELOPE + b"DATA\r\n" + TEXT)
    draining = asyncio.create_task(bench.door.drain(60.0))
    await asyncio.sleep(0)
    assert idle.transport.written.endswith(b"connect again\r\n")
    late = Client(bench)
    assert late.transport.written.startswith(b"421 4.3.2")
    late.lose()
    idle.lose()
    assert not sending.transport.eof
    bench.gate.set()
    assert await sending.say(b"") == ["250 2.0.0", "421 4.3.2"]
    assert not half.transport.eof
    assert await half.say(b".\r\n") == ["250 2.0.0", "421 4.3.2"]
    assert not draining.done()
    sending.lose()
    half.lose()
    await asyncio.wait_for(draining, 5)
    assert len(bench.taken) == 2


async def test_draining_does_not_wait_for_ever() -> None:
    bench = Bench()
    client = await bench.client()
    await client.say(ENVELOPE)
    assert not await bench.door.drain(60.0)
    assert client.transport.written.endswith(b"421 4.3.2 The service is restarting, connect again\r\n")
    assert client.transport.aborted
    assert 1_060.0 <= bench.clock.time < 1_061.0


async def test_stopping_cancels_what_nobody_was_told_of() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    client = await bench.client()
    await client.say(DATA)
    assert bench.door.taking == 1
    bench.door.stop()
    client.lose()
    bench.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.taken == []
    assert bench.door.octets_in_flight == 0
    assert bench.door.taking == 0


async def test_a_client_that_leaves_does_not_undo_its_message() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    client = await bench.client()
    await client.say(DATA)
    client.lose()
    bench.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.taken) == 1
    assert not bench.door.connections
    assert bench.door.octets_in_flight == 0


async def test_a_half_closed_client_gets_its_answer() -> None:
    bench = Bench()
    bench.gate = asyncio.Event()
    client = await bench.client()
    await client.say(DATA)
    assert client.connection.eof_received() is True
    bench.gate.set()
    assert await client.say(b"") == ["250 2.0.0"]
    assert client.transport.closed
    other = await bench.client()
    assert other.connection.eof_received() is False


async def test_limits_are_the_listeners() -> None:
    client = Client(Bench(limits=Limits(message_octets_max=1_000)))
    await client.say(EHLO)
    assert b"SIZE 1000\r\n" in client.transport.written


async def test_implicit_tls_is_said_in_the_trace_line() -> None:
    bench = Bench(allow_plain_auth=False)
    client = await bench.client(tls=True, login=True, address="192.0.2.9")
    assert b"STARTTLS" not in client.transport.written
    assert (await client.say(DATA))[-1] == "250 2.0.0"
    assert b" with ESMTPSA id " in bench.taken[0].body  # type: ignore[operator]


async def test_the_door_keeps_time_until_it_is_cancelled() -> None:
    bench = Bench(idle_s=3.0)
    client = await bench.client()
    running = asyncio.create_task(bench.door.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert client.transport.eof
    running.cancel()
    await asyncio.wait([running])
    assert bench.clock.slept[:4] == [1.0] * 4


async def test_who_has_to_be_asked_is_asked_before_anything_is_taken() -> None:
    bench = Bench()
    bench.asks = True
    assert await bench.send(b"Subject: x\r\n\r\ntext\r\n") == ["250 2.0.0"]
    assert len(bench.taken) == 1
    bench.error = TooManyRequests("This account may send to 10 recipients an hour.", retry_after_s=7.0)
    assert await bench.send(b"Subject: x\r\n\r\ntext\r\n") == ["451 4.7.1"]
    assert len(bench.taken) == 1
    assert bench.door.octets_in_flight == bench.door.taking == 0
