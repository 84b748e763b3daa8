"""The parameters ``o:``, ``v:``, ``h:`` and ``t:``: what the sender wants done with a message.

Three kinds. What we do is read strictly, and a bad value is a 400 that names the parameter. What would be a broken
promise if we passed over it (a single source address, an archive, a second signature, a template) is refused. What only
asks for a nicety (tracking, send-time optimisation) is taken and has no effect; unknown options likewise, as upstream.

The same settings come as ``X-Mailgun-*`` headers in ready-made messages (``from_headers``).

Standards: RFC 5322 section 3.3 (dates).
Trust: everything comes from outside and is bounded here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.domain.message import Options
from pigeonry.protocol.mime.dates import seconds_of
from pigeonry.protocol.mime.encoded_words import decode
from pigeonry.protocol.mime.headers import fields, is_field_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.domain.tenant import SendingDomain

__all__ = [
    "CONTROL_PREFIX",
    "DEFAULTS",
    "Settings",
    "check_pool",
    "control_parameters",
    "read_settings",
    "reject_controls",
    "shortened",
]

POOL_CHARACTERS_MAX: Final = 63  # as configuration names them
OPTIONS_OCTETS_MAX: Final = 16_384  # all o:, h:, v: and t: of a message, names and values
TAGS_MAX: Final = 10  # what is beyond is dropped, as upstream
TAG_CHARACTERS_MAX: Final = 128  # what the messages API promises
DELAY_S_MAX: Final = 7 * 86_400  # how far ahead a message may be scheduled
VARIABLES_DEPTH_MAX: Final = 64  # of user variables; all who read them later have room for ten times that
EVENT_VARIABLES_OCTETS_MAX: Final = 4_096  # of user variables in an event; the header keeps them all
CONTROL_PREFIX: Final = b"x-mailgun-"

_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_YES: Final = frozenset({"yes", "true", "1", "on"})
_NO: Final = frozenset({"no", "false", "0", "off", ""})
_REFUSED: Final = {
    "o:sending-ip": "The source address cannot be chosen on this server.",
    "o:archive-to": "Copies to an archive are not supported.",
    "o:secondary-dkim": "A second signature is not supported.",
    "o:secondary-dkim-public": "A second signature is not supported.",
    "o:deliver-within": "A delivery window of its own is not supported.",
}
_FORBIDDEN_HEADERS: Final = frozenset(
    {
        "bcc",
        "content-transfer-encoding",
        "content-type",
        "dkim-signature",
        "from",
        "mime-version",
        "received",
        "return-path",
        "subject",
    }
)
_BY_HEADER: Final = {
    b"x-mailgun-tag": "o:tag",
    b"x-mailgun-dkim": "o:dkim",
    b"x-mailgun-deliver-by": "o:deliverytime",
    b"x-mailgun-drop-message": "o:testmode",
    b"x-mailgun-require-tls": "o:require-tls",
    b"x-mailgun-skip-verification": "o:skip-verification",
    b"x-mailgun-suppress-headers": "o:suppress-headers",
    b"x-mailgun-sending-ip": "o:sending-ip",
    b"x-mailgun-sending-ip-pool": "o:sending-ip-pool",
    b"x-mailgun-archive-to": "o:archive-to",
    b"x-mailgun-secondary-dkim": "o:secondary-dkim",
    b"x-mailgun-secondary-dkim-public": "o:secondary-dkim-public",
    b"x-mailgun-deliver-within": "o:deliver-within",
    b"x-mailgun-template-name": "template",
    b"x-mailgun-recipient-variables": "recipient-variables",
    b"x-mailgun-variables": "h:X-Mailgun-Variables",
}


class Settings(msgspec.Struct, frozen=True):
    """What the sender wants.

    Args:
        options: Flags.
        tags: At most 10.
        deliver_at: Seconds since the Unix epoch; 0.0 for now.
        variables: User variables; strings, or JSON values when they came as one document.
        headers: Further headers: name as given, value, checked for line ends.
        suppressed: Lower-case names of our own headers to leave out of the message; ``all`` for each.
    """

    options: Options = Options()
    tags: tuple[str, ...] = ()
    deliver_at: float = 0.0
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    suppressed: frozenset[str] = frozenset()

    def shows(self, header: str) -> bool:
        """Whether that header of ours (lower case) goes into the message."""
        return not self.suppressed or not ("all" in self.suppressed or header in self.suppressed)

    def event_variables(self) -> msgspec.Raw:
        """The user variables as events repeat them: a JSON object, the first ones up to 4 KiB."""
        return msgspec.Raw(shortened(msgspec.json.encode(self.variables)))


DEFAULTS: Final = Settings()


def shortened(variables: bytes) -> bytes:
    """A JSON object of the first members of another, up to 4 KiB."""
    if len(variables) <= EVENT_VARIABLES_OCTETS_MAX:
        return variables
    room, kept = EVENT_VARIABLES_OCTETS_MAX - 2, {}
    for name, value in _OBJECT.decode(variables).items():
        room -= len(msgspec.json.encode({name: value})) - 1
        if room < 0:
            break
        kept[name] = value
    return msgspec.json.encode(kept)


def reject_controls(parameter: str, value: str) -> str:
    """The value, if it may stand in a header.

    Raises:
        BadRequest: It holds a line end, NUL or another control character; the text names the parameter.
    """
    if value.isprintable():
        return value
    if _CONTROLS.search(value):
        raise BadRequest(f"Parameter {parameter} holds a line end or another control character.")
    return value


def read_settings(parameters: Mapping[str, Sequence[str]], *, now: float) -> Settings:
    """Read the settings out of a request's parameters.

    Args:
        parameters: Values by name; others than settings are passed over.
        now: Seconds since the Unix epoch.

    Raises:
        BadRequest: One of them is malformed, refused, or they are over 16 KiB.
    """
    names = [name for name in parameters if name[1:2] == ":" or name == "template"]
    if not names:
        return DEFAULTS
    if sum(len(n) + sum(map(len, parameters[n])) for n in names) > OPTIONS_OCTETS_MAX:
        raise BadRequest("The o:, h:, v: and t: parameters are together over 16 KB.")
    reading = _Reading(now)
    for name in names:
        values = parameters[name]
        if not values:
            continue
        kind = name[:2]
        if kind == "o:":
            reading.option(name.lower(), values)
        elif kind == "h:":
            reading.header(name, values)
        elif kind == "v:":
            reading.variables[reject_controls("v:", name[2:])] = values[-1]
        elif name == "template" and values[0]:
            raise BadRequest("Parameter template is not supported: this server keeps no templates.")
    return reading.settings()


def check_pool(settings: Settings, domain: SendingDomain | None) -> None:
    """Let a message name an egress pool only if its domain may use it.

    Args:
        domain: The sending domain; None for one that is none of ours, which may name none.

    Raises:
        BadRequest: It may not.
    """
    pool = settings.options.pool
    if pool and (domain is None or not domain.may_use(pool)):
        raise BadRequest(f"Parameter o:sending-ip-pool was refused: the domain has no pool {pool}.")


def control_parameters(head: bytes) -> dict[str, list[str]]:
    """The settings that a ready-made message asks for in its ``X-Mailgun-*`` headers, as parameters."""
    parameters: dict[str, list[str]] = {}
    for name, raw in fields(head):
        if name[:10].lower() == CONTROL_PREFIX:
            parameter = _BY_HEADER.get(name.lower())
            if parameter is not None:
                parameters.setdefault(parameter, []).append(decode(raw))
    return parameters


class _Reading:
    """Settings on their way."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.tags: dict[str, str] = {}
        self.flags: dict[str, Any] = {}
        self.deliver_at = 0.0
        self.variables: dict[str, Any] = {}
        self.headers: list[tuple[str, str]] = []
        self.suppressed: frozenset[str] = frozenset()

    def option(self, name: str, values: Sequence[str]) -> None:
        if name == "o:tag":
            for tag in values:
                self._tag(tag.strip())
        elif name in ("o:dkim", "o:testmode", "o:require-tls", "o:skip-verification"):
            self.flags[name[2:].replace("-", "_")] = _flag(name, values[-1])
        elif name == "o:deliverytime":
            if values[-1].strip():
                self.deliver_at = _deliver_at(values[-1].strip(), now=self.now)
        elif name == "o:suppress-headers":
            self.suppressed = frozenset(part.strip().lower() for value in values for part in value.split(","))
        elif name == "o:sending-ip-pool":
            self.flags["pool"] = _pool(values[-1].strip())
        elif name in _REFUSED and values[-1]:
            raise BadRequest(f"Parameter {name} was refused: {_REFUSED[name]}")

    def header(self, parameter: str, values: Sequence[str]) -> None:
        name = parameter[2:]
        if not is_field_name(name):
            raise BadRequest("Parameter h: has a name that is no header's.")
        lower = name.lower()
        if lower == "x-mailgun-variables":
            for value in values:
                self._variables(value)
            return
        control = _BY_HEADER.get(lower.encode("ascii"))
        if control is not None and control.startswith("o:"):
            self.option(control, values)
            return
        if lower in _FORBIDDEN_HEADERS:
            raise BadRequest(f"Parameter {parameter} is not allowed: this server writes that header.")
        for value in values:
            self.headers.append((name, reject_controls(parameter, value)))

    def settings(self) -> Settings:
        return Settings(
            Options(**self.flags) if self.flags else DEFAULTS.options,
            tuple(self.tags.values()),
            self.deliver_at,
            self.variables,
            tuple(self.headers),
            self.suppressed,
        )

    def _tag(self, tag: str) -> None:
        if len(tag) > TAG_CHARACTERS_MAX or not tag.isascii() or not tag.isprintable():
            raise BadRequest("Parameter o:tag takes up to 128 printable ASCII characters.")
        if tag and len(self.tags) < TAGS_MAX:
            self.tags.setdefault(tag.lower(), tag)

    def _variables(self, value: str) -> None:
        try:
            variables = _OBJECT.decode(value.encode())
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise BadRequest("h:X-Mailgun-Variables is not a JSON object.") from None
        if _is_deeper(variables, VARIABLES_DEPTH_MAX):
            raise BadRequest(f"h:X-Mailgun-Variables is nested deeper than {VARIABLES_DEPTH_MAX}.")
        self.variables.update(variables)


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether a JSON value has more levels of objects and arrays than that."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not depth or any(_is_deeper(each, depth - 1) for each in inner)


def _pool(value: str) -> str:
    if len(value) > POOL_CHARACTERS_MAX or not value.isascii() or not value.isprintable():
        raise BadRequest("Parameter o:sending-ip-pool takes the id of an egress pool.")
    return value


def _flag(name: str, value: str) -> bool:
    text = value.strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise BadRequest(f"Parameter {name} is neither yes nor no.")


def _deliver_at(value: str, *, now: float) -> float:
    """When to deliver; 0.0 when that is past."""
    at = seconds_of(value)
    if at is None:
        raise BadRequest("Parameter o:deliverytime is neither an RFC 2822 date nor seconds since 1970.")
    if at > now + DELAY_S_MAX:
        raise BadRequest("Parameter o:deliverytime is more than 7 days ahead.")
    return at if at > now else 0.0
