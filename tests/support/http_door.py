"""The HTTP door with everything behind it in memory, and a client that speaks ASGI to it."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from pigeonry.admission.gate import Gate
from pigeonry.domain.errors import PigeonryError
from pigeonry.domain.message import (
    BodyRef,
    IdempotencyRecord,
    Message,
    MessageKey,
    Pending,
    RecipientState,
    RecipientView,
)
from pigeonry.domain.submission import Submission
from pigeonry.domain.tenant import Caller, SendingDomain
from pigeonry.doors.http.app import HttpDoor
from pigeonry.ports.coordinator import Lease
from support.composing import CountingIds, FixedClock

KEY = "key-0123456789abcdef"


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class MemoryKeys:
    def __init__(self) -> None:
        self.callers = {
            KEY: Caller("acct", "aaaaaaaa-00000001"),
            "key-sending": Caller("acct", "aaaaaaaa-00000002", role="sending", domain="example.org"),
            "key-basic": Caller("acct", "aaaaaaaa-00000003", role="basic"),
            "key-other": Caller("other", "aaaaaaaa-00000004"),
        }

    def by_secret(self, secret: str) -> Caller | None:
        return self.callers.get(secret)


class MemoryDomains:
    def __init__(self) -> None:
        self.domains: dict[str, SendingDomain] = {}
        for name in ("example.org", "second.example"):
            self.domains[name] = SendingDomain(id="0" * 24, name=name, account="acct", created_at=0.0)
        self.domains["off.example"] = SendingDomain(
            id="1" * 24, name="off.example", account="acct", created_at=0.0, state="disabled"
        )

    def get(self, name: str) -> SendingDomain | None:
        return self.domains.get(name)


class MemorySpool:
    def __init__(self, bodies: "MemoryBodies") -> None:
        self._bodies = bodies
        self._octets = bytearray()
        self.writes: list[int] = []
        self.discarded = False

    @property
    def length(self) -> int:
        return len(self._octets)

    def write(self, octets: bytes | memoryview) -> None:
        self.writes.append(len(octets))
        self._octets += octets

    async def finish(self) -> BodyRef:
        ref = BodyRef(0, len(self._bodies.kept), -1, len(self._octets), 0)
        self._bodies.kept.append(bytes(self._octets))
        return ref

    def discard(self) -> None:
        self.discarded = True


class MemoryBodies:
    def __init__(self) -> None:
        self.spools: list[MemorySpool] = []
        self.kept: list[bytes] = []

    def spool(self) -> MemorySpool:
        self.spools.append(MemorySpool(self))
        return self.spools[-1]

    async def read(self, ref: BodyRef) -> bytes:
        return self.kept[ref.segment]


class MemoryCoordinator:
    def __init__(self) -> None:
        self.held: dict[str, Lease] = {}

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        if name in self.held:
            if ended is None or not await ended(self.held[name].owner):
                return None
            del self.held[name]
        return self.held.setdefault(name, Lease(name, owner, 1, ttl_s))

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        return lease

    async def release(self, lease: Lease) -> None:
        self.held.pop(lease.name, None)


class MemoryStore:
    """Intake and store in one: what was accepted can be asked for."""

    def __init__(self, bodies: MemoryBodies) -> None:
        self._bodies = bodies
        self.accepted: list[Submission] = []
        self.rejected: list[Submission] = []
        self.fails: PigeonryError | None = None
        self.shed: str | None = None
        self.accepts_at = "1/1"
        self.over: set[str] = set()

    async def accept(self, submission: Submission, *, deadline: float) -> MessageKey:
        assert deadline > 5.0
        if self.fails is not None:
            raise self.fails
        self.accepted.append(submission)
        return MessageKey(0, 0, len(self.accepted))

    async def reject(self, submission: Submission, *, reason: str, description: str, deadline: float) -> None:
        self.rejected.append(submission)

    def place(self) -> str:
        return self.accepts_at

    async def is_over(self, place: str) -> bool:
        return place in self.over

    def reason_to_shed(self) -> str | None:
        return self.shed

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        records = [s.idempotency for s in self.accepted if s.idempotency is not None]
        return next((record for record in records if record.scope == scope), None)

    def key(self) -> str:
        """The key of the message accepted last."""
        return MessageKey(0, 0, len(self.accepted)).text()

    def _found(self, key: MessageKey) -> Submission | None:
        return self.accepted[key.serial - 1] if 0 < key.serial <= len(self.accepted) else None

    async def message(self, key: MessageKey) -> Message | None:
        found = self._found(key)
        if found is None:
            return None
        return Message(
            key=key,
            account=found.account,
            domain=found.domain,
            reverse_path=found.reverse_path,
            summary=found.summary,
            accepted_at=0.0,
            expires_at=1.0,
            body_kind=found.body_kind,
        )

    async def body(self, key: MessageKey) -> bytes | None:
        found = self._found(key)
        if found is None:
            return None
        return await self._bodies.read(found.body) if isinstance(found.body, BodyRef) else found.body

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        found = self._found(key)
        assert found is not None
        return [
            RecipientView(
                Pending(
                    key,
                    key.serial + n,
                    0,
                    recipient.address,
                    0.0,
                    found.account,
                    found.domain,
                    found.options.pool,
                    1e12,
                ),
                RecipientState.PENDING,
                recipient.variables,
            )
            for n, recipient in enumerate(found.recipients)
        ]


class World:
    """A door and what is behind it."""

    def __init__(self, **limits: int) -> None:
        self.keys = MemoryKeys()
        self.domains = MemoryDomains()
        self.bodies = MemoryBodies()
        self.store = MemoryStore(self.bodies)
        self.coordinator = MemoryCoordinator()
        self.gate = Gate(self.store, **limits)  # type: ignore[arg-type]
        self.door = HttpDoor(
            keys=self.keys,
            domains=self.domains,
            accept=self.store.accept,
            reject=self.store.reject,
            store=self.store,  # type: ignore[arg-type]
            bodies=self.bodies,
            coordinator=self.coordinator,
            clock=_Clock(),
            ids=CountingIds(),
            gate=self.gate,
            hostname="mx.example.net",
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        *,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
        query: str = "",
        gone: bool = False,
        stuck: bool = False,
        reads: asyncio.Event | None = None,
    ) -> Answer:
        """Send a request; the gate must be empty afterwards.

        Args:
            gone: The client goes away after what it sent.
            stuck: The client stays, but sends no more.
            reads: Before it is set the client takes nothing of the answer.
        """
        chunks = [body] if isinstance(body, bytes) else list(body)
        given = {"host": "api.example.net", **(headers or {})}
        if key is not None:
            given["authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
        if isinstance(body, bytes):
            given.setdefault("content-length", str(len(body)))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("192.0.2.7", 4711),
            "server": ("127.0.0.1", 8080),
        }
        answer = await _converse(self.door, scope, chunks, gone=gone or stuck, stuck=stuck, reads=reads)
        assert self.gate.in_flight_octets == 0
        return answer

    async def post(self, fields: dict[str, str | list[str]], *, path: str = "messages", **more: Any) -> Answer:
        """Send a message with the usual fields, changed by ``fields``."""
        from urllib.parse import urlencode

        usual = {"from": "al@example.org", "to": "bo@example.com", "subject": "Hello", "text": "Hi"}
        domain = more.pop("domain", "example.org")
        body = urlencode({**usual, **fields}, doseq=True).encode()
        headers = {"content-type": "application/x-www-form-urlencoded", **more.pop("headers", {})}
        return await self.ask("POST", f"/v3/{domain}/{path}", body, headers=headers, **more)

    def stored_body(self, number: int = -1) -> bytes:
        """The octets of an accepted message."""
        body = self.store.accepted[number].body
        return self.bodies.kept[body.segment] if isinstance(body, BodyRef) else body


class _Clock(FixedClock):
    async def sleep(self, seconds: float) -> None:
        assert seconds == 0


async def _converse(
    app: Any, scope: dict[str, Any], chunks: list[bytes], *, gone: bool, stuck: bool, reads: asyncio.Event | None
) -> Answer:
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": gone or number + 1 < len(chunks)}
        for number, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        if stuck:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if reads is not None:
            await reads.wait()
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    assert int(headers.get("content-length", "0")) == len(body)
    return Answer(sent[0]["status"], headers, body)


def multipart(
    fields: dict[str, str | list[str]],
    files: Sequence[tuple[str, str, str, bytes]] = (),
    boundary: str = "----b0undary",
) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its headers; files are (field, file name, type, content)."""
    out = bytearray()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, filename, kind, content in files:
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'.encode()
        out += f"Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
    out += f"--{boundary}--\r\n".encode()
    return bytes(out), {"content-type": f"multipart/form-data; boundary={boundary}"}


__all__ = ["KEY", "Answer", "World", "multipart"]
