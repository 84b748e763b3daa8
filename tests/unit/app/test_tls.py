from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

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


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    cert, key = pair(tmp_path, "a")
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    Path(key).write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    with pytest.raises(OSError, match="has a passphrase"):
        server_context(cert, key)


def test_a_pair_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    cert, key = pair(tmp_path, "a")
    other, _ = pair(tmp_path, "b")
    context = server_context(cert, key)
    with pytest.raises(OSError):
        reload(context, other, key)
    reload(context, cert, key)
