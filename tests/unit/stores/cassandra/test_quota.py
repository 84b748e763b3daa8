"""What other nodes may have put into the table of limits."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.ports.quota import Ask, Grant
from pigeonry.quota.negotiation import decode_pot
from pigeonry.stores.cassandra.quota import CassandraQuota
from pigeonry.testing.dice import SeededIds
from support.day_files import SetClock


class Pots:
    """The table of pots with one row."""

    def __init__(self, octets: bytes | None) -> None:
        self.row: tuple[int, bytes | None] = (7, octets)

    async def execute(self, cql: str, _values: object, **_: Any) -> list[tuple[Any, ...]]:
        return [self.row] if "FROM leases.quota_pot" in cql else []

    async def conditional(self, _cql: str, values: tuple[Any, ...], **_: Any) -> tuple[bool, dict[str, Any]]:
        assert values[-1] == self.row[0]
        self.row = values[1:3]
        return True, {}


@pytest.mark.parametrize("octets", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x91\x91\xa1\xff", None])
async def test_a_limit_that_cannot_be_read_is_dealt_anew(octets: bytes | None) -> None:
    pots: Any = Pots(octets)
    clock: Any = SetClock()
    quota = CassandraQuota(pots, keyspace="leases", clock=clock, ids=SeededIds("1"))
    (grant,) = await quota.negotiate("me", [Ask("site", limit=10, want=4, keep=0)])
    assert isinstance(grant, Grant)
    assert [holding.session for holding in decode_pot(pots.row[1])] == ["me"]
