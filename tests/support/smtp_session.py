"""Drives a server session as a door does, and keeps what was said."""

from __future__ import annotations

from pigeonry.domain.reply import Reply
from pigeonry.protocol.smtp.server import (
    CredentialsGiven,
    Event,
    MailGiven,
    MessageGiven,
    SessionEnded,
    SmtpServer,
    TextAbandoned,
    TextGiven,
    TlsAsked,
)
from pigeonry.protocol.smtp.service import Limits, Service

PASSWORD = "secret"
EHLO = b"EHLO client.test\r\n"
ENVELOPE = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@dest.test>\r\n"


def service(**changes: object) -> Service:
    limits = {name: changes.pop(name) for name in list(changes) if name in Limits.__struct_fields__}
    options = {"hostname": "mx.test", "starttls": True, "auth": True, "plain_auth": True, **changes}
    return Service(limits=Limits(**limits), **options)  # type: ignore[arg-type]


class Message:
    """One message that was given."""

    def __init__(self, event: MessageGiven, octets: bytes) -> None:
        self.event = event
        self.octets = octets

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.event.reverse_path, self.event.forward_paths, self.octets) == (
            other.event.reverse_path,
            other.event.forward_paths,
            other.octets,
        )

    __hash__ = None  # type: ignore[assignment]


class Talk:
    """A conversation.

    Args:
        refuse_mail, refuse_message: What to refuse each of them with.
    """

    def __init__(
        self,
        shared: Service | None = None,
        *,
        secure: bool = False,
        trusted: bool = True,
        refuse_mail: Reply | None = None,
        refuse_message: Reply | None = None,
    ) -> None:
        self.server = SmtpServer(shared or service(), secure=secure, trusted=trusted)
        self.refuse_mail, self.refuse_message = refuse_mail, refuse_message
        self.said = b""
        self.messages: list[Message] = []
        self.logins: list[tuple[str, str]] = []
        self.abandoned = self.pieces = 0
        self.ended: SessionEnded | None = None
        self.tls_asked = False
        self._text = b""
        self.server.greet()
        self.take()

    def say(self, octets: bytes, *, by: int = 0) -> str:
        """Feed octets, whole or in steps; what was answered."""
        start = len(self.said)
        step = by or len(octets) or 1
        for at in range(0, len(octets), step):
            self._act(self.server.receive(octets[at : at + step]))
        self.take()
        return self.said[start:].decode()

    def codes(self, octets: bytes, *, by: int = 0) -> list[str]:
        """Reply codes with enhanced status, one for each reply."""
        return [" ".join(line.split(" ")[:2]) for line in self.say(octets, by=by).splitlines() if line[3:4] == " "]

    def take(self) -> None:
        self.said += self.server.take_output()

    def _act(self, event: Event | None) -> None:
        while event is not None:
            event = self._next(event)

    def _next(self, event: Event) -> Event | None:
        server = self.server
        if isinstance(event, MailGiven):
            return server.refuse(self.refuse_mail) if self.refuse_mail else server.accept()
        if isinstance(event, MessageGiven):
            if self.refuse_message:
                self._text = b""
                return server.refuse(self.refuse_message)
            self.messages.append(Message(event, self._text + event.octets))
            self._text = b""
            return server.accept(b"250 2.0.0 Taken\r\n")
        if isinstance(event, TextGiven):
            self.pieces += 1
            self._text += event.octets
            return server.resume()
        if isinstance(event, TextAbandoned):
            self.abandoned += 1
            self._text = b""
            return server.resume()
        if isinstance(event, CredentialsGiven):
            self.logins.append((event.login, event.password))
            return server.accept() if event.password == PASSWORD else server.refuse(Reply(535, "No"))
        if isinstance(event, TlsAsked):
            self.tls_asked = True
            return None
        assert isinstance(event, SessionEnded)
        self.ended = event
        return None
