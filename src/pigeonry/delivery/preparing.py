"""What is sent: the octets of one recipient's message, signed, and the envelope they go in.

Everything but the signature is fixed at acceptance (invariant I9); the signature is made for each attempt, and after
the octets were made fit for the server, because a conversion would break it.

Standards: RFC 6376 (DKIM, see ``protocol.dkim``); RFC 6152 section 3 (8-bit content for a 7-bit server).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from pigeonry.delivery.demand import ANY_TLS, TlsDemand
from pigeonry.delivery.downgrade import seven_bit
from pigeonry.domain.errors import Fault, NotFound
from pigeonry.domain.message import BodyKind, Message, Pending, as_told_of, is_personal
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.environment import Clock
from pigeonry.ports.queue_store import QueueStore
from pigeonry.protocol.dkim.signer import DkimSigner, sign_many
from pigeonry.protocol.smtp.client import Capabilities, Transaction

__all__ = ["Prepared", "Preparing", "Render"]

Render = Callable[..., bytes]
"""``compose.template.render``: stored octets, ``address`` and ``variables`` to the message's octets."""


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """One message, ready for one session.

    Args:
        parts: Signatures, if any, and the message.
        dkim: Name of the first signature's key record, empty when it is not signed.
    """

    transaction: Transaction
    parts: tuple[bytes, ...]
    dkim: str = ""


class Preparing:
    """Makes messages ready.

    Args:
        store: Asked for a recipient's variables and DSN parameters, only where the message has such.
        clock: Time of the signature.
        signers: The sending domain's signers.
        domain: The sending domain with its settings, None when it is not known any more.
        render: For batch messages.
    """

    def __init__(
        self,
        *,
        store: QueueStore,
        clock: Clock,
        signers: Callable[[str], Sequence[DkimSigner]],
        domain: Callable[[str], SendingDomain | None],
        render: Render,
    ) -> None:
        self._store = store
        self._clock = clock
        self._signers = signers
        self._domain = domain
        self._render = render

    def demand(self, message: Message) -> TlsDemand:
        """What a message asks of its connection: its own options, else its domain's settings."""
        options = message.options
        required = options.require_tls
        lenient = options.skip_verification
        if required is None or (required and lenient is None):
            domain = self._domain(message.domain)
            if required is None:
                required = domain is not None and domain.require_tls
            if lenient is None:
                lenient = domain is not None and domain.skip_verification
        if not required:
            return ANY_TLS
        return TlsDemand(required=True, verified=not lenient)

    async def octets(self, pending: Pending, message: Message, stored: bytes) -> bytes:
        """The recipient's message as accepted: neither signed nor stuffed.

        Raises:
            NotFound: The recipient is gone.
            StoreBusy: Its variables could not be read.
        """
        if message.body_kind is not BodyKind.TEMPLATE:
            return stored
        view = await self._store.recipient(pending)
        if view is None:
            raise NotFound("Message not found")
        return self._render(stored, address=pending.address, variables=view.variables)

    async def told(self, pending: Pending, message: Message) -> Message:
        """The message as this recipient's events tell of it; less of it when its variables cannot be read just now."""
        variables = b""
        if is_personal(message):
            with contextlib.suppress(Fault):
                view = await self._store.recipient(pending)
                variables = b"" if view is None else view.variables
        return as_told_of(message, pending.address, variables)

    async def ready(self, pending: Pending, message: Message, octets: bytes, capabilities: Capabilities) -> Prepared:
        """The message for a session with these capabilities.

        Raises:
            NotConvertible: It has 8-bit content that the server does not take and that cannot be converted.
            StoreBusy: The recipient's DSN parameters could not be read.
        """
        prepared = self._made(pending, message, octets, capabilities)
        if not _has_dsn(message, capabilities):
            return prepared
        transaction = await self._with_dsn(prepared.transaction, pending, message)
        return Prepared(transaction, prepared.parts, prepared.dkim)

    def at_once(self, pending: Pending, message: Message, stored: bytes, capabilities: Capabilities) -> Prepared | None:
        """As ``octets`` and ``ready`` make it, None when the store would have to be asked.

        Raises:
            NotConvertible: As ``ready``.
        """
        if message.body_kind is BodyKind.TEMPLATE or _has_dsn(message, capabilities):
            return None
        return self._made(pending, message, stored, capabilities)

    def _made(self, pending: Pending, message: Message, octets: bytes, capabilities: Capabilities) -> Prepared:
        eight_bit = message.eight_bit or (message.body_kind is BodyKind.TEMPLATE and not octets.isascii())
        if eight_bit and not capabilities.eight_bit_mime:
            octets = seven_bit(octets)
            eight_bit = False
        signature, dkim = b"", ""
        if message.options.dkim is not False and (signers := self._signers(message.domain)):
            signature = sign_many(signers, octets, now=self._clock.now())
            dkim = f"{signers[0].selector}._domainkey.{signers[0].domain}"
        transaction = Transaction(
            message.reverse_path.encode(),
            pending.address.encode(),
            len(signature) + len(octets),
            eight_bit,
            message.smtputf8,
        )
        return Prepared(transaction, (signature, octets) if signature else (octets,), dkim)

    async def _with_dsn(self, transaction: Transaction, pending: Pending, message: Message) -> Transaction:
        view = await self._store.recipient(pending)
        return msgspec.structs.replace(
            transaction,
            envelope_id=message.envelope_id.encode(),
            dsn_return=message.dsn_return.encode(),
            notify=b"" if view is None else view.notify.encode(),
            original=b"" if view is None else view.original.encode(),
        )


def _has_dsn(message: Message, capabilities: Capabilities) -> bool:
    return capabilities.dsn and bool(message.dsn_each or message.envelope_id or message.dsn_return)
