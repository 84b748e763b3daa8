"""Every way we say no.

::

    PigeonryError
    +-- Refusal                 theirs, or policy: the input or the moment is wrong
    |   +-- BadRequest          the input is malformed                     501 5.5.4   400
    |   +-- BadAddress          an address cannot be parsed                553 5.1.3   400
    |   +-- NotAuthenticated    no credentials, or wrong ones              535 5.7.8   401
    |   +-- NotAllowed          known, but may not do this                 550 5.7.1   403
    |   +-- NotFound            no such domain, message or key             550 5.1.2   404
    |   +-- Conflict            another change came first, or one runs     451 4.3.0   409
    |   +-- TooLarge            over a size limit                          552 5.3.4   413
    |   +-- Mismatch            the same key with another body             554 5.5.0   422
    |   +-- TooManyRequests     over a rate limit                          451 4.7.1   429
    |   +-- Overloaded          admission is shedding load                 451 4.3.2   503
    +-- Fault                   ours: the part behind could not do it
        +-- StoreBusy           not in time; nothing was stored            451 4.3.1   503
        |   +-- ShardMoved      the shard is another worker's now          451 4.3.1   503
        +-- StoreInDoubt        not in time; it may have been stored       451 4.3.0   503
        +-- OwnerUnreachable    the shard's owner does not answer          451 4.3.0   503
        +-- NotOwner            who was asked owns that shard no more      451 4.3.0   503

An error knows all it takes to be answered on every door. Its text goes to the peer: it names no host,
path, query or policy of ours.
"""

from __future__ import annotations

from typing import ClassVar

from pigeonry.domain.reply import EnhancedStatus, Reply

__all__ = [
    "BadAddress",
    "BadRequest",
    "Conflict",
    "Fault",
    "Mismatch",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotOwner",
    "Overloaded",
    "OwnerUnreachable",
    "PigeonryError",
    "Refusal",
    "ShardMoved",
    "StoreBusy",
    "StoreInDoubt",
    "TooLarge",
    "TooManyRequests",
]


class PigeonryError(Exception):
    """The root: carries its own answer.

    Args:
        text: One sentence for the peer: what is wrong and, where possible, what to do next.
        retry_after_s: Seconds after which trying again makes sense; None when it never does, or when
            nothing is known. Becomes ``Retry-After`` on the HTTP door.
    """

    code: ClassVar[int] = 451
    status: ClassVar[EnhancedStatus] = EnhancedStatus(3, 0)
    http: ClassVar[int] = 500

    def __init__(self, text: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.retry_after_s = retry_after_s

    def reply(self) -> Reply:
        """The answer on the SMTP door."""
        return Reply(self.code, self.text, self.status)


class Refusal(PigeonryError):
    """Theirs, or policy: the input or the moment is wrong. Nothing is left behind."""


class BadRequest(Refusal):
    """The input is malformed; the text names the parameter."""

    code, status, http = 501, EnhancedStatus(5, 4), 400


class BadAddress(Refusal):
    """An address cannot be parsed."""

    code, status, http = 553, EnhancedStatus(1, 3), 400


class NotAuthenticated(Refusal):
    """No credentials, or wrong ones."""

    code, status, http = 535, EnhancedStatus(7, 8), 401


class NotAllowed(Refusal):
    """The caller is known, but may not do this."""

    code, status, http = 550, EnhancedStatus(7, 1), 403


class NotFound(Refusal):
    """No such domain, message or key, or none that this caller may know of."""

    code, status, http = 550, EnhancedStatus(1, 2), 404


class Conflict(Refusal):
    """Another change came first, or the same request is still in flight."""

    code, status, http = 451, EnhancedStatus(3, 0), 409


class TooLarge(Refusal):
    """Over a size limit that the text names."""

    code, status, http = 552, EnhancedStatus(3, 4), 413


class Mismatch(Refusal):
    """The same idempotency key came with another body."""

    code, status, http = 554, EnhancedStatus(5, 0), 422


class TooManyRequests(Refusal):
    """Over a rate limit."""

    code, status, http = 451, EnhancedStatus(7, 1), 429


class Overloaded(Refusal):
    """Admission is shedding load, or the node drains; the client should come back."""

    code, status, http = 451, EnhancedStatus(3, 2), 503


class Fault(PigeonryError):
    """Ours: the part behind could not do it."""

    http = 503


class StoreBusy(Fault):
    """The store could not take it in time. Nothing was stored."""

    code, status = 451, EnhancedStatus(3, 1)


class ShardMoved(StoreBusy):
    """The shard is another worker's now, and so is all that is in it: asking again here is no use."""


class StoreInDoubt(Fault):
    """The store did not confirm in time. It may have been stored; the store voids what was."""

    code, status = 451, EnhancedStatus(3, 0)


class OwnerUnreachable(Fault):
    """The owner of the message's shard does not answer."""

    code, status = 451, EnhancedStatus(3, 0)


class NotOwner(Fault):
    """Who was asked does not own the message's shard, or no longer: another does, or soon will."""

    code, status = 451, EnhancedStatus(3, 0)
