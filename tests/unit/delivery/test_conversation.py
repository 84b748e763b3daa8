"""What becomes of a recipient, whatever the server does and whenever the connection breaks."""

from __future__ import annotations

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.outcome import Deferred, Delivered, InDoubt, Refused

CUT = b"CUT"


def test_message_arrives_as_it_was_accepted_with_its_dots_stuffed(stage):
    stage.site()
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.arrived == [b"Subject: x\r\n\r\nhello\r\n..dotted\r\n"]
    assert stage.outcomes[1].attempt.mx_host == "mx.to.test"
    assert stage.outcomes[1].reply.enhanced_code == "2.0.0"
    assert stage.settlements == [1]


def test_envelope_is_one_write_and_a_small_body_leaves_with_its_dot(stage):
    stage.site()
    stage.deliver(stage.pending())
    envelope = b"MAIL FROM:<bounce@send.test> SIZE=30\r\nRCPT TO:<user@to.test>\r\nDATA\r\n"
    assert stage.written[1:3] == [envelope, b"Subject: x\r\n\r\nhello\r\n..dotted\r\n.\r\n"]


def test_large_body_travels_while_dot_sent_is_made_durable_and_the_dot_alone_waits(stage):
    body = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 1_000
    stage.site()
    stage.deliver(stage.pending(body=body))
    assert stage.written[2:4] == [body, b".\r\n"]
    assert stage.arrived == [body]


def test_final_dot_leaves_only_after_dot_sent_is_durable(stage):
    stage.site()
    stage.deliver(stage.pending(), stage.pending())
    assert sorted(stage.trace) == ["dot", "dot", "dot-sent", "dot-sent"]
    assert stage.trace[0] == "dot-sent"
    assert stage.trace[-1] == "dot"
    assert [commit.attempt for commit in stage.store.commits] == [1, 1]


@pytest.mark.parametrize("fault", [StoreBusy("full"), StoreInDoubt("late")])
def test_message_is_withheld_when_dot_sent_cannot_be_stored(stage, fault):
    stage.site()
    stage.store.faults.append(fault)
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Deferred)
    assert stage.outcomes[1].code == 451
    assert "dot" not in stage.trace
    assert stage.arrived == []
    assert stage.servers[0].lost


@pytest.mark.parametrize("stage_name", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", [CUT, None])
def test_connection_lost_before_the_dot_defers(stage, stage_name, how):
    script = stage.site(replies={stage_name: how})
    stage.deliver(stage.pending(), seconds=1_000.0)
    assert isinstance(stage.outcomes[1], Deferred), script
    assert stage.outcomes[1].code == 499
    assert stage.arrived == []


@pytest.mark.parametrize("how", [CUT, None, b"354 more", b"xyz"])
def test_reply_lost_after_the_dot_is_in_doubt_and_no_other_host_is_tried(stage, how):
    stage.site(replies={"DOT": how})
    stage.names.exchangers["to.test"] += (type(stage.names.exchangers["to.test"][0])(20, "mx2.to.test"),)
    stage.names.hosts["mx2.to.test"] = ("198.51.100.2",)
    stage.scripts["198.51.100.2"] = type(stage.scripts["198.51.100.1"])()
    stage.deliver(stage.pending(), seconds=1_000.0)
    assert isinstance(stage.outcomes[1], InDoubt)
    assert len(stage.arrived) == 1
    assert len(stage.servers) == 1


@pytest.mark.parametrize(
    ("command", "reply", "kind", "code"),
    [
        ("MAIL", b"550 5.7.1 no", Refused, 550),
        ("MAIL", b"451 4.3.0 later", Deferred, 451),
        ("RCPT", b"550 5.1.1 unknown", Refused, 550),
        ("RCPT", b"450 4.2.0 greylisted", Deferred, 450),
        ("DATA", b"554 5.5.0 no", Refused, 554),
        ("DATA", b"451 4.3.0 later", Deferred, 451),
        ("DOT", b"552 5.3.4 too large", Refused, 552),
        ("DOT", b"452 4.3.1 full", Deferred, 452),
        ("DOT", b"421 4.3.2 closing", Deferred, 421),
        ("RCPT", b"421 4.3.2 closing", Deferred, 421),
        ("GREETING", b"554 no service", Deferred, 554),
        ("GREETING", b"421 busy", Deferred, 421),
    ],
)
def test_reply_decides_over_the_recipient(stage, command, reply, kind, code):
    stage.site(replies={command: reply})
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], kind)
    assert stage.outcomes[1].code == code


def test_connection_goes_on_after_a_refused_recipient(stage):
    script = stage.site(replies={"RCPT": b"550 5.1.1 unknown"})

    async def main() -> None:
        import asyncio

        dispatcher = stage.dispatcher(connections_per_path=1)
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1)
        del script.replies["RCPT"]
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert isinstance(stage.outcomes[1], Refused)
    assert isinstance(stage.outcomes[2], Delivered)
    assert len(stage.servers) == 1
    assert b"RSET" in stage.servers[0].commands


def test_server_that_accepts_data_without_recipient_gets_a_lone_dot(stage):
    stage.site(replies={"RCPT": b"550 5.1.1 unknown", "DATA": b"354 go on"})
    stage.deliver(stage.pending(), stage.pending(), connections_per_path=1)
    assert isinstance(stage.outcomes[1], Refused)
    assert isinstance(stage.outcomes[2], Refused)
    assert stage.arrived == []
    assert len(stage.servers) == 1


def test_server_without_pipelining_gets_one_command_at_a_time(stage):
    stage.site(offers=())
    stage.deliver(stage.pending())
    assert stage.written[1:4] == [b"MAIL FROM:<bounce@send.test>\r\n", b"RCPT TO:<user@to.test>\r\n", b"DATA\r\n"]
    assert isinstance(stage.outcomes[1], Delivered)


def test_server_without_ehlo_gets_helo(stage):
    stage.site(replies={"EHLO": b"502 5.5.1 what"})
    stage.deliver(stage.pending())
    assert stage.servers[0].commands[:2] == [b"EHLO me.test", b"HELO me.test"]
    assert isinstance(stage.outcomes[1], Delivered)


def test_large_body_is_written_block_by_block(stage):
    body = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 40_000
    stage.site()
    stage.deliver(stage.pending(body=body))
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.arrived == [body]
    assert max(len(octets) for octets in stage.written) == 262_144


def test_internationalised_message_is_refused_where_smtputf8_is_not_offered(stage):
    stage.site(offers=("PIPELINING", "8BITMIME"))
    stage.deliver(stage.pending("jürgen@to.test", smtputf8=True))
    outcome = stage.outcomes[1]
    assert isinstance(outcome, Refused)
    assert outcome.reply.enhanced_code == "5.6.7"
    assert not any(command.startswith(b"MAIL") for command in stage.servers[0].commands)


def test_internationalised_message_says_so(stage):
    stage.site()
    stage.deliver(stage.pending("jürgen@to.test", smtputf8=True, eight_bit=True))
    assert isinstance(stage.outcomes[1], Delivered)
    assert b"MAIL FROM:<bounce@send.test> SIZE=30 BODY=8BITMIME SMTPUTF8" in stage.servers[0].commands
    assert "RCPT TO:<jürgen@to.test>".encode() in stage.servers[0].commands


def test_message_over_the_servers_limit_is_refused_without_being_offered(stage):
    stage.site(offers=("PIPELINING", "SIZE 10"))
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Refused)
    assert stage.outcomes[1].reply.enhanced_code == "5.3.4"


def test_eight_bit_body_is_converted_for_a_server_that_takes_seven(stage):
    stage.site(offers=("PIPELINING",))
    body = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ncafé\r\n".encode()
    stage.deliver(stage.pending(body=body, eight_bit=True))
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.arrived[0].isascii()
    assert b"caf=C3=A9" in stage.arrived[0]


def test_eight_bit_body_that_is_signed_is_refused_rather_than_broken(stage):
    stage.site(offers=("PIPELINING",))
    body = "DKIM-Signature: x\r\nSubject: x\r\n\r\ncafé\r\n".encode()
    stage.deliver(stage.pending(body=body, eight_bit=True))
    assert isinstance(stage.outcomes[1], Refused)
    assert stage.outcomes[1].reply.enhanced_code == "5.6.3"


def test_address_that_would_smuggle_a_command_is_refused(stage):
    stage.site()
    stage.deliver(stage.pending("a>\r\nRCPT TO:<b@to.test"), stage.pending())
    assert isinstance(stage.outcomes[1], Refused)
    assert stage.outcomes[1].reply.enhanced_code == "5.1.3"
    assert isinstance(stage.outcomes[2], Delivered)
