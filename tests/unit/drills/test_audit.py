"""What the auditor of a drill finds in day files, and what it does not let pass."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from pigeonry.domain.event import Accepted, Delivered, DeliveryStatus, EventMessage, MessageHeaders, encode_event
from pigeonry.drills.audit import audit
from pigeonry.net.disk import LocalDisk
from pigeonry.stores.sqlite.schema import open_writer

MESSAGE = EventMessage(MessageHeaders("1@x.test"))


def accepted(path: str) -> bytes:
    return encode_event(Accepted("i" * 22, 1.0, "x.test", "acct", MESSAGE, recipient=path))


def delivered(path: str) -> bytes:
    status = DeliveryStatus(250)
    return encode_event(Delivered("i" * 22, 1.0, "x.test", "acct", MESSAGE, recipient=path, delivery_status=status))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two days of a shard; yesterday's message was settled today, and its last event is in yesterday's file."""
    folder = tmp_path / "shards" / "0000"
    folder.mkdir(parents=True)
    for day, path, events in (
        ("2026-11-24", "a@y.test", {1: accepted("a@y.test"), 4: delivered("a@y.test")}),
        ("2026-11-25", "b@y.test", {2: accepted("b@y.test"), 3: delivered("b@y.test")}),
    ):
        connection = open_writer(LocalDisk(str(tmp_path)), str(folder / f"{day}.db"))
        connection.execute("INSERT INTO recipient VALUES (1,1,1,0.0,1,0.0,0,?,NULL,NULL,NULL,NULL)", (path,))
        connection.executemany("INSERT INTO event VALUES (?,?)", events.items())
        connection.close()
    return tmp_path


def change(data: Path, statement: str) -> None:
    connection = apsw.Connection(str(data / "shards/0000/2026-11-24.db"))
    connection.execute(statement)
    connection.close()


def test_a_log_that_goes_over_two_days_has_no_gap(data: Path) -> None:
    books = audit(data)
    assert (books.gaps, books.disagreeing) == (0, 0)
    assert [books.finals(path) for path in ("a@y.test", "b@y.test", "c@y.test")] == [1, 1, 0]


@pytest.mark.parametrize("seq", [1, 4])
def test_an_event_that_is_missing_shows(data: Path, seq: int) -> None:
    change(data, f"DELETE FROM event WHERE seq = {seq}")
    books = audit(data)
    assert books.gaps == int(seq == 1)  # nobody knows how long the log was
    assert books.disagreeing == 1


def test_an_event_that_stands_twice_shows(data: Path) -> None:
    change(data, "INSERT INTO event SELECT 3, octets FROM event WHERE seq = 4")
    books = audit(data)
    assert books.gaps == 1
    assert books.finals("a@y.test") == 2
    assert books.disagreeing == 1


@pytest.mark.parametrize("state", [0, 2, 3])
def test_a_state_that_its_events_do_not_bear_out_shows(data: Path, state: int) -> None:
    change(data, f"UPDATE recipient SET state = {state}")
    assert audit(data).disagreeing == 1
