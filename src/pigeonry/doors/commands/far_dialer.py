"""Connections from an address that another node has: that node makes them and passes octets on.

Between the nodes octets travel inside the mutual TLS of commands; TLS with the receiver runs inside it from end to end,
so the other node sees no more of a conversation than the network would.

Standards: RFC 8446 (a session inside a session is as good as one on a socket).
Trust: the other node is a member. What it says is checked before it is used; who the receiver is, it says in its place,
as the network does.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import Fault, NotAllowed, PigeonryError
from pigeonry.doors.commands.relay import DIAL, Dialled, Wanted
from pigeonry.doors.commands.wire import Command
from pigeonry.ports.network import SourceGone

if TYPE_CHECKING:
    from pigeonry.doors.commands.peers import Peers
    from pigeonry.ports.network import Dialer, TlsPeer
    from pigeonry.ports.ownership import Member

__all__ = ["FarDialer"]

ANSWER_S: Final = 5.0  # seconds that the other node gets beyond those for the connection that it is to make


class FarDialer:
    """Implements ``ports.network.Dialer`` by way of one other node.

    Args:
        node: Its name.
        near: For TLS, which is this node's own.
        peers: Reaches nodes.
        member_of: A member of a node that can be reached, None when there is none. May raise ``Fault``.
    """

    def __init__(
        self, node: str, *, near: Dialer, peers: Peers, member_of: Callable[[str], Awaitable[Member | None]]
    ) -> None:
        self._node = node
        self._near = near
        self._peers = peers
        self._member_of = member_of

    def has_address(self, address: str) -> bool:
        """Whether it is this machine's. See the port."""
        return self._near.has_address(address)

    async def dial(
        self, protocol: Callable[[], asyncio.Protocol], address: str, port: int, *, source: str, timeout_s: float
    ) -> asyncio.Transport:
        """Have the node connect. See the port; its refusals are ``SourceGone``, as the source cannot be used."""
        made: list[_Relayed] = []

        def take(result: Any, transport: asyncio.Transport) -> asyncio.Protocol:
            told = msgspec.convert(result, Dialled)
            if told.errno:
                raise _NoConnection(told.errno)
            relayed = _Relayed(transport, (told.address, told.port), (address, port))
            made.append(relayed)
            inner = protocol()
            inner.connection_made(relayed)
            return inner

        asked = Command(DIAL, Wanted(source, address, port), within_s=timeout_s)
        try:
            member = await self._member_of(self._node)
            if member is None:
                raise SourceGone("The node is not there.")
            await self._peers.hand_over(member, asked, take=take, timeout_s=timeout_s + ANSWER_S)
        except _NoConnection as none:
            raise OSError(none.errno, os.strerror(none.errno)) from None
        except NotAllowed as error:
            raise OSError(errno.EACCES, error.text) from error
        except PigeonryError as error:
            raise SourceGone(error.text) from error
        return made[0]

    async def start_tls(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        *,
        server_name: str,
        verify: bool,
        timeout_s: float,
        keep_chain: bool = False,
    ) -> tuple[asyncio.Transport, TlsPeer]:
        """Encrypt from here to the receiver. See the port."""
        assert isinstance(transport, _Relayed), "it was made here"
        return await self._near.start_tls(
            transport.inner,
            protocol,
            server_name=server_name,
            verify=verify,
            timeout_s=timeout_s,
            keep_chain=keep_chain,
        )


class _NoConnection(Fault):
    """The node could not connect."""

    def __init__(self, errno: int) -> None:
        super().__init__("No connection.")
        self.errno = errno


class _Relayed(asyncio.Transport):
    """A connection to a node, with the addresses of the one that the node made."""

    def __init__(self, inner: asyncio.Transport, sockname: tuple[str, int], peername: tuple[str, int]) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self.inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send octets."""
        self.inner.write(data)

    def writelines(self, list_of_data: Any) -> None:
        """Send them all."""
        self.inner.writelines(list_of_data)

    def close(self) -> None:
        """Close once what was written has left."""
        self.inner.close()

    def abort(self) -> None:
        """Close at once."""
        self.inner.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self.inner.is_closing()

    def pause_reading(self) -> None:
        """Hold back what arrives."""
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        """Hand it over again."""
        self.inner.resume_reading()
