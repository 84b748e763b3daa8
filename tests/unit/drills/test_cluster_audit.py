"""What the auditor of a cluster finds in a journal, and what it does not let pass."""

from __future__ import annotations

from pigeonry.domain.event import Accepted, Delivered, DeliveryStatus, EventMessage, MessageHeaders, encode_event
from pigeonry.drills.cluster_audit import Group, tally
from pigeonry.stores.cassandra import entries

MESSAGE = EventMessage(MessageHeaders("1@x.test"))
SHARD = 3


def accepted(serial: int, *paths: str) -> entries.Accepted:
    events = [encode_event(Accepted("i" * 22, 1.0, "x.test", "acct", MESSAGE, recipient=path)) for path in paths]
    return entries.Accepted(
        serial, 1, "acct", "x.test", "", 9.0, tuple((path, 1.0) for path in paths), tuple(events), b""
    )


def delivered(serial: int, path: str) -> entries.Settled:
    status = DeliveryStatus(250)
    event = Delivered("i" * 22, 1.0, "x.test", "acct", MESSAGE, recipient=path, delivery_status=status)
    return entries.Settled(serial, serial, 1, 0.0, 1, 1.0, in_doubt=False, event=encode_event(event))


def group(epoch: int, number: int, seq: int, *what: entries.Entry) -> Group:
    return SHARD, epoch, number, seq, entries.encode(list(what))


def test_a_message_that_moved_to_another_owner_has_its_two_events() -> None:
    books = tally(
        [
            group(2, 0, 3, entries.Dotted(1, 1)),
            group(2, 1, 3, delivered(1, "a@y.test")),
            group(1, 0, 1, accepted(1, "a@y.test", "b@y.test")),
        ]
    )
    assert (books.accepted["a@y.test"], books.finals("a@y.test"), books.finals("b@y.test")) == (1, 1, 0)
    assert books.gaps == 0


def test_what_appears_behind_the_next_owners_beginning_counts_for_nothing() -> None:
    late = group(1, 1, 2, delivered(1, "a@y.test"))
    books = tally([group(1, 0, 1, accepted(1, "a@y.test")), late, group(2, 0, 2, delivered(1, "a@y.test"))])
    assert books.finals("a@y.test") == 1
    assert tally([group(1, 0, 1, accepted(1, "a@y.test")), late]).finals("a@y.test") == 1, "it is only late then"


def test_what_is_behind_a_missing_group_was_never_acknowledged() -> None:
    books = tally([group(1, 0, 1, accepted(1, "a@y.test")), group(1, 2, 3, delivered(1, "a@y.test"))])
    assert books.finals("a@y.test") == 0


def test_a_void_message_has_no_events_and_leaves_no_gap() -> None:
    books = tally(
        [
            group(1, 0, 1, accepted(1, "a@y.test")),
            group(1, 1, 2, entries.Voided(1, 1, 1)),
            group(1, 2, 2, accepted(2, "b@y.test")),
        ]
    )
    assert (books.accepted["a@y.test"], books.accepted["b@y.test"], books.gaps) == (0, 1, 0)


def test_two_final_events_and_a_missing_one_show() -> None:
    twice = [
        group(1, 0, 1, accepted(1, "a@y.test"), delivered(1, "a@y.test")),
        group(1, 1, 3, delivered(1, "a@y.test")),
    ]
    assert tally(twice).finals("a@y.test") == 2
    assert tally([group(1, 0, 1, accepted(1, "a@y.test")), group(1, 1, 3, delivered(1, "a@y.test"))]).gaps == 1
