from __future__ import annotations

import os
from pathlib import Path

import pytest

from pigeonry.app.installation import DIRECTORY_FILE, FolderUnusable, check_owner, prepare


def test_a_new_folder_gets_its_seal_key_and_an_old_one_keeps_it(tmp_path: Path) -> None:
    data, key = tmp_path / "data", tmp_path / "key"
    prepare(str(data), str(key))
    made = key.read_bytes()
    (data / DIRECTORY_FILE).touch()
    prepare(str(data), str(key))
    assert key.read_bytes() == made


def test_what_belongs_to_another_user_is_left_to_that_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, key = tmp_path / "data", tmp_path / "key"
    prepare(str(data), str(key))
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    prepare(str(data), str(key))  # nothing is in it yet
    (data / DIRECTORY_FILE).touch()
    for attempt in (lambda: check_owner(data), lambda: prepare(str(data), str(key))):
        with pytest.raises(FolderUnusable, match="run this as that user: sudo -u "):
            attempt()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusable, match=f"{tmp_path}/file/data cannot be made: Not a directory"):
        prepare(str(tmp_path / "file" / "data"), str(tmp_path / "key"))
