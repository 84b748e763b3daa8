"""What AUTH PLAIN and AUTH LOGIN say, from the command to a login and a password.

Standards: RFC 4954 section 4 (AUTH), RFC 4616 (PLAIN). LOGIN was never more than a draft; clients still use it.
Trust: responses come from the network, at most ``server.AUTH_LINE_OCTETS_MAX`` long. Nothing of them is kept but the
login, until the password came.
"""

from __future__ import annotations

from typing import Final

from pigeonry.protocol.smtp.grammar import credential_text, decode_base64, parse_plain

__all__ = ["MECHANISMS", "PasswordExchange"]

MECHANISMS: Final = frozenset({b"PLAIN", b"LOGIN"})

_ASK_RESPONSE: Final = b"334 \r\n"
_ASK_USERNAME: Final = b"334 VXNlcm5hbWU6\r\n"
_ASK_PASSWORD: Final = b"334 UGFzc3dvcmQ6\r\n"


class PasswordExchange:
    """One exchange.

    Args:
        mechanism: One of ``MECHANISMS``.
    """

    __slots__ = ("_login", "_plain")

    def __init__(self, mechanism: bytes) -> None:
        self._plain = mechanism == b"PLAIN"
        self._login = ""

    def challenge(self) -> bytes:
        """The encoded reply that asks for the next response."""
        if self._plain:
            return _ASK_RESPONSE
        return _ASK_PASSWORD if self._login else _ASK_USERNAME

    def respond(self, line: bytes) -> tuple[str, str] | None:
        """Take a response; login and password, or None when there is another challenge.

        Raises:
            CommandError: 501 or 535, the response is malformed; the exchange is over.
        """
        response = decode_base64(line)
        if self._plain:
            return parse_plain(response)
        if self._login:
            return self._login, credential_text(response)
        self._login = credential_text(response)
        return None
