"""Properties of the client's core: how octets are split makes no difference, and nothing a server says breaks it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.protocol.smtp.client import Event, Finished, Lost, Ready, SendBody, SmtpClient, Stage, Transaction
from pigeonry.protocol.smtp.dot_stuffing import end_of_data, stuffed

CODES = st.sampled_from([200, 220, 221, 250, 354, 421, 450, 451, 500, 503, 550, 554])
TEXTS = st.sampled_from(["", "ok", "2.1.0 ok", "5.1.1 no", "4.2.0 later", "x" * 600])
OFFERS = st.lists(st.sampled_from(["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 99", "DSN"]), unique=True)


@st.composite
def reply(draw: st.DrawFn) -> bytes:
    code = draw(CODES)
    lines = draw(st.lists(TEXTS, min_size=1, max_size=3))
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    out = [f"{code}-{line}{end}" for line in lines[:-1]] + [f"{code} {lines[-1]}{end}"]
    return "".join(out).encode()


GARBAGE = st.binary(max_size=20)
SERVER = st.lists(st.one_of(reply(), reply(), reply(), GARBAGE), max_size=12).map(b"".join)


def played(stream: bytes, *, following: bool = False) -> tuple[list[Event], bytes]:
    """All events and all that was written, when a driver sends message after message; one octet at a time."""
    client = SmtpClient(hostname="me.test")
    events: list[Event] = []
    written = b""
    for at in range(len(stream)):
        for event in client.receive(stream[at : at + 1]):
            events.append(event)
            if isinstance(event, SendBody):
                client.complete()
                if following and client.capabilities.pipelining:
                    client.follow(Transaction(b"a@b.test", b"c@d.test", 7))
            elif isinstance(event, Ready | Finished) and client.idle:
                client.begin(Transaction(b"a@b.test", b"c@d.test", 7))
        written += client.take_output()
    return events + client.lost("end"), written


GREETINGS = OFFERS.map(
    lambda offers: (
        b"220 hi\r\n250-x\r\n" + b"".join(b"250-" + offer.encode() + b"\r\n" for offer in offers) + b"250 Z\r\n"
    )
)


@given(SERVER, GREETINGS)
def test_every_message_comes_to_one_end_whatever_the_server_says(octets, greeted):
    events, written = played(greeted + octets)
    begun = 1 + sum(isinstance(event, Finished) for event in events[:-1])
    bodies = sum(isinstance(event, SendBody) for event in events)
    ends = [event for event in events if isinstance(event, Finished | Lost)]
    assert isinstance(events[0], Ready)
    assert len(ends) == begun
    assert sum(event.stage is Stage.DOT for event in ends) == bodies
    assert sum(isinstance(event, Lost) for event in ends) <= 1
    assert written.count(b"MAIL FROM") <= begun


@given(SERVER, GREETINGS)
def test_every_message_that_follows_another_comes_to_one_end_too(octets, greeted):
    events, written = played(greeted + octets, following=True)
    ends = [event for event in events if isinstance(event, Finished | Lost)]
    lost = [event.stage for event in ends if isinstance(event, Lost)]
    begun = written.count(b"MAIL FROM")
    # The last one may never have been given out: the session was over before anything followed.
    assert len(ends) in (begun, begun + 1)
    assert sum(event.stage is Stage.DOT for event in ends) == sum(isinstance(event, SendBody) for event in events)
    assert len(lost) <= 2
    assert lost[1:] in ([], [Stage.MAIL])
    if len(lost) == 2:
        assert lost[0] is Stage.DOT


@given(SERVER, st.integers(1, 40), st.sampled_from([("PIPELINING",), ()]))
def test_split_points_make_no_difference(octets, size, offers):
    def fed(step: int) -> tuple[list[Event], bytes]:
        client = SmtpClient(hostname="me.test")
        client.receive(b"220 hi\r\n")
        client.receive(b"250-x\r\n" + b"".join(b"250-" + offer.encode() + b"\r\n" for offer in offers) + b"250 Z\r\n")
        client.take_output()
        client.begin(Transaction(b"a@b.test", b"c@d.test", 7))
        events: list[Event] = []
        written = b""
        for at in range(0, len(octets), step):
            events += client.receive(octets[at : at + step])
            written += client.take_output()
        return events + client.lost("end"), written + client.take_output()

    assert fed(size) == fed(1)
    assert fed(max(1, len(octets))) == fed(1)


@given(st.binary(max_size=200).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n")))
def test_receiver_gets_back_what_was_stuffed(octets):
    wire = stuffed(octets) + end_of_data(stuffed(octets))
    lines = wire.split(b"\r\n")
    assert lines.index(b".") == len(lines) - 2
    unstuffed = b"\r\n".join([line.removeprefix(b".") for line in lines[:-2]])
    assert unstuffed in (octets, octets.removesuffix(b"\r\n"))
