from __future__ import annotations

import pytest

from pigeonry.protocol.smtp.grammar import CommandError
from pigeonry.protocol.smtp.password_exchange import PasswordExchange


def test_plain_needs_one_response() -> None:
    exchange = PasswordExchange(b"PLAIN")
    assert exchange.challenge() == b"334 \r\n"
    assert exchange.respond(b"AGEAYg==") == ("a", "b")


def test_login_needs_two() -> None:
    exchange = PasswordExchange(b"LOGIN")
    assert exchange.challenge() == b"334 VXNlcm5hbWU6\r\n"
    assert exchange.respond(b"YQ==") is None
    assert exchange.challenge() == b"334 UGFzc3dvcmQ6\r\n"
    assert exchange.respond(b"Yg==") == ("a", "b")


@pytest.mark.parametrize("line", [b"", b"=", b"!", b"AA=="])
def test_an_empty_or_malformed_response_ends_it(line: bytes) -> None:
    for mechanism in (b"PLAIN", b"LOGIN"):
        with pytest.raises(CommandError):
            PasswordExchange(mechanism).respond(line)
