"""``POST messages.mime``: a ready-made message in, the same out but for what a server must add and take away.

Taken out: ``Bcc``, ``Return-Path`` and all ``X-Mailgun-*`` control headers, which are obeyed. Put in front:
``Received``, and ``Date``, ``Message-Id`` and ``Sender`` where they are missing. Everything else stays octet for octet,
the message's own Message-Id as well. Parameters of the request win over headers of the message.

With ``recipient-variables``, headers and texts that hold placeholders are opened up for each recipient; other parts,
files above all, stay as they are.

Standards: RFC 5322 section 3.6, RFC 2045 section 6, RFC 6409 section 8.
Trust: the message comes from outside; its header section is bounded and must hold nothing but headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pigeonry.compose import template
from pigeonry.compose.draft import Draft, gathered, summary
from pigeonry.compose.head import HeadWriter
from pigeonry.compose.message import all_ascii, check_batch, reverse_path, sender_header
from pigeonry.compose.recipients import parse_addresses, same_for_all
from pigeonry.compose.settings import CONTROL_PREFIX, check_pool, control_parameters, read_settings
from pigeonry.domain import event
from pigeonry.domain.errors import BadAddress, BadRequest
from pigeonry.domain.message import BodyKind
from pigeonry.domain.submission import Submission
from pigeonry.protocol.mime import builder, headers, parser
from pigeonry.protocol.mime.addresses import parse_list
from pigeonry.protocol.mime.builder import FILE_NAME_OCTETS_MAX, Slot
from pigeonry.protocol.mime.encoded_words import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pigeonry.compose.form import Form
    from pigeonry.compose.identity import Identity, IdentitySource
    from pigeonry.compose.settings import Settings
    from pigeonry.domain.message import NewRecipient
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.protocol.mime.addresses import Address
    from pigeonry.protocol.mime.builder import Piece
    from pigeonry.protocol.mime.parser import Part

__all__ = ["compose_mime", "open_batch"]

HEAD_OCTETS_MAX: Final = 131_072  # a header section of 128 KiB holds a thousand recipients and every signature
_HEAD: Final = re.compile(rb"(?:[!-9;-~]++[ \t]*+:[^\r\n\x00]*+\r\n(?:[ \t][^\r\n\x00]*+\r\n)*+)*+")
_OUT: Final = frozenset({b"bcc", b"return-path"})
_ADDRESSES: Final = frozenset({b"from", b"to", b"cc", b"reply-to", b"sender"})
_KINDS: Final = {
    **dict.fromkeys(_ADDRESSES, template.ADDRESSES),
    b"x-mailgun-variables": template.JSON_HEADER,
}
_CONTENT: Final = frozenset({b"content-type", b"content-transfer-encoding"})


def compose_mime(
    form: Form, *, domain: SendingDomain, caller: Caller, identities: IdentitySource, originating_ip: str = ""
) -> Draft:
    """Make the message that a request brought.

    Args:
        form: The parameters, with ``message``.
        domain: The sending domain.
        caller: Who asks.
        identities: Makes Message-ID and date.
        originating_ip: The client's address.

    Raises:
        BadRequest: A parameter is missing, malformed or over a limit; the text names it.
        BadAddress: An address is not valid.
        TooLarge: The message is over 25 MiB.
    """
    to = parse_addresses(form, "to")
    if not to:
        raise BadRequest("Parameter to is missing.")
    if not form.message:
        raise BadRequest("Parameter message is missing.")
    message = form.message
    head, body = _split(message)
    from_ = _author(head)
    identity = identities.make(domain.name)
    settings = read_settings({**control_parameters(head), **form.fields}, now=identity.now)
    check_pool(settings, domain)
    variables = form.one("recipient-variables")
    if variables is None:
        variables = control_parameters(head).get("recipient-variables", [None])[0]
    batch = variables is not None
    replaced = {name.lower().encode("ascii") for name, _ in settings.headers}
    empty = {name for name in (b"date", b"message-id") if headers.value(head, name) == b""}
    kept = headers.without(head, _OUT | replaced | empty, prefix=CONTROL_PREFIX)
    writer = HeadWriter(batch=batch)
    writer.raw(identity.received)
    writer.annotations(settings)
    message_id = _complete(writer, kept, identity, settings=settings, sender=sender_header(from_, domain))
    tail = memoryview(message)[body:]
    if variables is not None:
        pieces = [*writer.pieces, *_opened(kept, bytes(message), body)]
        recipients = check_batch(to, (), variables, pieces, settings=settings)
        octets = template.stored(pieces)
    else:
        recipients = same_for_all((to,), due=settings.deliver_at)
        first = b"".join([p for p in writer.pieces if isinstance(p, bytes)])
        octets = [b"%b%b\r\n" % (first, kept), tail]
        if bytes(tail[-2:]) != b"\r\n":
            octets.append(b"\r\n")
    size, stored, large = gathered(octets)
    submission = Submission(
        account=caller.account,
        domain=domain.name,
        reverse_path=reverse_path(from_, domain),
        recipients=recipients,
        summary=summary(
            message_id=message_id,
            from_=decode(headers.value(head, b"from") or b""),
            to="%recipient%" if batch else decode(headers.value(head, b"to") or b"") or form.joined("to"),
            subject=decode(headers.value(head, b"subject") or b""),
            size=size,
            recipients=recipients,
            batch=batch,
            attachments=_attachments(message, head),
            deliver_at=settings.deliver_at,
        ),
        body=stored,
        body_kind=BodyKind.TEMPLATE if batch else BodyKind.OCTETS,
        eight_bit=not message.isascii(),
        smtputf8=not (from_.isascii() and all_ascii(to)),
        tags=settings.tags,
        user_variables=settings.event_variables() if settings.variables else event.EMPTY_OBJECT,
        options=settings.options,
        key=caller.key,
        originating_ip=originating_ip,
    )
    return Draft(submission, large, f"<{message_id}>")


def _split(message: bytes | bytearray) -> tuple[bytes, int]:
    """The header section and where the body begins."""
    end = -2 if message[:2] == b"\r\n" else message.find(b"\r\n\r\n", 0, HEAD_OCTETS_MAX)
    if end == -1:
        if len(message) > HEAD_OCTETS_MAX:
            raise BadRequest("Parameter message has a header section over 128 KiB.")
        head = bytes(message) if message.endswith(b"\r\n") else bytes(message) + b"\r\n"
        body = len(message)
    else:
        head, body = bytes(message[: end + 2]), end + 4
    if not _HEAD.fullmatch(head):
        raise BadRequest("Parameter message has a line in its header section that is no header.")
    return head, body


def _attachments(message: bytes | bytearray, head: bytes) -> tuple[event.Attachment, ...]:
    """The files in the message; one that is text throughout is not looked through."""
    kind = (headers.value(head, b"content-type") or b"text").lower()
    if kind.startswith(b"text"):
        return ()
    files = (part for part in parser.leaves(parser.parse(message)) if not part.is_text)
    return tuple(
        [
            event.Attachment(
                (part.filename or f"attachment-{number}")[:FILE_NAME_OCTETS_MAX],
                part.content_type[:FILE_NAME_OCTETS_MAX],
                parser.size(message, part),
            )
            for number, part in enumerate(files, 1)
        ]
    )


def _author(head: bytes) -> str:
    """The mailbox of the first From."""
    value = headers.value(head, b"from")
    if value is None:
        raise BadRequest("Parameter message has no From header.")
    try:
        authors = parse_list(value.decode("utf-8", "replace"))
    except BadAddress as error:
        raise BadAddress(f"Parameter message has a From header that cannot be used: {error.text}") from None
    if not authors:
        raise BadRequest("Parameter message has an empty From header.")
    return authors[0].mailbox


def _complete(
    writer: HeadWriter,
    head: bytes,
    identity: Identity,
    *,
    settings: Settings,
    sender: bytes,
) -> str:
    """Write what the header section lacks; returns the Message-ID without brackets."""
    for name, value in settings.headers:
        if name.lower() == "message-id":
            value = f"<{value.strip().strip('<>')}>"  # noqa: PLW2901  # as a header shows it
        writer.text(name, value, addresses=name.lower().encode() in _ADDRESSES)
    given = {name.lower(): value for name, value in settings.headers}
    if "date" not in given and not headers.value(head, b"date"):
        writer.raw(b"Date: %b\r\n" % identity.date)
    if "sender" not in given and headers.value(head, b"sender") is None:
        writer.raw(sender)
    own = given.get("message-id") or (headers.value(head, b"message-id") or b"").decode("utf-8", "replace")
    if own.strip():
        return own.strip().strip("<>")
    writer.raw(b"Message-Id: <%b>\r\n" % identity.message_id.encode())
    return identity.message_id


def open_batch(
    message: bytes, to: Sequence[Address], variables: str, *, settings: Settings
) -> tuple[tuple[NewRecipient, ...], bytes]:
    """A complete message, opened up for each recipient.

    Args:
        message: With CRLF line ends and the empty line.
        to: Who gets a message of their own.
        variables: The recipient variables, a JSON object of objects.
        settings: When to deliver, and the user variables.

    Returns:
        The recipients, each checked to be renderable, and the octets to store.

    Raises:
        BadRequest: The variables are malformed or do not fit into the message.
    """
    length = headers.head_length(message)
    pieces = _opened(message[:length], message, length + 2)
    recipients = check_batch(to, (), variables, pieces, settings=settings)
    return recipients, b"".join(template.stored(pieces))


def _opened(head: bytes, message: bytes, body: int) -> list[Piece]:
    """The message as pieces, with a slot wherever a header or a text holds a placeholder."""
    root = parser.parse(message)
    texts = list(_open_texts(root, message))
    alone = len(texts) == 1 and texts[0][0] is root
    if alone:
        head = headers.without(head, _CONTENT)
    pieces: list[Piece] = []
    for name, raw in headers.fields(head):
        lower = name.lower()
        if lower == b"to":
            continue
        value = decode(raw) if b"%recipient" in raw or b"=?" in raw else ""
        if template.has_placeholder(value):
            kind = _KINDS.get(lower, template.HEADER)
            pieces.append(Slot(kind, value, name.decode("ascii")))
        else:
            pieces.append(b"%b:%b\r\n" % (name, raw))
    pieces.append(Slot(template.RECIPIENT, "", "To"))
    if alone:
        return [*pieces, *texts[0][1]]
    pieces.append(b"\r\n")
    position = body
    view = memoryview(message)
    for part, leaf in texts:
        own = headers.without(message[part.start : max(part.start, part.body - 2)], _CONTENT)
        pieces += [view[position : part.start], own, *leaf]
        position = part.end
    pieces.append(view[position:])
    return pieces


def _open_texts(root: Part, message: bytes) -> Iterator[tuple[Part, tuple[Piece, ...]]]:
    """The texts with placeholders: content headers, empty line and slot for each."""
    for part in parser.leaves(root):
        if part.is_text and template.has_placeholder(text := parser.text(message, part)):
            yield (
                part,
                builder.text_slot(
                    part.content_type.removeprefix("text/").encode("ascii"),
                    text,
                    quoted_printable_kind=template.QUOTED_PRINTABLE,
                    base64_kind=template.BASE64,
                ),
            )
