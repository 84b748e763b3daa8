"""What a server session tells its driver, one event at a time."""

from __future__ import annotations

import msgspec

from pigeonry.protocol.smtp.grammar import ForwardPath, ReversePath

__all__ = [
    "CredentialsGiven",
    "Event",
    "MailGiven",
    "MessageGiven",
    "SessionEnded",
    "TextAbandoned",
    "TextGiven",
    "TlsAsked",
]


class MailGiven(msgspec.Struct, frozen=True, gc=False):
    """MAIL asks for a transaction. Waits for an answer."""

    reverse_path: ReversePath


class CredentialsGiven(msgspec.Struct, frozen=True, gc=False):
    """AUTH ended with a login and a password. Waits for an answer; a positive one makes the session authenticated."""

    login: str
    password: str


class TextGiven(msgspec.Struct, frozen=True, gc=False):
    """Whole lines of a text too large to be held. Waits for ``resume``."""

    octets: bytes


class MessageGiven(msgspec.Struct, frozen=True, gc=False):
    """The text is complete and sound. Waits for an answer, which is what acknowledges the message.

    Args:
        reverse_path: What MAIL said.
        forward_paths: What each RCPT said, in order.
        octets: All of the text, or its last part where ``TextGiven`` brought the others; empty or ended by CRLF.
        length: Octets of all of the text.
    """

    reverse_path: ReversePath
    forward_paths: list[ForwardPath]
    octets: bytes
    length: int


class TextAbandoned(msgspec.Struct, frozen=True, gc=False):
    """What ``TextGiven`` brought will not become a message: forget it. Waits for ``resume``."""


class TlsAsked(msgspec.Struct, frozen=True, gc=False):
    """STARTTLS was agreed to: write the output, do the handshake, then call ``secured``."""


class SessionEnded(msgspec.Struct, frozen=True, gc=False):
    """Nothing more will be said or read: write the output, forget an unfinished text, close.

    Args:
        quit: Whether the client asked for it.
    """

    quit: bool


Event = MailGiven | CredentialsGiven | TextGiven | MessageGiven | TextAbandoned | TlsAsked | SessionEnded
