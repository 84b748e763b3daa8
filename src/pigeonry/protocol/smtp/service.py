"""What all SMTP sessions of a listener share: name, limits, offers.

Standards: RFC 5321 sections 4.1.1.1 (EHLO) and 4.5.3.1 (limits); RFC 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152,
6531 (the keywords it announces).
"""

from __future__ import annotations

from typing import Final

import msgspec

from pigeonry.domain.reply import Reply
from pigeonry.protocol.smtp.data import TEXT_LINE_OCTETS_MAX

__all__ = ["Limits", "Service"]

MESSAGE_OCTETS_MAX: Final = 26_214_400  # Mailgun's own limit, 25 MiB
RECIPIENTS_MAX: Final = 1_000  # Mailgun's own; RFC 5321 section 4.5.3.1.8 asks for 100 at least


class Limits(msgspec.Struct, frozen=True):
    """What one session may do.

    Args:
        message_octets_max: Octets of a message, announced by SIZE.
        recipients_max: Recipients of a message; those over it get 452, and as many again end the session.
        text_line_octets_max: Octets of a line of text, see ``data.TEXT_LINE_OCTETS_MAX``.
        errors_max: Replies 5yz to commands: a client that learns nothing from twenty will not from more.
        idle_commands_max: Commands since the last message that led to none (NOOP, RSET, EHLO, VRFY, MAIL again).
        logins_max: Failed or cancelled AUTH.
        transactions_max: Transactions of one connection; the client just connects again, to another worker perhaps.
    """

    message_octets_max: int = MESSAGE_OCTETS_MAX
    recipients_max: int = RECIPIENTS_MAX
    text_line_octets_max: int = TEXT_LINE_OCTETS_MAX
    errors_max: int = 20
    idle_commands_max: int = 100
    logins_max: int = 3
    transactions_max: int = 10_000


class Service:
    """What all sessions of a listener share; replies that depend on it are encoded once.

    Args:
        hostname: Our name, for the greeting and EHLO.
        limits: What one session may do.
        starttls: Whether STARTTLS is offered to those not encrypted yet.
        auth: Whether AUTH is offered.
        plain_auth: Whether AUTH is offered without TLS as well: for loopback and development.
    """

    __slots__ = ("_hellos", "auth", "greeting", "hello_reply", "hostname", "limits", "plain_auth", "starttls")

    def __init__(self, *, hostname: str, limits: Limits, starttls: bool, auth: bool, plain_auth: bool = False) -> None:
        self.hostname = hostname
        self.limits = limits
        self.starttls = starttls
        self.auth = auth
        self.plain_auth = plain_auth
        self.greeting = f"220 {hostname} ESMTP pigeonry\r\n".encode("ascii")
        self.hello_reply = f"250 {hostname}\r\n".encode("ascii")
        self._hellos = {secure: self._extended_hello(secure=secure).octets() for secure in (False, True)}

    def offers_auth(self, *, secure: bool) -> bool:
        """Whether a password may be sent as things stand."""
        return self.auth and (secure or self.plain_auth)

    def extended_hello_reply(self, *, secure: bool) -> bytes:
        """The answer to EHLO."""
        return self._hellos[secure]

    def _extended_hello(self, *, secure: bool) -> Reply:
        lines = [
            self.hostname,
            "PIPELINING",
            f"SIZE {self.limits.message_octets_max}",
            "8BITMIME",
            "SMTPUTF8",
            "CHUNKING",
            "DSN",
            "ENHANCEDSTATUSCODES",
        ]
        if self.starttls and not secure:
            lines.append("STARTTLS")
        if self.offers_auth(secure=secure):
            lines.append("AUTH PLAIN LOGIN")
        return Reply(250, "\n".join(lines))
