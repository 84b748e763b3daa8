"""Connections as a whole: how many, for how long, what waits, what ends."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.domain.errors import NotFound, StoreBusy
from pigeonry.domain.message import BodyKind, Options, RecipientState, RecipientView
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, Refused


def delivered(stage):
    return sorted(serial for serial, outcome in stage.outcomes.items() if isinstance(outcome, Delivered))


def test_messages_share_a_connection(stage):
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(10)], connections_per_path=1)
    assert delivered(stage) == list(range(1, 11))
    assert len(stage.servers) == 1
    assert stage.servers[0].commands[-1] == b"QUIT"


def test_connections_to_a_path_are_bounded(stage):
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(50)], connections_per_path=3)
    assert len(delivered(stage)) == 50
    assert len(stage.servers) == 3


def test_connections_are_bounded_over_all_paths_and_all_paths_get_their_turn(stage):
    pendings = []
    for n in range(6):
        stage.site(f"to{n}.test", f"198.51.100.{n + 1}")
        pendings += [stage.pending(f"u@to{n}.test") for _ in range(3)]
    highest = 0

    async def main():
        nonlocal highest
        dispatcher = stage.dispatcher(connections_max=2, idle_s=0.5)
        task = asyncio.ensure_future(dispatcher.run())
        for pending in pendings:
            dispatcher.dispatch(pending)
        for _ in range(1000):
            await asyncio.sleep(0.05)
            highest = max(highest, dispatcher.connections)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert len(delivered(stage)) == 18
    assert highest == 2


def test_connection_is_closed_after_its_share_of_messages(stage):
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(10)], connections_per_path=1, messages_per_connection=4)
    assert len(delivered(stage)) == 10
    assert len(stage.servers) == 3


def test_connection_that_the_server_closed_meanwhile_is_replaced_without_an_attempt(stage):
    stage.site(messages_max=1)
    stage.deliver(*[stage.pending() for _ in range(5)], connections_per_path=1)
    assert delivered(stage) == [1, 2, 3, 4, 5]


def test_reused_connection_that_says_421_to_the_next_message_is_replaced(stage):
    script = stage.site()

    async def main():
        dispatcher = stage.dispatcher(connections_per_path=1)
        task = asyncio.ensure_future(dispatcher.run())
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1)
        stage.servers[0].script = type(script)(replies={"MAIL": b"421 4.4.2 idle too long"})
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert delivered(stage) == [1, 2]
    assert len(stage.servers) == 2


def test_settling_runs_beside_the_next_message_up_to_a_bound(stage):
    stage.site()
    stage.settle_s = 1_000.0
    stage.deliver(*[stage.pending() for _ in range(9)], connections_per_path=1, unsettled_per_connection=4)
    assert len(stage.outcomes) == 4


def test_nothing_is_begun_while_outcomes_cannot_be_settled(stage):
    stage.site()
    stage.paused = True

    async def main():
        dispatcher = stage.dispatcher()
        task = asyncio.ensure_future(dispatcher.run())
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(30)
        assert stage.outcomes == {}
        stage.paused = False
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert delivered(stage) == [1]


def test_test_mode_reports_delivered_and_connects_to_nobody(stage):
    stage.site()
    stage.deliver(
        stage.pending(options=Options(testmode=True)), stage.pending("u@nowhere.test", options=Options(testmode=True))
    )
    assert [stage.outcomes[n].reply.code for n in (1, 2)] == [650, 650]
    assert stage.servers == []


def test_recipient_of_a_domain_that_does_not_exist_is_refused(stage):
    stage.deliver(stage.pending("u@nowhere.test"), stage.pending("v@nowhere.test"))
    assert all(isinstance(stage.outcomes[n], Refused) and stage.outcomes[n].code == 498 for n in (1, 2))
    assert stage.names.asked == ["nowhere.test"]


def test_a_recipient_cancelled_while_its_domain_was_looked_up_is_left_alone(stage):
    one, other = stage.pending("u@nowhere.test"), stage.pending("v@nowhere.test")
    stage.cancelled.add(one.serial)
    stage.deliver(one, other)
    assert stage.settlements == [other.serial]


def test_dead_path_is_not_hammered_and_its_backlog_is_deferred(stage):
    stage.site(refuse=True)
    dials = []
    answer = stage.answer
    stage.answer = lambda address, port: dials.append(stage.loop.time()) or answer(address, port)
    stage.deliver(*[stage.pending() for _ in range(500)], connections_per_path=5, seconds=60.0)
    assert len(stage.outcomes) == 500
    assert all(isinstance(outcome, Deferred) for outcome in stage.outcomes.values())
    assert len(dials) <= 12
    assert stage.ready.total() == 0


def test_path_that_is_back_is_used_again(stage):
    script = stage.site(refuse=True)

    async def main():
        dispatcher = stage.dispatcher(connections_per_path=1)
        task = asyncio.ensure_future(dispatcher.run())
        for _ in range(3):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(0.5)
        script.refuse = False
        await asyncio.sleep(10)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert isinstance(stage.outcomes[1], Deferred)
    assert delivered(stage) == [2, 3]


def test_drain_lets_end_what_was_begun_and_takes_no_more(stage):
    stage.site()

    async def main():
        dispatcher = stage.dispatcher(connections_per_path=1)
        task = asyncio.ensure_future(dispatcher.run())
        for _ in range(5):
            dispatcher.dispatch(stage.pending())
        await stage.until("dot")  # with the dot, the second one's envelope left
        await dispatcher.drain()
        assert stage.settlements == [1, 2]
        assert stage.ready.total() == 3
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert delivered(stage) == [1, 2]
    assert stage.servers[0].commands[-1] == b"QUIT"


def test_drain_returns_at_once_when_nothing_is_under_way(stage):
    async def main():
        dispatcher = stage.dispatcher()
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        await dispatcher.drain()
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())


def test_stopping_at_once_cuts_connections_before_the_dot(stage):
    stage.site()

    async def main():
        dispatcher = stage.dispatcher()
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        dispatcher.dispatch(stage.pending())
        await stage.until("DATA")
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)

    stage.play(main())
    assert stage.arrived == []
    assert stage.outcomes == {}
    assert stage.servers[0].lost


def test_recipient_whose_content_cannot_be_read_is_postponed(stage):
    stage.site()

    async def get(key):
        raise StoreBusy("later") if key.serial == 1 else NotFound("gone")

    stage.get = get
    stage.deliver(stage.pending(), stage.pending())
    assert (stage.postponed, stage.forgotten) == ([1], [2])


def test_content_that_stays_unreadable_ends_its_recipient_at_the_expiry(stage):
    async def get(key):
        raise StoreBusy("The message on disk does not match its checksum.")

    stage.site()
    stage.get = get
    stage.deliver(stage.pending(), stage.pending(expires_at=1.0))
    assert stage.postponed == [1]
    assert stage.settlements == [2]
    assert stage.outcomes[2] == Deferred(Attempt(), 451, description="The message could not be read from storage.")


def test_who_cannot_be_reached_is_deferred_without_reading_what_was_to_be_sent(stage):
    async def get(key):
        raise AssertionError("nobody needs the body")

    stage.in_memory = False
    stage.get = get
    stage.deliver(stage.pending("user@nowhere.test"))
    assert isinstance(stage.outcomes[1], Refused)


@pytest.mark.parametrize("more", [{"dsn_each": True}, {"dsn_return": "HDRS"}])
def test_what_a_recipient_asked_of_notifications_is_passed_on(stage, more):
    stage.site(offers=("PIPELINING", "DSN"))
    pending = stage.pending(**more)
    stage.store.views[pending.serial] = RecipientView(
        pending, RecipientState.PENDING, notify="NEVER", original="rfc822;x@y.test"
    )
    stage.deliver(pending)
    (server,) = stage.servers
    assert b"RCPT TO:<user@to.test> NOTIFY=NEVER ORCPT=rfc822;x@y.test" in server.commands


def test_batch_message_is_rendered_for_its_recipient(stage):
    stage.site()
    pending = stage.pending(body_kind=BodyKind.TEMPLATE)
    stage.store.views[1] = RecipientView(pending, RecipientState.PENDING, b'{"a":1}')
    stage.deliver(pending)
    assert stage.arrived[0].endswith(b'user@to.test{"a":1}\r\n')


def test_events_of_a_batch_tell_of_its_recipient_with_or_without_a_conversation(stage):
    stage.site()
    addresses = ("user@to.test", "user@nowhere.test")
    variables = msgspec.Raw(b'{"n":"%recipient.n%"}')
    pendings = [stage.pending(a, body_kind=BodyKind.TEMPLATE, user_variables=variables) for a in addresses]
    for pending in pendings:
        own = b'{"n":"A","%user%":"{\\"n\\":\\"A\\"}"}'
        stage.store.views[pending.serial] = RecipientView(pending, RecipientState.PENDING, own)
    stage.deliver(*pendings)
    assert isinstance(stage.outcomes[1], Delivered)
    assert not isinstance(stage.outcomes[2], Delivered)
    told = [stage.told[pending.serial] for pending in pendings]
    assert [bytes(message.user_variables) for message in told] == [b'{"n":"A"}'] * 2
    assert tuple(message.summary.headers.to for message in told) == addresses


def test_bug_in_one_message_harms_no_other(stage):
    stage.site()
    broken = stage.pending(body_kind=BodyKind.TEMPLATE)  # its variables are missing: rendering raises
    stage.store.views[1] = RecipientView(broken, RecipientState.PENDING, None)
    stage.deliver(broken, stage.pending(), connections_per_path=1)
    assert delivered(stage) == [2]
    assert isinstance(stage.outcomes[1], Deferred)


def test_idle_connection_is_closed_and_its_lane_forgotten(stage):
    stage.site()

    async def main():
        dispatcher = stage.dispatcher(idle_s=5.0)
        task = asyncio.ensure_future(dispatcher.run())
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(2)
        assert dispatcher.connections == 1
        await asyncio.sleep(10)
        assert dispatcher.connections == 0
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert stage.servers[0].commands[-1] == b"QUIT"


def test_failures_at_the_same_moment_count_once_and_spare_the_backlog(stage):
    script = stage.site(refuse=True)

    async def main():
        dispatcher = stage.dispatcher(connections_per_path=10)
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        for _ in range(100):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(2)
        script.refuse = False
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    assert len(delivered(stage)) >= 88
    assert len(stage.outcomes) == 100


def test_server_that_drops_every_connection_is_not_hammered(stage):
    stage.site(replies={"MAIL": b"CUT"})
    stage.deliver(*[stage.pending() for _ in range(300)], connections_per_path=5, seconds=60.0)
    assert len(stage.outcomes) == 300
    assert len(stage.servers) <= 12


def test_bug_in_a_look_up_harms_no_other(stage):
    stage.site()
    stage.names.exchangers["odd.test"] = ("no record",)
    stage.deliver(stage.pending("u@odd.test"), stage.pending())
    assert stage.postponed == [1]
    assert delivered(stage) == [2]


def test_many_recipients_of_a_dead_domain_share_commits(stage):
    stage.settle_s = 1.0
    stage.deliver(*[stage.pending(f"u{n}@nowhere.test") for n in range(500)], seconds=10.0)
    assert len(stage.settlements) == 500
