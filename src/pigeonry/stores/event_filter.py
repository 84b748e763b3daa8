"""Whether an event satisfies a filter: the one meaning that every index gives to a ``Term``.

An index may narrow down what it looks at by whatever it has (hashes, words), as long as it lets through all that
``predicate`` would; what it lets through is judged here, on the decoded event.

Text is compared by words: ``words`` folds case and drops punctuation, so that an index of words finds all that
contains a value beginning at the start of a word. Scripts without blanks between words are taken letter by letter.

Trust: values come from outside and are only ever compared.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.event_index import Term

__all__ = ["Candidate", "decode_candidate", "fold", "predicate", "words"]

_NOT_A_WORD: Final = re.compile(r"[\W_]+")
_ASCII_NOT_A_WORD: Final = re.compile(r"[^a-z0-9]+")
_LETTER_ALONE: Final = re.compile(
    r"([\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
    r"\U00020000-\U0003ffff])"
)


class _Headers(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    message_id: str = ""
    from_: str = msgspec.field(default="", name="from")
    to: str = ""
    subject: str = ""


class _Attachment(msgspec.Struct, frozen=True, gc=False):
    filename: str = ""


class _Message(msgspec.Struct, frozen=True, gc=False):
    headers: _Headers = _Headers()
    size: int = 0
    attachments: tuple[_Attachment, ...] = ()
    recipients: tuple[str, ...] = ()


class _MailingList(msgspec.Struct, frozen=True, gc=False):
    address: str = ""


class Candidate(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    """What filters look at of an event, and where it belongs."""

    event: str
    timestamp: float
    domain: str
    recipient: str = ""
    severity: str = ""
    message: _Message = _Message()
    tags: tuple[str, ...] = ()
    user_variables: msgspec.Raw = msgspec.Raw(b"{}")
    mailing_list: _MailingList = _MailingList()


decode_candidate: Final = msgspec.json.Decoder(Candidate).decode
"""Read an event as a ``Candidate``; raises ``msgspec.DecodeError`` when the octets are no event."""


def fold(text: str) -> str:
    """Text for comparisons that ignore case."""
    return text.lower() if text.isascii() else text.casefold()


def words(text: str) -> str:
    """The words of a text, folded, separated by single blanks; empty when it has none.

    Of ASCII text the words are its runs of letters and digits: what the ``ascii`` tokenizer of FTS5 makes of it.
    """
    if text.isascii():
        return _ASCII_NOT_A_WORD.sub(" ", text.lower()).strip()
    return _NOT_A_WORD.sub(" ", _LETTER_ALONE.sub(r" \1 ", text.casefold())).strip()


def predicate(term: Term) -> Callable[[Candidate], bool]:
    """The filter as a function. A field that an event does not have matches nothing."""
    match term.op:
        case "and":
            all_of = [predicate(part) for part in term.parts]
            return lambda event: all(part(event) for part in all_of)
        case "or":
            any_of = [predicate(part) for part in term.parts]
            return lambda event: any(part(event) for part in any_of)
        case "not":
            inner = predicate(term.parts[0])
            return lambda event: not inner(event)
        case "is":
            return _is(term.field, term.value)
        case "has":
            return _has(term.field, term.value)
        case "lt" | "gt":
            return _compared(term)
    raise ValueError(f"no such operation: {term.op}")


def _texts(event: Candidate, field: str) -> tuple[str, ...]:
    """The field's values, those of a field of several as they are."""
    headers = event.message.headers
    match field:
        case "event":
            return (event.event,)
        case "recipient":
            return (event.recipient,)
        case "recipients":
            return event.message.recipients or (event.recipient,)
        case "message-id":
            return (headers.message_id,)
        case "from":
            return (headers.from_,)
        case "to":
            return (headers.to,)
        case "subject":
            return (headers.subject,)
        case "tags":
            return event.tags
        case "severity":
            return (event.severity,)
        case "size":
            return (str(event.message.size),)
        case "attachment":
            return tuple(attachment.filename for attachment in event.message.attachments)
        case "list":
            return (event.mailing_list.address,)
        case "user-variables":
            return _variables(event.user_variables)
    raise ValueError(f"no such field: {field}")


def _variables(raw: msgspec.Raw) -> tuple[str, ...]:
    """Each variable as ``name=value``; what is no string is shown as its JSON."""
    try:
        pairs = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return ()
    shown = []
    for name, value in pairs.items():
        octets = bytes(value)
        text = msgspec.json.decode(octets, type=str) if octets[:1] == b'"' else octets.decode("utf-8", "replace")
        shown.append(f"{name}={text}")
    return tuple(shown)


def _is(field: str, value: str) -> Callable[[Candidate], bool]:
    wanted = fold(value)
    return lambda event: any(fold(text) == wanted for text in _texts(event, field) if text)


def _has(field: str, value: str) -> Callable[[Candidate], bool]:
    wanted = words(value)
    if not wanted:  # Only punctuation: nothing an index of words could know of.
        literal = fold(value)
        return lambda event: any(literal in fold(text) for text in _texts(event, field))
    wanted = f" {wanted}"
    return lambda event: any(wanted in f" {words(text)}" for text in _texts(event, field))


def _compared(term: Term) -> Callable[[Candidate], bool]:
    bound = float(term.value)
    if term.field != "size":
        raise ValueError(f"no number: {term.field}")
    if term.op == "lt":
        return lambda event: event.message.size < bound
    return lambda event: event.message.size > bound
