"""``POST messages``: parameters in, one message out.

The reverse-path is the From address when that is in the sending domain, else ``postmaster`` there: either way SPF is
checked against the sending domain, and a bounce reaches a mailbox that its owner has. A From of another domain gets a
``Sender`` that names the sending domain (but for domains with ``any_sender``).

Standards: RFC 5322 section 3.6 (fields), RFC 6854 (several From).
Trust: every parameter comes from outside; nothing with a line end gets into a header.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.compose import template
from pigeonry.compose.author import author_of
from pigeonry.compose.draft import Draft, gathered, summary
from pigeonry.compose.head import HeadWriter
from pigeonry.compose.recipients import batch_recipients, parse_addresses, read_variables, same_for_all
from pigeonry.compose.settings import DEFAULTS, check_pool, read_settings, reject_controls
from pigeonry.domain import event
from pigeonry.domain.address import domain_of
from pigeonry.domain.errors import BadRequest
from pigeonry.domain.message import BodyKind
from pigeonry.domain.submission import Submission
from pigeonry.protocol.mime import builder
from pigeonry.protocol.mime.builder import Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.compose.author import Author
    from pigeonry.compose.form import Form, Upload
    from pigeonry.compose.identity import Identity, IdentitySource
    from pigeonry.compose.settings import Settings
    from pigeonry.domain.message import NewRecipient
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.protocol.mime.addresses import Address
    from pigeonry.protocol.mime.builder import Attachment, Piece

__all__ = ["all_ascii", "check_batch", "compose_message", "reverse_path", "sender_header"]

SUBJECT_CHARACTERS_MAX: Final = 16_384  # far over any line, so that only nonsense is refused
FILLED_MAX: Final = 250_000  # places that are filled in before the answer, at a microsecond each
ATTACHMENTS_MAX: Final = 500  # files of one message; each is listed in every event
_TEXTS: Final = (("text", b"plain"), ("amp-html", b"x-amp-html"), ("html", b"html"))
_MESSAGE_ID: Final = re.compile(r"[^\s<>@\x00-\x1f\x7f]{1,200}@[^\s<>@\x00-\x1f\x7f]{1,200}")
_ADDRESS_HEADERS: Final = frozenset({"to", "cc", "reply-to", "sender"})


def compose_message(
    form: Form, *, domain: SendingDomain, caller: Caller, identities: IdentitySource, originating_ip: str = ""
) -> Draft:
    """Make the message that a request's parameters describe.

    Args:
        form: The parameters.
        domain: The sending domain.
        caller: Who asks.
        identities: Makes Message-ID, date and boundary.
        originating_ip: The client's address.

    Raises:
        BadRequest: A parameter is missing, malformed or over a limit; the text names it.
        BadAddress: An address is not valid.
        TooLarge: The message is over 25 MiB.
    """
    author = author_of(form)
    to = parse_addresses(form, "to")
    if not to:
        raise BadRequest("Parameter to is missing.")
    cc, bcc = parse_addresses(form, "cc"), parse_addresses(form, "bcc")
    subject = form.one("subject")
    if subject is None:
        raise BadRequest("Parameter subject is missing.")
    if len(subject) > SUBJECT_CHARACTERS_MAX:
        raise BadRequest("Parameter subject is longer than 16384 characters.")
    reject_controls("subject", subject)
    identity = identities.make(domain.name)
    settings = read_settings(form.fields, now=identity.now)
    check_pool(settings, domain)
    variables = form.one("recipient-variables")
    batch = variables is not None
    attachments, inline = _files(form.uploads)
    writer = HeadWriter(batch=batch)
    message_id = _write_head(writer, author, to, cc, subject, identity=identity, settings=settings, domain=domain)
    leaves = _leaves(form, batch=batch)
    pieces = writer.pieces
    pieces += builder.assemble(leaves, inline=inline, attachments=attachments, boundary=identity.boundary)
    if variables is not None:
        recipients = check_batch(to, cc + bcc, variables, pieces, settings=settings)
        octets = template.stored(pieces)
    else:
        recipients = same_for_all((to, cc, bcc), due=settings.deliver_at)
        octets = [piece for piece in pieces if not isinstance(piece, Slot)]
    size, body, large = gathered(octets)
    submission = Submission(
        account=caller.account,
        domain=domain.name,
        reverse_path=reverse_path(author.addresses[0].mailbox, domain),
        recipients=recipients,
        summary=summary(
            message_id=message_id,
            from_=author.text,
            to="%recipient%" if batch else form.joined("to"),
            subject=subject,
            size=size,
            recipients=recipients,
            batch=batch,
            attachments=tuple([event.Attachment(f.filename, f.content_type, f.size) for f in (*attachments, *inline)]),
            deliver_at=settings.deliver_at,
        ),
        body=body,
        body_kind=BodyKind.TEMPLATE if batch else BodyKind.OCTETS,
        smtputf8=not all_ascii(author.addresses, to, cc, bcc),
        tags=settings.tags,
        user_variables=settings.event_variables() if settings.variables else event.EMPTY_OBJECT,
        options=settings.options,
        key=caller.key,
        originating_ip=originating_ip,
    )
    return Draft(submission, large, f"<{message_id}>")


def all_ascii(*groups: Sequence[Address]) -> bool:
    """Whether every mailbox is written in ASCII (a domain always is): else SMTPUTF8 is needed."""
    for group in groups:
        for address in group:
            if not address.mailbox.isascii():
                return False
    return True


def reverse_path(from_: str, domain: SendingDomain) -> str:
    """Where bounces of a message go: to its author in the sending domain, else to that domain's postmaster."""
    if domain_of(from_) == domain.name and "%" not in from_:
        return from_
    return f"postmaster@{domain.name}"


def sender_header(from_: str, domain: SendingDomain) -> bytes:
    """The ``Sender`` header for a From address; empty when the sending domain speaks for itself."""
    from_domain = domain_of(from_)
    if from_domain == domain.name or domain.any_sender:
        return b""
    local = from_[: -len(from_domain) - 1]
    if local.startswith('"') or from_domain.startswith("["):
        return b"Sender: postmaster@%b\r\n" % domain.name.encode("ascii")
    return f"Sender: {local}={from_domain}@{domain.name}\r\n".encode()


def _write_head(
    writer: HeadWriter,
    author: Author,
    to: Sequence[Address],
    cc: Sequence[Address],
    subject: str,
    *,
    identity: Identity,
    settings: Settings,
    domain: SendingDomain,
) -> str:
    """Write the header section but for the content's own fields; returns the Message-ID without brackets."""
    given = {name.lower() for name, _ in settings.headers} if settings.headers else frozenset()
    message_id = identity.message_id
    writer.raw(identity.received)
    if settings is not DEFAULTS:
        writer.annotations(settings)
    if "date" not in given:
        writer.raw(b"Date: %b\r\n" % identity.date)
    if "message-id" not in given:
        writer.raw(b"Message-Id: <%b>\r\n" % message_id.encode())
    if "sender" not in given and (sender := sender_header(author.addresses[0].mailbox, domain)):
        writer.raw(sender)
    writer.author(author)
    if "to" not in given:
        writer.to(to)
    if cc and "cc" not in given:
        writer.addresses("Cc", cc)
    writer.text("Subject", subject)
    for name, value in settings.headers:
        if name.lower() == "message-id":
            message_id = _message_id(value)
            writer.raw(b"Message-Id: <%b>\r\n" % message_id.encode())
        else:
            writer.text(name, value, addresses=name.lower() in _ADDRESS_HEADERS)
    writer.raw(b"Mime-Version: 1.0\r\n")
    return message_id


def _message_id(value: str) -> str:
    """A Message-ID that the client chose, without brackets."""
    text = value.strip().removeprefix("<").removesuffix(">")
    if not _MESSAGE_ID.fullmatch(text):
        raise BadRequest("Parameter h:Message-Id is not of the form <left@right>.")
    return text


def _leaves(form: Form, *, batch: bool) -> list[Sequence[Piece]]:
    """The text parts in the order plain, amp, html; an empty one only when there is no other."""
    leaves: list[Sequence[Piece]] = []
    empty = b""
    for name, subtype in _TEXTS:
        text = form.one(name)
        if text:
            leaves.append(_leaf(subtype, text, batch=batch))
        elif text is not None and not empty:
            empty = subtype
    if not leaves:
        if not empty:
            raise BadRequest("Need at least one of the parameters text, html or amp-html.")
        leaves.append(_leaf(empty, "", batch=False))
    return leaves


def _leaf(subtype: bytes, text: str, *, batch: bool) -> Sequence[Piece]:
    if batch and template.has_placeholder(text):
        return builder.text_slot(
            subtype, text, quoted_printable_kind=template.QUOTED_PRINTABLE, base64_kind=template.BASE64
        )
    return (builder.text_leaf(subtype, text),)


def _files(uploads: Sequence[Upload]) -> tuple[list[Attachment], list[Attachment]]:
    """Attachments and inline files."""
    attachments: list[Attachment] = []
    inline: list[Attachment] = []
    if len(uploads) > ATTACHMENTS_MAX:
        raise BadRequest(f"The message has more than {ATTACHMENTS_MAX} files.")
    for upload in uploads:
        embedded = upload.field == "inline"
        made = builder.attachment(
            filename=upload.filename,
            content_type=upload.content_type,
            size=upload.size,
            body=upload.lines,
            content_id=(upload.filename or "inline") if embedded else "",
        )
        (inline if embedded else attachments).append(made)
    return attachments, inline


def check_batch(
    to: Sequence[Address], copies: Sequence[Address], variables: str, pieces: Sequence[Piece], *, settings: Settings
) -> tuple[NewRecipient, ...]:
    """The recipients of a batch, each checked to be renderable."""
    checker = template.Checker(pieces)
    user_variables = msgspec.json.encode(settings.variables).decode()
    places = checker.places + template.places(user_variables)
    if len(to) * (1 + len(copies)) * places > FILLED_MAX:
        raise BadRequest(f"recipient-variables are to be filled in at more than {FILLED_MAX} places.")
    recipients = batch_recipients(
        to,
        copies,
        read_variables(variables),
        keys=checker.keys,
        due=settings.deliver_at,
        user_variables=user_variables,
    )
    for recipient in recipients:
        checker.check(address=recipient.address, variables=recipient.variables)
    return recipients
