"""Certificates of a cluster: who signs, whom they name, what a renewal keeps."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pigeonry.app.cluster_certificates import make_certificates
from pigeonry.domain.errors import BadRequest

NOW = 1_900_000_000.0
DAY_S = 86_400.0


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_authority_signs_nodes_and_nothing_below_them(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["a", "b.test"], now=NOW, days=30)
    authority = read(tmp_path / "ca.crt")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length, constraints.critical) == (True, 0, True)
    for name in ("a", "b.test"):
        node = read(tmp_path / f"{name}.crt")
        node.verify_directly_issued_by(authority)
        alternatives = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [one.value for one in alternatives] == [name]
        assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not node.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        assert node.not_valid_before_utc < dt.datetime.fromtimestamp(NOW, tz=dt.UTC) < node.not_valid_after_utc
        assert node.not_valid_after_utc == dt.datetime.fromtimestamp(NOW + 30 * DAY_S, tz=dt.UTC)


def test_every_file_is_its_owners_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    written = make_certificates(tmp_path, ["a"], now=NOW)
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}


def test_a_renewal_keeps_keys_and_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["a"], now=NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert make_certificates(tmp_path, ["a"], now=NOW + DAY_S) == [tmp_path / "a.crt"]
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"a.crt"}
    read(tmp_path / "a.crt").verify_directly_issued_by(read(tmp_path / "ca.crt"))


def test_an_authority_that_is_of_no_use_signs_nothing(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make_certificates(tmp_path / folder, ["a"], now=NOW)
    with pytest.raises(BadRequest, match="has expired"):
        make_certificates(tmp_path / "one", ["a"], now=NOW + 4000 * DAY_S)
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    with pytest.raises(BadRequest, match="are no pair"):
        make_certificates(tmp_path / "one", ["b"], now=NOW)
    (tmp_path / "one" / "ca.key").write_text("no key")
    with pytest.raises(BadRequest, match="no private key"):
        make_certificates(tmp_path / "one", ["b"], now=NOW)
    other = rsa.generate_private_key(65_537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "one" / "ca.key").write_bytes(other)
    with pytest.raises(BadRequest, match="no elliptic curve's key"):
        make_certificates(tmp_path / "one", ["b"], now=NOW)
    (tmp_path / "two" / "ca.crt").write_text("no certificate")
    with pytest.raises(BadRequest, match="holds no certificate"):
        make_certificates(tmp_path / "two", ["b"], now=NOW)
    assert not (tmp_path / "one" / "b.crt").exists()
    assert not (tmp_path / "two" / "b.crt").exists()
