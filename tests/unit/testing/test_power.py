from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw

from pigeonry.net.disk import LocalDisk
from pigeonry.testing.power import ForgetfulDisk

PROGRAM = """
import os, signal, sys, apsw
from pigeonry.net.disk import LocalDisk
from pigeonry.testing.power import ForgetfulDisk
root = sys.argv[1]
disk = ForgetfulDisk(LocalDisk(root))
tail = disk.append(root + "/bodies")
tail.write(b"synced")
tail.sync()
tail.write(b"lost")
assert disk.read(root + "/bodies", 0, 100) == b"syncedlost"
db = apsw.Connection(root + "/x.db", vfs=disk.sqlite_vfs)
for line in ("PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"):
    list(db.execute(line))
db.execute("CREATE TABLE t(x)")
for x in range(200):
    db.execute("INSERT INTO t VALUES (?)", (x,))
list(db.execute("PRAGMA wal_checkpoint(RESTART)"))
for x in range(200, 210):
    db.execute("INSERT INTO t VALUES (?)", (x,))
db.execute("PRAGMA synchronous=OFF")
for x in range(1000, 1100):
    db.execute("INSERT INTO t VALUES (?)", (x,))
assert list(db.execute("SELECT count(*) FROM t")) == [(310,)]
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_not_synced_is_gone_after_a_kill_and_the_rest_is_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "bodies").read_bytes() == b"synced"
    disk = ForgetfulDisk(LocalDisk(str(tmp_path)))
    database = apsw.Connection(str(tmp_path / "x.db"), vfs=disk.sqlite_vfs)
    list(database.execute("PRAGMA locking_mode=EXCLUSIVE"))
    assert [x for (x,) in database.execute("SELECT x FROM t ORDER BY x")] == list(range(210))
    assert list(database.execute("PRAGMA integrity_check")) == [("ok",)]
    database.close()


def test_a_file_can_be_cut_within_its_unsynced_tail(tmp_path: Path) -> None:
    disk = ForgetfulDisk(LocalDisk(str(tmp_path)))
    path = os.fspath(tmp_path / "bodies")
    file = disk.append(path)
    file.write(b"0123456789")
    file.truncate(4)
    assert (disk.size(path), disk.read(path, 1, 9)) == (4, b"123")
    file.sync()
    file.truncate(2)
    assert disk.read(path, 0, 9) == b"01"
    file.close()
