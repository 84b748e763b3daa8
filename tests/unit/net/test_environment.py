from __future__ import annotations

import os

import pytest

from pigeonry.net.environment import POOL_OCTETS, SystemDice, SystemIds


def test_octets_are_never_given_out_twice():
    ids = SystemIds()
    drawn = [ids.octets(16) for _ in range(3 * POOL_OCTETS // 16)]
    assert len(set(drawn)) == len(drawn)
    assert {len(octets) for octets in drawn} == {16}


@pytest.mark.parametrize("count", [0, 1, POOL_OCTETS - 1, POOL_OCTETS, POOL_OCTETS + 1])
def test_any_number_of_octets_can_be_had(count):
    ids = SystemIds()
    ids.octets(7)
    assert len(ids.octets(count)) == count


def test_pool_is_not_shared_with_another_process(monkeypatch):
    ids = SystemIds()
    ids.octets(1)
    rest = ids._pool
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert ids.octets(16) not in rest


def test_dice_stay_in_range():
    dice = SystemDice()
    assert all(0.0 <= dice.random() < 1.0 for _ in range(1000))
