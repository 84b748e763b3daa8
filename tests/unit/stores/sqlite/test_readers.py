"""Connections for reading are kept while they are used, and not longer."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pigeonry.net.disk import LocalDisk
from pigeonry.stores.sqlite.layout import Layout
from pigeonry.stores.sqlite.readers import Readers
from pigeonry.stores.sqlite.schema import open_writer


def held(path: str) -> int:
    """Descriptors of this process on a file, unlinked or not."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(link.readlink()).removesuffix(" (deleted)") == path
    return found


def test_a_file_that_nobody_reads_any_more_is_let_go(tmp_path: Path) -> None:
    disk, layout = LocalDisk(str(tmp_path)), Layout(str(tmp_path))
    disk.make_folder(layout.shard(0))
    path = layout.day_file(0, 20_000)
    open_writer(disk, path).close()
    readers = Readers(disk, layout, writers=lambda _shard, _day: None, connections_max=8)
    connection = readers.day(0, 20_000)
    assert connection is not None
    assert connection.execute("SELECT count(*) FROM message").get == 0
    readers.sweep()
    assert held(path)
    assert readers.day(0, 20_000) is connection
    disk.unlink(path)
    readers.sweep()
    readers.sweep()
    assert not held(path)
    assert readers.day(0, 20_000) is None
