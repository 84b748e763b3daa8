"""A shard is what its journal says: folding what was judged gives the same, once or twice, from wherever it begins."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Accept, DotSent, Message, NewRecipient, Note, RecipientState, Settle, Void
from pigeonry.ports.ledger import Ledger
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.cassandra import entries
from pigeonry.stores.cassandra.shard import Group, Shard
from pigeonry.stores.counts import Counts

SUMMARY = EventMessage(headers=MessageHeaders(message_id="m@x"), size=4)


def accept(shard: Shard, count: int = 1, due: float = 1.0) -> Accept:
    key = shard.allocate(count, day=1)
    return Accept(
        Message(key, "acct", "x.test", "a@x.test", SUMMARY, 1.0, 1e12),
        b"body",
        tuple(NewRecipient(f"r{index}@y.test", due) for index in range(count)),
        tuple(f'{{"accepted":{key.serial + index}}}'.encode() for index in range(count)),
    )


class Journal:
    """Groups of one transition each, as they would be written."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.rows: list[bytes] = []

    def write(self, transition: Any) -> bool:
        group = self.shard.begin()
        entry = self.shard.judge(transition, group)
        if entry is None:
            return False
        self.shard.close(group)
        self.rows.append(entries.encode([entry]))
        self.shard.seq_durable = self.shard.seq_next - 1
        self.shard.remember(group)
        self.shard.hidden.clear()
        return True

    def read(self, into: Shard, start: int = 0) -> Shard:
        for number, octets in enumerate(self.rows[start:], start):
            group = Group(number, into.seq_next)
            for entry in entries.decode(octets):
                into.fold(entry, group)
            into.close(group)
            into.seq_durable = into.seq_next - 1
            into.remember(group)
        return into


def state(shard: Shard) -> tuple[Any, ...]:
    found = list(shard.due(after=DueMark(-math.inf), until=math.inf))
    return found, dict(shard.dots), dict(shard.voided), shard.seq_next


def ledger(shard: Shard) -> Ledger:
    return shard.counts.told(0.0, seq=shard.seq_next, waiting=len(shard.waiting))


def events(shard: Shard) -> list[bytes]:
    return [octets for _, octets in shard.recent(after=0, limit=1000) or ()]


STEP = st.tuples(st.sampled_from(["accept", "dot", "retry", "end", "void", "note"]), st.integers(0, 5))


def play(journal: Journal, steps: list[tuple[str, int]]) -> None:
    shard, keys = journal.shard, []
    for what, number in steps:
        waiting = list(shard.due(after=DueMark(-math.inf), until=math.inf))
        chosen = waiting[number % len(waiting)] if waiting else None
        if what == "accept":
            work = accept(shard, 1 + number % 3)
            keys.append(work)
            journal.write(work)
        elif what == "note":
            journal.write(Note(b'{"n":1}'))
        elif what == "void" and keys:
            work = keys[number % len(keys)]
            journal.write(Void(work.message.key, len(work.recipients)))
        elif chosen is not None and what == "dot":
            journal.write(DotSent(chosen, chosen.attempts + 1))
        elif chosen is not None and what == "retry":
            journal.write(Settle(chosen, RecipientState.PENDING, b"{}", due=5.0, attempts=chosen.attempts + 1))
        elif chosen is not None and what == "end":
            journal.write(Settle(chosen, RecipientState.DELIVERED, b"{}", attempts=chosen.attempts + 1))


@given(st.lists(STEP, max_size=40))
def test_the_journal_read_again_is_the_shard(steps):
    journal = Journal(Shard(1, epoch=1))
    play(journal, steps)
    read = journal.read(Shard(1, epoch=2))
    assert state(read) == state(journal.shard)
    assert events(read) == events(journal.shard)
    assert ledger(read) == ledger(journal.shard)
    assert ledger(read).pending == ledger(read).waiting


@given(st.lists(STEP, max_size=30), st.lists(STEP, max_size=30))
def test_what_is_folded_over_a_state_that_has_it_already_changes_nothing(before, after):
    journal = Journal(Shard(1, epoch=1))
    play(journal, before)
    place, seq = len(journal.rows), journal.shard.seq_next
    play(journal, after)
    whole = journal.read(Shard(1, epoch=2))
    again = journal.read(Shard(1, epoch=3))
    again.seq_next = seq
    journal.read(again, place)
    assert state(again) == state(whole)


@given(st.lists(STEP, max_size=30), st.lists(STEP, max_size=30))
def test_the_ledger_of_a_checkpoint_adds_up_with_what_is_folded_over_it(before, after):
    journal = Journal(Shard(1, epoch=1))
    play(journal, before)
    place, seq = len(journal.rows), journal.shard.seq_next
    voided, counted = dict(journal.shard.voided), journal.shard.counts.all()
    play(journal, after)
    whole = journal.read(Shard(1, epoch=2))
    again = journal.read(Shard(1, epoch=3))  # who waits is told as it is a moment later, all else as it was
    again.seq_next, again.voided, again.counts = seq, voided, Counts()
    again.counts.put(counted)
    journal.read(again, place)
    assert state(again) == state(whole)
    assert ledger(again) == ledger(whole)


def test_a_second_end_and_a_repeated_retry_are_not_written():
    journal = Journal(Shard(1, epoch=1))
    journal.write(accept(journal.shard, 2))
    one, two = journal.shard.due(after=DueMark(-math.inf), until=math.inf)
    assert journal.write(Settle(one, RecipientState.DELIVERED, b"{}", attempts=1))
    assert not journal.write(Settle(one, RecipientState.FAILED, b"{}", attempts=1))
    assert journal.write(Settle(two, RecipientState.PENDING, b"{}", due=9.0, attempts=1))
    assert not journal.write(Settle(two, RecipientState.PENDING, b"{}", due=9.0, attempts=1))


def test_the_dot_of_who_has_an_end_is_refused():
    journal = Journal(Shard(1, epoch=1))
    journal.write(accept(journal.shard))
    (one,) = journal.shard.due(after=DueMark(-math.inf), until=math.inf)
    journal.write(Settle(one, RecipientState.FAILED, b"{}", attempts=1))
    with pytest.raises(StoreBusy):
        journal.write(DotSent(one, 1))


def test_serials_of_two_epochs_never_meet():
    assert Shard(1, epoch=2).allocate(1, day=1).serial > Shard(1, epoch=1).allocate(2**39, day=1).serial + 2**39


def test_what_is_hidden_and_all_after_it_is_not_shown():
    shard = Shard(1, epoch=1)
    journal = Journal(shard)
    journal.write(Note(b"1"))
    group = shard.begin()
    work = accept(shard)
    shard.judge(work, group)
    shard.judge(Note(b"3"), group)
    shard.close(group)
    shard.seq_durable = 3
    shard.remember(group)
    assert shard.head() == 1
    assert events(shard) == [b"1"]
    assert list(shard.due(after=DueMark(-math.inf), until=math.inf)) == []
    journal.write(Void(work.message.key, 1))
    assert events(shard) == [b"1", b"", b"3"]


def test_events_that_memory_no_longer_has_are_asked_elsewhere():
    shard = Shard(1, epoch=1)
    journal = Journal(shard)
    for _ in range(6):
        journal.write(Note(b"x" * 1024 * 1024))
    assert shard.recent(after=0, limit=10) is None
    assert len(shard.recent(after=3, limit=10) or ()) == 3
