"""The real disk where the system says no."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pigeonry.net.disk import LocalDisk


def test_a_file_whose_name_could_not_be_made_durable_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be there when it is next opened, and nobody would sync its folder again."""
    disk, path = LocalDisk(str(tmp_path)), tmp_path / "000001.seg"
    synced: list[int] = []

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            disk.append(str(path))
    assert not path.exists()
    monkeypatch.setattr(os, "fsync", synced.append)
    disk.append(str(path)).close()
    assert synced
