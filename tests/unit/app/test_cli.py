import os
import stat
from pathlib import Path

import pytest

from pigeonry.app.cli import main


def test_what_a_command_makes_is_for_its_user_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            main(["version"])
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
    finally:
        os.umask(before)
    assert capsys.readouterr().out
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o700, 0o600}
