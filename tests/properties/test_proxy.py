"""Properties of the PROXY header: how it comes makes no difference, and nothing behind it is ever asked for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pigeonry.protocol.proxy import HEADER_OCTETS_MAX, BadHeader, Source, read
from support.proxy import SIGNATURE, block, v4, v6

PORTS = st.integers(0, 65_535)
ADDITIONS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5).map(
    lambda found: b"".join(bytes([kind]) + len(value).to_bytes(2, "big") + value for kind, value in found)
)
HEADERS = st.one_of(
    st.builds(v4, st.ip_addresses(v=4).map(str), PORTS, ADDITIONS),
    st.builds(v6, st.ip_addresses(v=6).map(str), PORTS, ADDITIONS),
    st.builds(block, st.sampled_from([0x20, 0x21, 0x31, 0x2F]), st.integers(0, 255), st.binary(max_size=260)),
    st.builds(
        lambda source, port: f"PROXY TCP{source.version} {source} {source} {port} 25\r\n".encode(),
        st.ip_addresses(),
        PORTS,
    ),
    st.binary(max_size=100).map(lambda rest: b"PROXY " + rest + b"\r\n"),
    st.binary(max_size=40).map(lambda rest: SIGNATURE + rest),
    st.binary(max_size=40),
)


def taken(stream: bytes, sizes: list[int]) -> tuple[int, Source | str | None]:
    """How many octets a reader takes that reads as many as it is told or fewer; and what it makes of them."""
    header = b""
    turn = 0
    while True:
        try:
            said = read(header)
        except BadHeader:
            return len(header), "bad"
        if isinstance(said, Source):
            return len(header), said
        assert said > 0
        assert len(header) + said <= HEADER_OCTETS_MAX
        if len(header) == len(stream):
            return len(header), None
        most = min(said, sizes[turn % len(sizes)]) if sizes else said
        turn += 1
        header += stream[len(header) : len(header) + most]


@given(HEADERS, st.binary(max_size=50), st.lists(st.integers(1, 20), max_size=6))
@settings(max_examples=600, deadline=None)
def test_a_header_is_read_whole_however_it_comes_and_nothing_behind_it(
    header: bytes, behind: bytes, sizes: list[int]
) -> None:
    length, at_once = taken(header + behind, [])
    other, in_pieces = taken(header + behind, sizes)
    assert at_once == in_pieces
    if isinstance(at_once, Source):
        assert length == other
        assert read((header + behind)[:length]) == at_once


@given(st.ip_addresses(), PORTS, ADDITIONS)
@settings(max_examples=200, deadline=None)
def test_what_a_balancer_writes_is_what_is_read(address: object, port: int, additions: bytes) -> None:
    made = v4 if getattr(address, "version", 0) == 4 else v6
    header = made(str(address), port, additions)
    length, said = taken(header + b"EHLO", [])
    if isinstance(said, Source):
        mapped = getattr(address, "ipv4_mapped", None)
        assert (said.address, said.port, length) == (str(mapped or address), port, len(header))
    else:
        assert said == "bad"  # an addition on TLS without its fields
        assert b"\x20" in additions
