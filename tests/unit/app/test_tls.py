from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from pigeonry.app.tls import make_self_signed, reload, server_context


def pair(folder: Path, name: str) -> tuple[str, str]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    make_self_signed(cert, key, names=("localhost",), now=1_800_000_000.0)
    return str(cert), str(key)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    _, key = pair(tmp_path, "a")
    assert Path(key).stat().st_mode & 0o777 == 0o600


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    assert server_context(*pair(tmp_path, "a")).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_pair_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    cert, key = pair(tmp_path, "a")
    other, _ = pair(tmp_path, "b")
    context = server_context(cert, key)
    with pytest.raises(OSError):
        reload(context, other, key)
    reload(context, cert, key)
