"""What is written after a failed sync is durable all the same."""

from __future__ import annotations

import apsw
import pytest

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.stores.sqlite.shared_file import SharedFile
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk
from support.day_files import InlineLane, SetClock


def opened(disk: FaultyDisk) -> SharedFile:
    return SharedFile(
        "/shared.db", disk=disk, lane=InlineLane(), clock=SetClock(), schema="CREATE TABLE word(text TEXT PRIMARY KEY)"
    )


async def put(file: SharedFile, word: str) -> None:
    def work(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO word VALUES (?)", (word,))

    await file.write(work)


async def words(file: SharedFile) -> set[str]:
    return await file.read(lambda connection: {word for (word,) in connection.execute("SELECT text FROM word")})


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_built_on_what_a_failed_sync_left(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[apsw.Connection | None] = []

    def drop(file: SharedFile) -> None:
        """Another process has the file open, so that its WAL does not go with our connection."""
        others.append(file._connection)
        file._connection = None

    monkeypatch.setattr(SharedFile, "_drop", drop)
    disk = FaultyDisk(SeededDice(str(seed)))
    file = opened(disk)
    await put(file, "before")
    disk.syncs_until_failure = 1
    with pytest.raises(StoreInDoubt):
        await put(file, "doubt")
    for word in ("after", "and", "later"):
        await put(file, word)
    disk.go_down(power=True)
    assert await words(opened(disk.come_up())) >= {"before", "after", "and", "later"}
