from __future__ import annotations

import pytest

from pigeonry.domain.networks import REMEMBERED_MAX, Networks


def test_an_address_is_in_its_networks_also_when_it_is_mapped_or_has_a_scope() -> None:
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "fe80::/10"])
    assert all(map(networks.has, ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "fe80::1%eth0")))
    assert not any(map(networks.has, ("11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "::1")))


@pytest.mark.parametrize(
    ("texts", "everybody"),
    [
        ([], False),
        (["0.0.0.0/1"], False),
        (["0.0.0.0/0"], True),
        (["::/0"], True),
        (["0.0.0.0/1", "128.0.0.0/1"], True),
        (["::/1", "8000::/1", "10.0.0.0/8"], True),
        (["0.0.0.0/1", "8000::/1"], False),
    ],
)
def test_everybody_is_seen_also_in_parts(texts: list[str], everybody: bool) -> None:
    assert Networks(texts).has_everybody is everybody
    assert bool(Networks(texts)) is bool(texts)


def test_what_is_remembered_is_bounded() -> None:
    networks = Networks(["10.0.0.0/8"])
    for number in range(REMEMBERED_MAX + 100):
        assert networks.has(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(networks._known) <= REMEMBERED_MAX


def test_what_is_no_network_or_no_address_is_refused() -> None:
    with pytest.raises(ValueError):
        Networks(["10.0.0.1/8"])
    with pytest.raises(ValueError):
        Networks(["10.0.0.0/8"]).has("localhost")
