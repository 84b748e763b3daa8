"""Who gets the message: address parameters into forward-paths, alone or as a batch.

Without ``recipient-variables`` everybody gets the same message. With them (an empty object is enough) each ``to``
gets a message of its own that shows nobody else's address, and a copy of it goes to each ``cc`` and ``bcc``.

Standards: RFC 5321 section 4.5.3.1.8 (recipients).
Trust: all of it comes from outside and is bounded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.compose import template
from pigeonry.compose.settings import shortened
from pigeonry.compose.template import NAME_KEY, TO_KEY
from pigeonry.domain.address import parse_mailbox
from pigeonry.domain.errors import BadAddress, BadRequest
from pigeonry.domain.message import USER_VARIABLES_KEY, NewRecipient
from pigeonry.protocol.mime.addresses import Address, parse_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pigeonry.compose.form import Form

__all__ = ["RECIPIENTS_MAX", "batch_recipients", "parse_addresses", "read_addresses", "read_variables", "same_for_all"]

RECIPIENTS_MAX: Final = 1_000  # of one call, copies of a batch counted one by one
ADDRESSES_OCTETS_MAX: Final = 1_048_576  # of one parameter: a thousand long names and addresses
VARIABLES_OCTETS_MAX: Final = 8_388_608  # of recipient-variables: 8 KB for each of a thousand
KEPT_OCTETS_MAX: Final = 16_777_216  # of variables kept with recipients: copies have those of their recipient again
_OBJECT: Final = msgspec.json.Decoder(dict[str, dict[str, Any]])
_ENCODER: Final = msgspec.json.Encoder()


def parse_addresses(form: Form, parameter: str) -> list[Address]:
    """The addresses of a parameter, each mailbox once.

    Raises:
        BadAddress: One is not a valid address; the text names the parameter.
        BadRequest: There are too many.
    """
    return read_addresses(form.joined(parameter), parameter=parameter) if parameter in form.fields else []


def read_addresses(text: str, *, parameter: str) -> list[Address]:
    """The addresses that a parameter's text lists, each mailbox once.

    Raises:
        BadAddress, BadRequest: As ``parse_addresses``.
    """
    if not text:
        return []
    if len(text) > ADDRESSES_OCTETS_MAX:
        raise BadRequest(f"Parameter {parameter} is longer than 1 MiB.")
    try:
        addresses = parse_list(text)
    except BadAddress as error:
        raise BadAddress(f"Parameter {parameter}: {error.text}") from None
    if len(addresses) > 1:
        first: dict[str, Address] = {}
        for address in addresses:
            first.setdefault(address.mailbox.lower(), address)
        addresses = list(first.values())
    return addresses


def same_for_all(groups: Iterable[Sequence[Address]], *, due: float) -> tuple[NewRecipient, ...]:
    """A recipient for each mailbox; duplicates are removed over all groups.

    Raises:
        BadRequest: There are more than a thousand.
    """
    filled = [group for group in groups if group]
    if len(filled) == 1 and len(filled[0]) == 1:
        return (NewRecipient(filled[0][0].mailbox, due),)
    recipients: dict[str, NewRecipient] = {}
    for group in filled:
        for address in group:
            recipients.setdefault(address.mailbox.lower(), NewRecipient(address.mailbox, due))
    _bound(len(recipients))
    return tuple(recipients.values())


def read_variables(text: str) -> dict[str, dict[str, Any]]:
    """Recipient variables by lower-case address.

    Raises:
        BadRequest: It is no JSON object of objects, or too large.
    """
    if len(text) > VARIABLES_OCTETS_MAX:
        raise BadRequest("Parameter recipient-variables is larger than 8 MiB.")
    try:
        given = _OBJECT.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"Parameter recipient-variables is not a JSON object of objects: {error}") from None
    return {_address_key(address): values for address, values in given.items()}


def batch_recipients(
    to: Sequence[Address],
    copies: Sequence[Address],
    variables: dict[str, dict[str, Any]],
    *,
    keys: Collection[str],
    due: float,
    user_variables: str,
) -> tuple[NewRecipient, ...]:
    """A recipient with its variables for each ``to``, and for each copy of it.

    Args:
        to: Those who get a message of their own.
        copies: Those who get a copy of each.
        variables: What ``read_variables`` returned.
        keys: What the message asks for; other variables are not kept.
        due: When to deliver.
        user_variables: The message's, a JSON object; where it has placeholders, each recipient keeps its own.

    Raises:
        BadRequest: They are more than a thousand, or what is to be kept with them is too large.
    """
    _bound(len(to) * (1 + len(copies)))
    personal = template.has_placeholder(user_variables)
    if personal:
        keys = {*keys, *template.placeholder_keys(user_variables)}
    recipients: list[NewRecipient] = []
    kept = 0
    for address in to:
        given = variables.get(address.mailbox.lower(), {})
        values = {key: _text(given[key]) for key in keys if key in given}
        if address.display:
            values[NAME_KEY] = address.display
        if personal:
            own = template.filled_json(user_variables, address=address.mailbox, variables=_ENCODER.encode(values))
            values[USER_VARIABLES_KEY] = shortened(own.encode()).decode()
        encoded = _ENCODER.encode(values)
        kept += len(encoded) * (1 + len(copies))
        if kept > KEPT_OCTETS_MAX:
            raise BadRequest("recipient-variables of all recipients and copies together are larger than 16 MiB.")
        recipients.append(NewRecipient(address.mailbox, due, encoded))
        if copies:
            values[TO_KEY] = address.mailbox
            encoded = _ENCODER.encode(values)
            recipients.extend([NewRecipient(copy.mailbox, due, encoded) for copy in copies])
    return tuple(recipients)


def _bound(count: int) -> None:
    if count > RECIPIENTS_MAX:
        raise BadRequest(f"The message has {count} recipients; {RECIPIENTS_MAX} are allowed in one call.")


def _address_key(address: str) -> str:
    if not address.isascii():
        try:
            address = parse_mailbox(address)
        except BadAddress:
            return address.lower()
    return address.lower()


def _text(value: Any) -> str:
    """A variable as it is put into the message: strings as they are, anything else as JSON writes it."""
    return value if isinstance(value, str) else _ENCODER.encode(value).decode()
