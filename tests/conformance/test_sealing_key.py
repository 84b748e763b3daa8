"""The seal key's file: made once, the owner's alone, and every trouble told in a sentence."""

from __future__ import annotations

import pytest

from pigeonry.net.environment import SystemIds
from pigeonry.net.sealing import SealKeyError, load_seal, make_seal_key


def test_key_that_was_made_is_read_back(tmp_path):
    path = tmp_path / "deep" / "seal"
    made = make_seal_key(path, SystemIds())
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_seal(path).key_id == made.key_id


def test_key_that_is_there_is_never_replaced(tmp_path):
    made = make_seal_key(tmp_path / "seal", SystemIds())
    with pytest.raises(SealKeyError, match="already"):
        make_seal_key(tmp_path / "seal", SystemIds())
    assert load_seal(tmp_path / "seal").key_id == made.key_id


def test_missing_key_is_not_made_by_the_way(tmp_path):
    with pytest.raises(SealKeyError, match="no seal key"):
        load_seal(tmp_path / "seal")
    assert list(tmp_path.iterdir()) == []


def test_key_that_others_can_read_is_refused(tmp_path):
    make_seal_key(tmp_path / "seal", SystemIds())
    (tmp_path / "seal").chmod(0o640)
    with pytest.raises(SealKeyError, match="chmod 600"):
        load_seal(tmp_path / "seal")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_is_refused(tmp_path, length):
    (tmp_path / "seal").write_bytes(bytes(length))
    (tmp_path / "seal").chmod(0o600)
    with pytest.raises(SealKeyError, match="32 octets"):
        load_seal(tmp_path / "seal")
