"""``Idempotency-Key``: the same request sent again gets the same answer, and its message is accepted once.

While a request with a key runs it holds a lease in the Coordinator, so that a second one, on any worker, is told 409.
What it was answered is committed together with its message (``IdempotencyRecord``) and kept for a day: after a crash
either both are there or neither. A request that failed leaves nothing; its key may be used again. Only when nobody
knows whether it was stored its key stays reserved for a while: what was stored is being voided then, and until it is,
the record could be read and would promise what is not kept (invariant I1).

A door that dies leaves its lease behind. In a cluster that is over as soon as the part of the queue into which the
door's message would have gone is served by another owner: whatever of it counts is found then, and nothing more can
come. A message may go nowhere else than there (``IdempotencyRecord.place``), so that a door that was only asleep, and
has another part by now, stores nothing. Elsewhere the lease's time has to pass.

Standards: draft-ietf-httpapi-idempotency-key-header (409 in flight, 422 other content).
Trust: the key comes from outside; it is hashed with the sending domain and never stored.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import BadRequest, Conflict, Mismatch, StoreInDoubt
from pigeonry.domain.message import IdempotencyRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pigeonry.compose.form import Form
    from pigeonry.ports.coordinator import Coordinator
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["Idempotency", "Reservation", "fingerprint", "scope_of"]

KEPT_S: Final = 86_400.0  # how long an answer is repeated
LEASE_S: Final = 60.0  # longer than any request may take, and a void after it; a crashed worker's key is free by then
KEY_OCTETS_MAX: Final = 255  # a UUID has 36; several of them together still fit


class Reservation:
    """The right to answer a request with this key, and what was answered before.

    Args:
        record: The earlier answer; None when this is the first request.
    """

    def __init__(
        self, record: IdempotencyRecord | None, *, scope: bytes, digest: bytes, expires_at: float, place: str
    ) -> None:
        self.record = record
        self._place = place
        self._scope = scope
        self._digest = digest
        self._expires_at = expires_at

    def remember(self, response: bytes) -> IdempotencyRecord:
        """What to commit beside the message."""
        return IdempotencyRecord(self._scope, self._digest, response, self._expires_at, self._place)


class Idempotency:
    """Finds earlier answers and keeps two requests with one key apart.

    Args:
        store: Keeps the records.
        coordinator: Keeps requests in flight apart, over all workers.
        clock: Wall time.
        ids: Makes the name under which a request holds its lease.
    """

    def __init__(self, *, store: QueueStore, coordinator: Coordinator, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._coordinator = coordinator
        self._clock = clock
        self._ids = ids

    @asynccontextmanager
    async def reserve(self, scope: bytes, digest: bytes) -> AsyncIterator[Reservation]:
        """Hold the key while the request runs; after one that is in doubt, or was cut off, until the lease is over.

        Args:
            scope: What ``scope_of`` returned.
            digest: What ``fingerprint`` returned.

        Raises:
            Conflict: A request with this key runs just now.
            Mismatch: A request with this key asked for something else.
        """
        place = self._store.place()
        owner = f"{self._ids.octets(16).hex()}@{place}"
        lease = await self._coordinator.acquire(
            f"idem:{scope.hex()}", owner=owner, ttl_s=LEASE_S, ended=self._has_ended
        )
        if lease is None:
            raise Conflict("A request with this Idempotency-Key is in progress.", retry_after_s=1)
        in_doubt = False
        try:
            record = await self._store.idempotent(scope)
            if record is not None and record.fingerprint != digest:
                raise Mismatch("This Idempotency-Key was used for a request with other content.")
            yield Reservation(record, scope=scope, digest=digest, expires_at=self._clock.now() + KEPT_S, place=place)
        except (StoreInDoubt, asyncio.CancelledError):
            in_doubt = True
            raise
        finally:
            if not in_doubt:
                await self._coordinator.release(lease)

    async def _has_ended(self, owner: str) -> bool:
        """Whether who holds a key can store nothing under it any more, and what he stored is known."""
        place = owner.partition("@")[2]
        return place != "" and await self._store.is_over(place)


def scope_of(account: str, domain: str, key: bytes) -> bytes:
    """Where the key holds: in one sending domain, as long as it is that account's.

    Raises:
        BadRequest: The key is empty, too long, or not visible ASCII.
    """
    if not 0 < len(key) <= KEY_OCTETS_MAX or not all(0x21 <= octet <= 0x7E for octet in key):
        raise BadRequest("Idempotency-Key is not 1 to 255 visible ASCII characters.")
    return hashlib.sha256(f"{account}\x00{domain}\x00".encode() + key).digest()


def fingerprint(form: Form, *, route: str) -> bytes:
    """SHA-256 over what a request asks for, the same however it was written.

    A multipart boundary differs each time, so it is the parameters that count: names in order, the values of each
    in the order given, files by name, type and content.
    """
    digest = hashlib.sha256()

    def add(octets: bytes | bytearray) -> None:
        digest.update(len(octets).to_bytes(8))
        digest.update(octets)

    add(route.encode())
    for name in sorted(form.fields):
        add(b"field " + name.encode("utf-8", "replace"))
        for value in form.fields[name]:
            add(value.encode("utf-8", "replace"))
    for upload in form.uploads:
        add(b"file " + f"{upload.field}\x00{upload.filename}\x00{upload.content_type}".encode("utf-8", "replace"))
        digest.update(upload.size.to_bytes(8))
        for lines in upload.lines:
            digest.update(lines)
    if form.message is not None:
        add(form.message)
    return digest.digest()
