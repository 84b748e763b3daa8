"""The room for fresh mail, shared so that nobody fills it.

A tenant that hands in a million recipients at once would take all of it, and the next tenant's password reset would be
left to the store, behind that million. So nobody may have more than ``SHARE`` times what is free: one tenant alone gets
four fifths of the room, two that want all of it get four ninths each, and a newcomer always finds some.

Standards: A. Choudhury and E. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (1998).
"""

from __future__ import annotations

from typing import Final

__all__ = ["FreshRoom"]

SHARE: Final = 4  # the more, the more a tenant alone can use, and the less is left for a newcomer


class FreshRoom:
    """Who is in the room. Every operation is O(1).

    Args:
        size: Recipients.
    """

    __slots__ = ("_by_tenant", "_idents", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._idents: set[int] = set()
        self._by_tenant: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._idents)

    def enter(self, ident: int, tenant: str) -> bool:
        """Take a recipient in, if its tenant may have one more."""
        has = self._by_tenant.get(tenant, 0)
        if has >= SHARE * (self._size - len(self._idents)):
            return False
        self._idents.add(ident)
        self._by_tenant[tenant] = has + 1
        return True

    def leave(self, ident: int, tenant: str) -> bool:
        """Let a recipient go; whether it was here."""
        if ident not in self._idents:
            return False
        self._idents.discard(ident)
        left = self._by_tenant[tenant] - 1
        if left:
            self._by_tenant[tenant] = left
        else:
            del self._by_tenant[tenant]
        return True
