"""A message whose envelope left with the dot of the one before: neither may suffer from what becomes of the other."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from pigeonry.domain.errors import NotFound, StoreBusy
from pigeonry.domain.message import Options
from pigeonry.domain.outcome import Deferred, Delivered, InDoubt, Refused
from support.commits import followed

CUT = b"CUT"
SECOND_ENVELOPE = b"\r\n.\r\nMAIL FROM:<bounce@send.test> SIZE=30\r\nRCPT TO:<second@to.test>\r\nDATA\r\n"


class InTurn(dict):
    """Replies of all servers, each in its turn; what has run out, and ``...``, is as usual."""

    def get(self, stage, default=None):
        replies = super().get(stage, [])
        reply = replies.pop(0) if replies else ...
        return default if reply is ... else reply


def send(stage, replies=None, *, count=2, seconds=1_000.0, **limits):
    stage.site(replies=InTurn(replies or {}))
    names = ["first", "second", "third"][:count]
    stage.deliver(
        *[stage.pending(f"{name}@to.test") for name in names], connections_per_path=1, seconds=seconds, **limits
    )


def kinds(stage):
    return [type(stage.outcomes[serial]) for serial in sorted(stage.outcomes)]


def test_next_envelope_leaves_with_the_dot(stage):
    send(stage)
    assert kinds(stage) == [Delivered, Delivered]
    assert any(octets.endswith(SECOND_ENVELOPE) for octets in stage.written)
    assert stage.trace == ["dot-sent", "dot", "dot-sent", "dot"]
    assert len(stage.servers) == 1


@pytest.mark.parametrize(("reply", "kind"), [(b"452 4.3.1 full", Deferred), (b"554 5.6.0 no", Refused)])
def test_refusal_at_the_dot_is_of_its_own_message_only(stage, reply, kind):
    send(stage, {"DOT": [reply]})
    assert kinds(stage) == [kind, Delivered]
    assert len(stage.servers) == 1


def test_server_that_closes_with_the_dots_reply_gets_the_next_message_on_a_new_connection(stage):
    send(stage, {"DOT": [b"421 4.3.2 closing"]})
    assert kinds(stage) == [Deferred, Delivered]
    assert stage.outcomes[1].code == 421
    assert len(stage.servers) == 2
    assert stage.servers[1].commands.count(b"RCPT TO:<second@to.test>") == 1


@pytest.mark.parametrize("how", [CUT, None, b"354 more", b"xyz"])
def test_lost_reply_leaves_its_own_message_in_doubt_and_the_next_is_sent_once(stage, how):
    send(stage, {"DOT": [how]})
    assert kinds(stage) == [InDoubt, Delivered]
    assert len(stage.arrived) == 2
    assert [commit.pending.serial for commit in stage.store.commits] == [1, 2]


@pytest.mark.parametrize("how", [CUT, None, b"421 4.3.2 closing"])
def test_connection_that_ends_between_two_messages_harms_neither(stage, how):
    send(stage, {"MAIL": [..., how]})
    assert kinds(stage) == [Delivered, Delivered]
    assert len(stage.servers) == 2
    assert len(stage.arrived) == 2


@pytest.mark.parametrize("where", ["RCPT", "DATA"])
def test_connection_cut_in_the_next_envelope_defers_that_message(stage, where):
    send(stage, {where: [..., CUT]})
    assert kinds(stage) == [Delivered, Deferred]
    assert len(stage.arrived) == 1


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({"RCPT": [..., b"550 5.1.1 unknown"]}, Refused),
        ({"RCPT": [..., b"450 4.2.0 greylisted"]}, Deferred),
        ({"RCPT": [..., b"550 5.1.1 unknown"], "DATA": [..., b"354 go on"]}, Refused),
        ({"DATA": [..., b"554 5.5.0 no"]}, Refused),
        ({"DATA": [..., b"451 4.3.0 later"]}, Deferred),
        ({"MAIL": [..., b"451 4.3.0 later"], "RCPT": [..., b"503 5.5.1 no"], "DATA": [..., b"503 5.5.1 no"]}, Deferred),
    ],
)
def test_refused_envelope_is_of_its_own_message_only(stage, replies, kind):
    send(stage, replies, count=3)
    assert kinds(stage) == [Delivered, kind, Delivered]
    assert len(stage.arrived) == 2
    assert len(stage.servers) == 1


def test_message_after_one_that_meets_a_bug_when_it_ends_is_given_back(stage):
    settlement = stage.settlement

    def buggy(pending, message, outcome):
        if pending.serial == 1:
            raise RuntimeError("a bug")
        return settlement(pending, message, outcome)

    stage.settlement = buggy
    with capture_logs() as logs:
        send(stage)
    assert [entry["event"] for entry in logs] == ["courier_failed"]
    assert stage.postponed == [2]
    assert len(stage.arrived) == 1


def test_message_after_one_that_is_withheld_is_not_begun(stage):
    stage.store.faults.append(StoreBusy("full"))
    send(stage)
    assert kinds(stage) == [Deferred, Delivered]
    assert len(stage.arrived) == 1


def test_dot_of_a_message_that_was_begun_waits_for_its_own_dot_sent(stage):
    commits = []

    @followed
    async def commit(transition, *, deadline):
        commits.append(transition)
        if len(commits) == 2:
            raise StoreBusy("full")

    stage.store.commit = commit
    send(stage)
    assert kinds(stage) == [Delivered, Deferred]
    assert stage.outcomes[2].code == 451
    assert stage.trace == ["dot"]
    assert len(stage.arrived) == 1


def test_message_that_is_not_in_memory_comes_next_in_the_ordinary_way(stage):
    stage.in_memory = False
    send(stage)
    assert kinds(stage) == [Delivered, Delivered]
    assert not any(octets.endswith(SECOND_ENVELOPE) for octets in stage.written)
    assert len(stage.servers) == 1


def test_server_without_pipelining_gets_nothing_behind_the_dot(stage):
    stage.site(offers=("SIZE 1000000",))
    stage.deliver(stage.pending(), stage.pending(), connections_per_path=1)
    assert kinds(stage) == [Delivered, Delivered]
    assert sum(octets.endswith(b"\r\n.\r\n") for octets in stage.written) == 2


@pytest.mark.parametrize(
    ("address", "more", "code"),
    [
        ("a>\r\nRCPT TO:<b@to.test", {}, 553),
        ("second@to.test", {"body": b"x" * 2_000_000 + b"\r\n"}, 552),
        ("second@to.test", {"options": Options(require_tls=True)}, 450),
    ],
)
def test_message_that_cannot_go_over_the_session_does_not_follow(stage, address, more, code):
    stage.site()
    pendings = [stage.pending(), stage.pending(address, **more), stage.pending("third@to.test")]
    stage.deliver(*pendings, connections_per_path=1)
    assert isinstance(stage.outcomes[1], Delivered)
    assert not isinstance(stage.outcomes[2], Delivered)
    assert isinstance(stage.outcomes[3], Delivered)
    assert len(stage.arrived) == 2
    assert stage.outcomes[2].code == code


def test_test_message_takes_its_turn_without_being_sent(stage):
    stage.site()
    pendings = [stage.pending(), stage.pending(options=Options(testmode=True)), stage.pending()]
    stage.deliver(*pendings, connections_per_path=1)
    assert kinds(stage) == [Delivered, Delivered, Delivered]
    assert stage.outcomes[2].reply.code == 650
    assert len(stage.arrived) == 2


def test_bug_met_in_making_the_next_message_harms_no_other(stage, capsys):
    def kept(key):
        raise RuntimeError("a bug")

    stage.kept = kept
    send(stage, count=3)
    assert kinds(stage) == [Delivered, Delivered, Delivered]


def test_following_ends_with_the_last_message_of_a_connection(stage):
    send(stage, count=3, messages_per_connection=2)
    assert kinds(stage) == [Delivered, Delivered, Delivered]
    assert [server.taken for server in stage.servers] == [2, 1]


def test_nothing_follows_while_too_much_is_unsettled(stage):
    stage.settle_s = 100.0
    send(stage, count=3, unsettled_per_connection=2)
    assert kinds(stage) == [Delivered, Delivered, Delivered]
    mails = [octets for octets in stage.written if octets.startswith(b"MAIL")]
    assert len(mails) == 2  # the third came after a wait, with no envelope out


def test_message_that_is_gone_once_its_envelope_left_harms_no_other(stage):
    found = stage.get

    async def get(key):
        if key.serial == 2:
            raise NotFound("Message not found")
        return await found(key)

    stage.get = get
    send(stage, {"RCPT": [..., b"550 5.1.1 unknown"]}, count=3)
    assert stage.forgotten == [2]
    assert kinds(stage) == [Delivered, Delivered]
    assert len(stage.servers) == 2
