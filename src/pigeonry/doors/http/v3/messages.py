"""``POST /v3/{domain}/messages`` and ``messages.mime``: the hot routes, plain ASGI in front of the router.

Order of things, cheapest refusal first: who asks and for which domain (401, 403, 404), whether there is room (413,
503), the body (400), the idempotency key (409, 422), the message (400), the commit (503), and only then 200 (invariant
I1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pigeonry.compose.identity import IdentitySource
from pigeonry.compose.message import compose_message
from pigeonry.compose.mime import compose_mime
from pigeonry.domain.errors import BadRequest
from pigeonry.doors.http.forms import FormReader
from pigeonry.doors.http.idempotency import Idempotency, fingerprint, scope_of
from pigeonry.doors.http.respond import send_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from pigeonry.admission.gate import Gate
    from pigeonry.compose.draft import Draft
    from pigeonry.compose.form import Form
    from pigeonry.domain.message import IdempotencyRecord, MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.domain.tenant import SendingDomain
    from pigeonry.doors.http.guard import Guard
    from pigeonry.doors.http.idempotency import Reservation
    from pigeonry.ports.body_store import BodyStore
    from pigeonry.ports.coordinator import Coordinator
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["Accept", "MessagesEndpoint", "Reject"]

COMMIT_DEADLINE_S: Final = 10.0  # clients give up after 10 to 60 s; a commit takes milliseconds
BODY_DEADLINE_S: Final = 60.0  # for the whole body: 25 MiB at 3.5 Mbit/s
_SLICE_OCTETS: Final = 1_048_576  # written in one go before others get a turn
_STEP_OCTETS: Final = 65_536  # of room taken at a time when a request did not say how much it brings
_REPLAYED: Final = ((b"idempotent-replayed", b"true"),)
_ENCODER: Final = msgspec.json.Encoder()


class Accept(Protocol):
    """Makes a submission durable (``queue.intake.Intake.accept``)."""

    async def __call__(self, submission: Submission, *, deadline: float) -> MessageKey:
        """The message's key once it is durable."""
        ...


class Reject(Protocol):
    """Records that a submission was refused (``queue.intake.Intake.reject``)."""

    async def __call__(self, submission: Submission, *, reason: str, description: str, deadline: float) -> None:
        """Return once the ``rejected`` event is durable."""
        ...


class Queued(msgspec.Struct, frozen=True):
    """The answer that every client compares against."""

    id: str
    message: str = "Queued. Thank you."


class MessagesEndpoint:
    """Takes messages in.

    Args:
        guard: Who asks.
        gate: Whether there is room.
        accept, reject: The intake.
        store: Finds earlier answers by idempotency key.
        bodies: Takes large bodies.
        coordinator: Keeps requests with one idempotency key apart.
        clock: Time.
        ids: Random octets.
        hostname: Who we are in trace lines.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        gate: Gate,
        accept: Accept,
        reject: Reject,
        store: QueueStore,
        bodies: BodyStore,
        coordinator: Coordinator,
        clock: Clock,
        ids: IdSource,
        hostname: str,
    ) -> None:
        self._guard = guard
        self._gate = gate
        self._accept = accept
        self._reject = reject
        self._bodies = bodies
        self._clock = clock
        self._identities = IdentitySource(hostname=hostname, clock=clock, ids=ids)
        self._idempotency = Idempotency(store=store, coordinator=coordinator, clock=clock, ids=ids)

    async def post(self, scope: Scope, receive: Receive, send: Send, *, name: str, mime: bool) -> None:
        """Answer a request.

        Args:
            scope, receive, send: ASGI's.
            name: The sending domain, as the path says.
            mime: Whether it brings a ready-made message.

        Raises:
            PigeonryError: It is refused, or failed; nothing was sent yet.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller, domain = self._guard.sender(headers, name)
        hold = _Hold(self._gate)
        try:
            hold.declare(headers)
            form = await self._read(headers, receive, scope["query_string"], hold)
            if form is None:
                return
            client = scope.get("client")
            ip = client[0] if client else ""

            def compose() -> Draft:
                make = compose_mime if mime else compose_message
                return make(form, domain=domain, caller=caller, identities=self._identities, originating_ip=ip)

            key = headers.get(b"idempotency-key")
            more: tuple[tuple[bytes, bytes], ...] = ()
            if key is None:
                response = await self._take(compose(), domain)
            else:
                digest = fingerprint(form, route="messages.mime" if mime else "messages")
                async with self._idempotency.reserve(scope_of(domain.account, domain.name, key), digest) as reservation:
                    if reservation.record is not None:
                        response, more = reservation.record.response, _REPLAYED
                    else:
                        response = await self._take(compose(), domain, reservation)
        finally:
            hold.leave()
        await send_answer(send, 200, response, key=caller.key, headers=more)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive, query: bytes, hold: _Hold) -> Form | None:
        """The request's parameters; None when the client is gone."""
        reader = FormReader(
            content_type=headers.get(b"content-type", b""),
            content_encoding=headers.get(b"content-encoding", b""),
            grow=hold.grow,
        )
        with _Deadline(BODY_DEADLINE_S):
            more = True
            while more:
                event = await receive()
                if event["type"] != "http.request":
                    return None
                reader.feed(event.get("body", b""))
                more = event.get("more_body", False)
        return reader.finish(query)

    async def _take(self, draft: Draft, domain: SendingDomain, reservation: Reservation | None = None) -> bytes:
        """Commit the message; the body of the answer."""
        response = _ENCODER.encode(Queued(draft.message_id))
        record = None if reservation is None else reservation.remember(response)
        refusal = self._gate.refusal(domain)
        if refusal is not None:
            await self._reject(
                draft.submission(), reason="generic", description=refusal.text, deadline=self._deadline()
            )
            raise refusal
        if draft.pieces:
            await self._take_large(draft, record)
        else:
            await self._accept(draft.submission(idempotency=record), deadline=self._deadline())
        return response

    async def _take_large(self, draft: Draft, record: IdempotencyRecord | None) -> None:
        """Commit a message whose body goes into a file of its own, piece by piece."""
        spool = self._bodies.spool()
        try:
            written = 0
            for piece in draft.pieces:
                for start in range(0, len(piece), _SLICE_OCTETS):
                    part = memoryview(piece)[start : start + _SLICE_OCTETS]
                    spool.write(part)
                    written += len(part)
                    if written >= _SLICE_OCTETS:
                        written = 0
                        await self._clock.sleep(0)
            body = await spool.finish()
            await self._accept(draft.submission(body=body, idempotency=record), deadline=self._deadline())
        except BaseException:
            spool.discard()
            raise

    def _deadline(self) -> float:
        return self._clock.monotonic() + COMMIT_DEADLINE_S


class _Deadline:
    """``asyncio.timeout`` at a sixth of its price: one timer, and a cancellation taken back when it was ours.

    Raises:
        BadRequest: On leaving, when time was up.
    """

    __slots__ = ("_before", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "requests are answered in tasks"
        self._task = task
        self._before = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise BadRequest(f"The request's body did not arrive within {self._seconds:.0f} s.") from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


class _Hold:
    """The room that one request has taken in the gate."""

    __slots__ = ("_gate", "_grown", "_held")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = 0
        self._grown = 0

    def declare(self, headers: Mapping[bytes, bytes]) -> None:
        """Take the room for what the request says it will bring."""
        text = headers.get(b"content-length", b"0")
        length = int(text) if text.isdigit() else 0
        self._enter(length)

    def grow(self, octets: int) -> None:
        """Take more room when the request brings more than it said: chunked, or unpacked."""
        self._grown += octets
        if self._grown > self._held:
            self._enter(max(self._grown - self._held, _STEP_OCTETS))

    def leave(self) -> None:
        """Give all of it back."""
        self._gate.leave(self._held)
        self._held = 0

    def _enter(self, octets: int) -> None:
        self._gate.enter(octets)
        self._held += octets
