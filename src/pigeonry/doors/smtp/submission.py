"""From what a session was given to a ``Submission``: whose it is, what it asks for, what is stored of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.compose.head import HeadWriter
from pigeonry.compose.settings import DEFAULTS, Settings, control_parameters, read_settings
from pigeonry.domain.address import domain_of
from pigeonry.domain.errors import BadRequest, NotAllowed
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import NewRecipient
from pigeonry.domain.submission import Submission
from pigeonry.doors.smtp.head import read_head
from pigeonry.protocol.mime.encoded_words import decode

if TYPE_CHECKING:
    from pigeonry.domain.message import Body
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.doors.smtp.trace import Trace
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.protocol.smtp.grammar import ForwardPath, ReversePath

__all__ = ["Opened", "SubmissionBuilder"]

_MESSAGE_ID_CHARACTERS_MAX: Final = 500  # of one that came with the message; events repeat it


class Opened(msgspec.Struct, frozen=True):
    """A message whose header section was read and rewritten.

    Args:
        octets: What is to be stored of what came so far.
        added: Octets that storing adds to, or takes from, what came.
    """

    octets: bytes
    added: int
    headers: MessageHeaders
    settings: Settings


class SubmissionBuilder:
    """Builds submissions for all sessions of a door.

    Args:
        domains: A sending domain by name, from memory.
        relay_account: Who pays for relayed mail of a domain that is none of ours.
    """

    def __init__(
        self,
        *,
        domains: Callable[[str], SendingDomain | None],
        relay_account: str,
        hostname: str,
        trace: Trace,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._domains = domains
        self._relay_account = relay_account
        self._hostname = hostname
        self._trace = trace
        self._clock = clock
        self._ids = ids

    def open(self, first: bytes, *, origin: str, domain: str) -> Opened:
        """Read the header section at the start of a message and write the one that is stored.

        Args:
            first: All of the text, or its first piece.
            origin: The session's part of the trace line.
            domain: What a missing Message-ID ends in.

        Raises:
            HeadRefused: The header section is too large, or the message goes in circles.
            BadRequest: A control header cannot be obeyed.
        """
        head = read_head(first)
        values = head.values
        additions = b""
        message_id = values.get(b"message-id", b"").strip().strip(b"<>").decode("utf-8", "replace")
        if not message_id:
            message_id = f"{self._ids.octets(16).hex()}@{domain}"
            additions += b"Message-Id: <%b>\r\n" % message_id.encode()
        if not values.get(b"date", b"").strip():
            additions += b"Date: %b\r\n" % self._trace.date().encode("ascii")
        settings = DEFAULTS
        if head.controlled:
            settings = self._controlled(head.octets)
            writer = HeadWriter(batch=False)
            writer.annotations(settings)
            additions += b"".join(piece for piece in writer.pieces if isinstance(piece, bytes))
        rest = first[len(head.octets) :]
        if not rest.startswith(b"\r\n"):
            rest = b"\r\n" + rest
        octets = head.rewritten(trace=self._trace.line(origin), additions=additions) + rest
        headers = MessageHeaders(
            message_id[:_MESSAGE_ID_CHARACTERS_MAX],
            _shown(values.get(b"from", b"")),
            _shown(values.get(b"to", b"")),
            _shown(values.get(b"subject", b"")),
        )
        return Opened(octets, len(octets) - len(first), headers, settings)

    def build(
        self,
        opened: Opened,
        *,
        body: Body,
        length: int,
        reverse_path: ReversePath,
        forward_paths: list[ForwardPath],
        caller: Caller | None,
        address: str,
        eight_bit: bool,
    ) -> Submission:
        """The submission.

        Args:
            length: Octets of the body.
            caller: Who logged in; None for a trusted network.
            address: The client's IP address.

        Raises:
            NotAllowed: The caller's domain is not there any more.
        """
        account, domain = self.payer(reverse_path, opened.headers, caller)
        settings = opened.settings
        return Submission(
            account,
            domain,
            reverse_path.mailbox,
            tuple([self._recipient(path, settings.deliver_at) for path in forward_paths]),
            EventMessage(opened.headers, length),
            body,
            eight_bit=eight_bit,
            smtputf8=reverse_path.smtputf8,
            method="smtp",
            tags=settings.tags,
            user_variables=settings.event_variables() if settings.variables else msgspec.Raw(b"{}"),
            options=settings.options,
            authenticated=caller is not None,
            key="" if caller is None else caller.key,
            originating_ip=address,
            envelope_id=reverse_path.envid,
            dsn_return=reverse_path.ret,
        )

    def payer(
        self, reverse_path: ReversePath, headers: MessageHeaders | None, caller: Caller | None
    ) -> tuple[str, str]:
        """Account and sending domain."""
        if caller is not None:
            domain = caller.domain or domain_of(caller.key)
            found = self._domains(domain)
            if found is None or found.account != caller.account or found.state == "disabled":
                raise NotAllowed(f"Domain {domain} is not allowed to send.")
            return caller.account, domain
        mailbox = reverse_path.mailbox
        if not mailbox and headers is not None:
            mailbox = headers.from_.rpartition("<")[2].rstrip("> ")
        domain = mailbox.rpartition("@")[2].lower() or self._hostname
        found = self._domains(domain)
        return (self._relay_account if found is None else found.account), domain

    def _recipient(self, path: ForwardPath, due: float) -> NewRecipient:
        mailbox = path.mailbox if "@" in path.mailbox else f"{path.mailbox}@{self._hostname}"
        return NewRecipient(mailbox, due, b"", path.notify, path.orcpt)

    def _controlled(self, head: bytes) -> Settings:
        parameters = control_parameters(head)
        if "recipient-variables" in parameters:
            raise BadRequest("X-Mailgun-Recipient-Variables is not supported over SMTP: send a batch by the API.")
        return read_settings(parameters, now=self._clock.now())


def _shown(raw: bytes) -> str:
    """A header's value as events show it."""
    value = raw.strip()
    if b"=?" not in value and b"\r" not in value:
        return value.decode("utf-8", "replace")
    return decode(value).strip()
