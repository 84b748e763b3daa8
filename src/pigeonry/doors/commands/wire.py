"""What goes over a command connection: a command one way, its answer the other, each in one frame.

Both are maps of plain data, so that a field can be added: who does not know it leaves it out or passes over it, and
releases N and N-1 understand each other. A change that the older one must not pass over is a new version of
``channel.VERSIONS``. Nothing but numbers, texts, octets, lists and maps is ever made from what a peer sends.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from pigeonry.domain import errors
from pigeonry.domain.errors import BadRequest, Fault, PigeonryError, TooLarge
from pigeonry.doors.commands.frames import FRAME_OCTETS_MAX

__all__ = ["Answer", "Command", "decode_command", "encode_answer", "encode_command", "refusal", "result_of"]


SECONDS_MAX: Final = 2_678_400.0  # a month: nothing is waited for so long
_Seconds = Annotated[float, msgspec.Meta(ge=-SECONDS_MAX, le=SECONDS_MAX)]  # no NaN; below 0.0 it is too late already


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked.

    Args:
        name: Of a handler.
        argument: Plain data, as that handler takes it.
        slot: Which worker of the node is meant; None: whoever hears it.
        within_s: Seconds after which nobody waits for the answer any more; None: not said.
    """

    name: str
    argument: Any = None
    slot: int | None = None
    within_s: _Seconds | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back: a result, or one of our errors by its class, its sentence and when to come back."""

    result: Any = None
    error: str = ""
    text: str = ""
    retry_after_s: _Seconds | None = None


_ENCODER: Final = msgspec.msgpack.Encoder()
_COMMAND: Final = msgspec.msgpack.Decoder(Command)
_ANSWER: Final = msgspec.msgpack.Decoder(Answer)
_ERRORS: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, PigeonryError) and kind is not PigeonryError
}


def encode_command(command: Command) -> bytes:
    """Its octets."""
    return _ENCODER.encode(command)


def decode_command(octets: bytes) -> Command:
    """The command in a frame.

    Raises:
        BadRequest: It is none.
    """
    try:
        return _COMMAND.decode(octets)
    except (msgspec.MsgspecError, RecursionError, ValueError):  # too deep, or a text that is none
        raise BadRequest("The command is malformed.") from None


def encode_answer(answer: Answer) -> bytes:
    """Its octets; a refusal in its place when it is too large for a frame."""
    octets = _ENCODER.encode(answer)
    if len(octets) > FRAME_OCTETS_MAX:
        return _ENCODER.encode(refusal(TooLarge("The answer is too large.")))
    return octets


def refusal(error: PigeonryError) -> Answer:
    """The answer that raises the same error on the other side; for a class of our own, the one it is a kind of."""
    name = next(kind.__name__ for kind in type(error).__mro__ if _ERRORS.get(kind.__name__, PigeonryError) is kind)
    return Answer(error=name, text=error.text, retry_after_s=error.retry_after_s)


def result_of(octets: bytes) -> Any:
    """The result in an answer.

    Raises:
        PigeonryError: What was refused with, as its own class; a class that we do not know is a ``Fault``.
        ValueError: The octets are no answer (``msgspec.MsgspecError`` is one).
        RecursionError: They are too deep for one.
    """
    answer = _ANSWER.decode(octets)
    if answer.error:
        kind = _ERRORS.get(answer.error, Fault)
        raise kind(answer.text, retry_after_s=answer.retry_after_s)
    return answer.result
