"""From an envelope and a header section to a ``Submission``: whose message it is, and what is asked for it.

With a login, the login's domain is the sending domain, whatever MAIL and From say; a From of another domain gets a
``Sender`` that names it. From a trusted network, the domain of MAIL (of From where MAIL is null) is looked up, and
when it is none of ours the relay account pays. MAIL is kept as it is: it says where failures go.

Standards: RFC 6409 sections 6 and 8 (what a submission server checks and adds), RFC 5322 section 3.6.2 (Sender).
Trust: everything comes from outside. A refusal leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.compose.head import HeadWriter
from pigeonry.compose.message import sender_header
from pigeonry.compose.mime import open_batch
from pigeonry.compose.settings import DEFAULTS, check_pool, control_parameters, read_settings
from pigeonry.domain.address import domain_of
from pigeonry.domain.errors import BadAddress, BadRequest, NotAllowed
from pigeonry.domain.event import EMPTY_OBJECT, EventMessage, MessageHeaders
from pigeonry.domain.message import BodyKind, NewRecipient
from pigeonry.domain.reply import EnhancedStatus
from pigeonry.domain.submission import Submission
from pigeonry.doors.smtp.head import Head, HeadRefused
from pigeonry.protocol.mime.addresses import Address, parse_list
from pigeonry.protocol.smtp.data import HELD_OCTETS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.compose.identity import IdentitySource
    from pigeonry.compose.settings import Settings
    from pigeonry.domain.message import Body
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.doors.smtp.trace import Trace
    from pigeonry.protocol.smtp.grammar import ForwardPath, ReversePath
    from pigeonry.protocol.smtp.server import MessageGiven

__all__ = ["LARGE_BATCH", "Content", "Reader", "batch", "submission"]

LARGE_BATCH: Final = "A message with X-Mailgun-Recipient-Variables has at most 256 KiB"
_UNREADABLE: Final = EnhancedStatus(6, 0)


class Content(msgspec.Struct, frozen=True, gc=False):
    """A message but for its text.

    Args:
        head: The header section as it is to be stored, the empty line included.
        skip: How many octets of the text it stands for.
        account, domain: Who pays; the sending domain.
        headers: What events repeat.
        settings: What the sender asked for.
        variables: Of the recipients, when each is to get a message of its own; None when all get the same.
    """

    head: bytes
    skip: int
    account: str
    domain: str
    headers: MessageHeaders
    settings: Settings
    variables: str | None = None


class Reader:
    """Reads what came in.

    Args:
        domains: The sending domain of that name, from memory; None when it is none of ours.
        relay_account: Who pays for relayed mail of other domains.
        hostname: The sending domain of mail that names none.
        trace: Writes trace lines.
        identities: Makes a Message-ID for a message without one.
    """

    def __init__(
        self,
        *,
        domains: Callable[[str], SendingDomain | None],
        relay_account: str,
        hostname: str,
        trace: Trace,
        identities: IdentitySource,
    ) -> None:
        self._domains = domains
        self._relay_account = relay_account
        self._hostname = hostname
        self._trace = trace
        self._identities = identities

    def read(
        self, head: Head, text: bytes, reverse_path: ReversePath, *, caller: Caller | None, origin: str, now: float
    ) -> Content:
        """Understand a header section.

        Args:
            head: What was found in it.
            text: The text it was found in, at least to the end of the section.
            reverse_path: What MAIL said.
            caller: Who logged in; None for a trusted network.
            origin: The session's part of the trace line.
            now: Seconds since the Unix epoch.

        Raises:
            HeadRefused: It lacks a From, or asks for what cannot be.
            NotAllowed: The sending domain may not be used.
        """
        values = head.values
        settings, variables = _settings(head, now=now) if head.controlled else (DEFAULTS, None)
        additions = b""
        if caller is None:
            account, domain = self._relayed(reverse_path, head)
        else:
            account, sending = self._submitted(reverse_path, caller)
            domain = sending.name
            additions = _sender(head, sending)
        if settings.options.pool:
            _check_pool(settings, self._domains(domain))
        message_id = head.shown("message-id")
        if not message_id:
            message_id = self._identities.make(domain).message_id
            additions += f"Message-Id: <{message_id}>\r\n".encode("ascii")
        elif message_id[0] == "<" and message_id[-1] == ">":
            message_id = message_id[1:-1]
        if "date" not in values or not values["date"].strip():
            additions += f"Date: {self._trace.date()}\r\n".encode("ascii")
        if settings.tags or settings.variables:
            additions += _annotations(settings)
        skip = len(head.octets)
        octets = self._trace.line(origin) + head.cleaned() + additions
        if not text.startswith(b"\r\n", skip):
            octets += b"\r\n"
        if head.plain:
            get = values.get
            shown = MessageHeaders(
                message_id, get("from", "").strip(), get("to", "").strip(), get("subject", "").strip()
            )
        else:
            shown = MessageHeaders(message_id, head.shown("from"), head.shown("to"), head.shown("subject"))
        return Content(octets, skip, account, domain, shown, settings, variables)

    def _relayed(self, reverse_path: ReversePath, head: Head) -> tuple[str, str]:
        if reverse_path.mailbox:
            name = domain_of(reverse_path.mailbox)
        else:
            author = _author(head)
            name = domain_of(author) if author else self._hostname
        known = self._domains(name)
        if known is None:
            return self._relay_account, name
        return known.account, _usable(known).name

    def _submitted(self, reverse_path: ReversePath, caller: Caller) -> tuple[str, SendingDomain]:
        name = caller.domain or (domain_of(reverse_path.mailbox) if reverse_path.mailbox else "")
        known = self._domains(name)
        if known is None or known.account != caller.account:
            raise NotAllowed("The sending domain of this login is not known to this server")
        return caller.account, _usable(known)


def submission(  # noqa: PLR0917 - hot path
    content: Content,
    message: MessageGiven,
    caller: Caller | None,
    address: str,
    body: Body,
    length: int,
    *,
    eight_bit: bool,
) -> Submission:
    """What is handed over.

    Args:
        content: What was read of the header section.
        message: The envelope; a mailbox that comes twice in it is one recipient.
        caller: Who logged in.
        address: The client's IP address.
        body: The octets, or where they are.
        length: Octets of the body.
        eight_bit: Whether it has octets over 127.
    """
    reverse_path, forward_paths = message.reverse_path, message.forward_paths
    settings = content.settings
    due = settings.deliver_at
    if len(forward_paths) > 1:
        unique: dict[str, ForwardPath] = {}
        for path in forward_paths:
            unique.setdefault(path.mailbox, path)
        forward_paths = list(unique.values())
    recipients = tuple([NewRecipient(p.mailbox, due, b"", p.notify, p.orcpt) for p in forward_paths])
    return Submission(
        content.account,
        content.domain,
        reverse_path.mailbox,
        recipients,
        EventMessage(content.headers, length),
        body,
        BodyKind.OCTETS,
        eight_bit,
        reverse_path.smtputf8 and _needs_smtputf8(content, reverse_path, recipients),
        "smtp",
        settings.tags,
        settings.event_variables() if settings.variables else EMPTY_OBJECT,
        settings.options,
        caller is not None,
        "" if caller is None else caller.key,
        address,
        reverse_path.envid,
        reverse_path.ret,
    )


def batch(made: Submission, content: Content) -> Submission:
    """A message for each recipient alone, of one that is the same for all.

    Args:
        made: What ``submission`` gave, its body octets.
        content: What was read of its header section, with ``variables``.

    Raises:
        BadRequest: The variables are malformed, or do not fit into the message, or that is too large to be opened up
            while the client waits; the text says which.
    """
    assert isinstance(made.body, bytes)
    if len(made.body) > HELD_OCTETS_MAX:
        raise BadRequest(LARGE_BATCH)
    names = {address.mailbox.lower(): address.display for address in _addressees(content)}
    to = [Address(each.address, names.get(each.address.lower(), "")) for each in made.recipients]
    own, body = open_batch(made.body, to, content.variables or "", settings=content.settings)
    recipients = tuple(
        [
            msgspec.structs.replace(filled, notify=given.notify, original=given.original)
            for filled, given in zip(own, made.recipients, strict=True)
        ]
    )
    summary = EventMessage(content.headers, len(body))
    return msgspec.structs.replace(made, recipients=recipients, summary=summary, body=body, body_kind=BodyKind.TEMPLATE)


def _addressees(content: Content) -> list[Address]:
    """Those whom To shows; none when it cannot be read."""
    try:
        return parse_list(content.headers.to)
    except BadAddress:
        return []


def _needs_smtputf8(content: Content, reverse_path: ReversePath, recipients: tuple[NewRecipient, ...]) -> bool:
    return (
        not content.head.isascii()
        or not reverse_path.mailbox.isascii()
        or not all(recipient.address.isascii() for recipient in recipients)
    )


def _author(head: Head) -> str:
    """The first From address; empty when there is none that can be read."""
    try:
        addresses = parse_list(head.shown("from"))
    except BadAddress:
        return ""
    return addresses[0].mailbox if addresses else ""


def _sender(head: Head, domain: SendingDomain) -> bytes:
    if not head.shown("from"):
        raise HeadRefused(554, _UNREADABLE, "The message has no From header")
    author = _author(head)
    if not author:
        raise HeadRefused(554, _UNREADABLE, "The From header holds no valid address")
    return sender_header(author, domain) if "sender" not in head.values else b""


def _usable(domain: SendingDomain) -> SendingDomain:
    if domain.state == "disabled":
        raise NotAllowed("The sending domain is disabled")
    return domain


def _annotations(settings: Settings) -> bytes:
    """Tags and user variables as they stay in the delivered message, like those of the HTTP API."""
    writer = HeadWriter(batch=False)
    writer.annotations(settings)
    return b"".join([piece for piece in writer.pieces if isinstance(piece, bytes)])


def _check_pool(settings: Settings, domain: SendingDomain | None) -> None:
    try:
        check_pool(settings, domain)
    except BadRequest as error:
        raise HeadRefused(554, _UNREADABLE, error.text) from None


def _settings(head: Head, *, now: float) -> tuple[Settings, str | None]:
    """What is asked for, and the recipients' variables."""
    parameters = control_parameters(head.octets)
    variables = parameters.pop("recipient-variables", [None])[0]
    try:
        return read_settings(parameters, now=now), variables
    except BadRequest as error:
        raise HeadRefused(554, _UNREADABLE, f"An X-Mailgun header is wrong: {error.text}") from None
