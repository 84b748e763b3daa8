"""Which of our addresses a recipient's mail leaves from, or that it has to wait for one.

A sending domain has an egress pool, or the default one; a message may name another that its domain allows. Of the
pool's sources those that this node owns just now (``delivery.ownership``) share its recipients by weight. A recipient
keeps to its source while that one can be used: a greylisting server wants to see the address again that it sent away.

A node that owns none of a pool's addresses borrows: its connections are made by a node that owns one
(``delivery.borrowing``). If nobody lends one, its mail waits for a while, since an address may be back in a moment, and
then the node does what the pool says of ``on_site_loss``: it goes on waiting, or leaves by the one other pool that is
named there. That other pool's own ``on_site_loss`` does not count: mail leaves by its pool or by what its pool allows,
and by nothing further. What waits is left to the store, so that a pool without an address takes neither memory nor
connections from the others; its first attempt is recorded as a deferral that says why, and it is found again when
there is an address, or when its time is over.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pigeonry.domain.message import Pending
from pigeonry.domain.outcome import Attempt, Deferred
from pigeonry.domain.route import SYSTEM_SOURCE, EgressPool, EgressSource
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.environment import Clock

__all__ = ["NO_SOURCE", "SYSTEM_POOL", "Egress", "Outlet"]

NO_SOURCE: Final = 603  # internal code, ours: no source of the pool can be used
SYSTEM_POOL: Final = EgressPool("default", ((SYSTEM_SOURCE, 1),))
"""The one pool where none is configured."""

LOOK_S: Final = 300.0  # seconds between looks at all that waits, whether its time is over: it is loaded for that
KEPT_MAX: Final = 1_000  # domains whose mail waits that are looked at every second, whether they have another pool now
FAMILY_S: Final = 300.0  # seconds that a site is known to have no address of a family, as long as a usual TTL
FAMILIES_MAX: Final = 10_000  # sites so known, some 200 octets each
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15  # 2**64 over the golden ratio: spreads numbers that follow each other
_MASK: Final = (1 << 64) - 1


class Outlet:
    """A way by which mail leaves: an egress source of this node, or the same one as another node lends it.

    Args:
        source: It.
        until: Monotonic time until which it may be used: minus infinity while it is not ours, or nobody lends it.
        lent: Whether it is the way through another node.
    """

    __slots__ = ("key", "open", "source", "through", "until")

    def __init__(self, source: EgressSource, until: float = -math.inf, *, lent: bool = False) -> None:
        self.source = source
        self.until = until
        self.key = f"{source.address} lent" if lent else source.address
        """What its connections and what waits for them are kept under: a connection never changes its way."""
        self.through = ""
        """The node that makes the connections; empty for this one."""
        self.open = False
        """Whether it was usable when that was last looked at, for choosing; who sends looks at ``until``."""


def _never(_pending: Pending) -> str:
    return ""


class _Pool:
    """A pool and what of it can be used."""

    __slots__ = ("all", "borrows", "has", "in_grace", "lent", "limits", "lost_at", "own", "usable")

    def __init__(
        self, pool: EgressPool, outlets: Mapping[str, Outlet], lent: Mapping[str, Outlet], lost_at: float
    ) -> None:
        self.limits = pool
        self.own = tuple((outlets[source.address], weight) for source, weight in pool.sources)
        self.lent = tuple((lent[source.address], weight) for source, weight in pool.sources if source.address)
        self.all = _Share(self.own)
        self.usable = _Share(())
        self.borrows = False  # none of its addresses is this node's
        self.has = False  # an address of its own, be it lent
        self.lost_at = lost_at  # monotonic; since when it has none
        self.in_grace = True  # it has none, and not for long yet


class _Share:
    """Outlets by weight."""

    __slots__ = ("bounds", "only", "outlets", "total")

    def __init__(self, weighted: Iterable[tuple[Outlet, int]]) -> None:
        pairs = tuple(weighted)
        self.outlets = tuple(outlet for outlet, _ in pairs)
        self.bounds = tuple(itertools.accumulate(weight for _, weight in pairs))
        self.total = self.bounds[-1] if pairs else 0
        self.only = self.outlets[0] if len(self.outlets) == 1 else None

    def at(self, number: int) -> Outlet:
        """The one that a number falls to."""
        return self.outlets[bisect_right(self.bounds, number % self.total)]


class Egress:
    """Chooses sources.

    Args:
        pools: All there are.
        default: Id of the pool for domains that name none.
        domain: A sending domain with its settings.
        clock: Time.
        rebound: The pool that a recipient leaves by whatever its domain says; empty for the usual one.
        learning_s: Seconds from the start in which it is not known yet what this node owns: nobody else stands in.
    """

    def __init__(
        self,
        pools: Sequence[EgressPool] = (SYSTEM_POOL,),
        *,
        default: str = SYSTEM_POOL.id,
        domain: Callable[[str], SendingDomain | None],
        clock: Clock,
        learning_s: float = 0.0,
        rebound: Callable[[Pending], str] = _never,
    ) -> None:
        self._domain = domain
        self._clock = clock
        self._default = default
        self._rebound = rebound
        now = clock.monotonic()
        sources = {source.address: source for pool in pools for source, _ in pool.sources}
        self.outlets = {address: Outlet(source) for address, source in sources.items()}
        """By address; ``delivery.ownership`` sets their ``until``."""
        self.lent = {address: Outlet(source, lent=True) for address, source in sources.items() if address}
        """The same through other nodes; ``delivery.borrowing`` sets their ``until``."""
        if SYSTEM_SOURCE.address in self.outlets:
            self.outlets[SYSTEM_SOURCE.address].until = math.inf
        self._pools = {pool.id: _Pool(pool, self.outlets, self.lent, now + learning_s) for pool in pools}
        self._other_family: dict[tuple[str, bool], float] = {}
        self._waiting: Counter[str] = Counter()  # recipients left to the store since the last look, by pool
        self._waited: Counter[str] = Counter()  # and before it
        self._kept: dict[tuple[str, str], str] = {}  # by domain and pool named: the pool for which mail of them waits
        self._look_at = math.inf
        self.review()

    # -- for each recipient

    def choose(self, pending: Pending) -> Outlet | None:
        """The source for a recipient, None when it has to wait. Does no I/O."""
        pool = self._pools.get(self.pool_for(pending))
        if pool is None:
            return None
        usable = pool.usable
        if usable.only is not None or not usable.total:
            return usable.only
        number = _number(pending)
        chosen = pool.all.at(number)
        return chosen if chosen.open else usable.at(number)

    def fitting(self, chosen: Outlet, pending: Pending, site: str) -> Outlet:
        """The chosen source, or one of the other family where the site is known to have no address of this one's."""
        if not self._other_family:
            return chosen
        until = self._other_family.get((site, _is_six(chosen)))
        if until is None or until < self._clock.monotonic():
            return chosen
        usable = self._pools[self.pool_for(pending)].usable
        others = [outlet for outlet in usable.outlets if _is_six(outlet) != _is_six(chosen)]
        return others[_number(pending) % len(others)] if others else chosen

    def verdict(self, pending: Pending) -> Deferred | None:
        """What is to be recorded of a recipient that has to wait; None for nothing (now, or again)."""
        name = self.pool_for(pending)
        self._waiting[name] += 1
        if len(self._kept) < KEPT_MAX:
            self._kept[pending.domain, pending.pool] = name
        pool = self._pools.get(name)
        now = self._clock.now()
        if pool is None:
            text = f"The egress pool {name} is not known to this server."
            wait_s = 0.0
        else:
            text = f"No address of the egress pool {name} can be used here."
            wait_s = pool.limits.on_site_loss_max_age_s
        if wait_s and now - pending.due >= wait_s:
            return Deferred(Attempt(), NO_SOURCE, description=text, over=True)
        if now >= pending.expires_at:
            return Deferred(Attempt(), NO_SOURCE, description=text)
        if pending.attempts or (pool is not None and pool.in_grace):
            return None
        return Deferred(Attempt(), NO_SOURCE, description=text, held=True)

    # -- as things change

    def review(self) -> tuple[Sequence[Outlet], bool]:
        """Look at what can be used now.

        Returns:
            The outlets that can be used no more, and whether what was left to the store is to be looked at again.
        """
        now = self._clock.monotonic()
        closed = []
        for outlet in (*self.outlets.values(), *self.lent.values()):
            usable = outlet.until > now
            if outlet.open and not usable:
                closed.append(outlet)
            outlet.open = usable
        changed = any(self._pool_of(*who) != name for who, name in self._kept.items())
        for pool in self._pools.values():
            had, was_in_grace = pool.usable.total, pool.in_grace
            pool.usable = self._usable(pool, now)
            gained = pool.usable.total and not had
            changed = changed or bool(gained) or (was_in_grace and not pool.in_grace)
        return closed, self._is_to_look(now, changed=changed)

    def is_other_family(self, outlet: Outlet, site: str, pending: Pending) -> bool:
        """Note that a site has no address that an outlet reaches; whether another outlet of the pool may reach it."""
        while len(self._other_family) >= FAMILIES_MAX:
            del self._other_family[next(iter(self._other_family))]
        self._other_family[site, _is_six(outlet)] = self._clock.monotonic() + FAMILY_S
        return self.fitting(outlet, pending, site) is not outlet

    @property
    def borrows(self) -> bool:
        """Whether there is a pool of which this node owns no address."""
        return any(pool.borrows for pool in self._pools.values())

    def states(self) -> Iterable[tuple[str, bool]]:
        """The pools by id, and whether this node has an address of them, its own or lent."""
        return [(name, pool.has) for name, pool in self._pools.items()]

    def waiting(self) -> Iterable[tuple[str, int]]:
        """The pools for an address of which recipients wait, and how many did when they were last looked at."""
        found = self._waiting | self._waited
        return [(name, n) for name, n in found.items() if name not in self._pools or not self._pools[name].usable.total]

    def pool_for(self, pending: Pending) -> str:
        """Id of the pool by which a recipient leaves, whether there is such a pool or not."""
        return self._rebound(pending) or self._pool_of(pending.domain, pending.pool)

    def _pool_of(self, name: str, named: str) -> str:
        """The pool by which mail of a domain leaves that names that one, or none."""
        domain = self._domain(name)
        if domain is None:
            return self._default
        if named and domain.may_use(named):
            return named
        return domain.pool or self._default

    def _usable(self, pool: _Pool, now: float) -> _Share:
        pool.borrows = not any(outlet.open for outlet, _ in pool.own)
        own = _at_best(pool)
        if own.total:
            pool.has, pool.in_grace = True, False
            return own
        if pool.has:
            pool.has, pool.lost_at = False, now
        pool.in_grace = now - pool.lost_at < pool.limits.on_site_loss_grace_s
        if pool.in_grace:
            return own
        way = pool.limits.on_site_loss
        other = self._pools.get(self._default if way == "shared" else way.removeprefix("pool:"))
        return own if way == "queue" or other is None else _at_best(other)

    def _is_to_look(self, now: float, *, changed: bool) -> bool:
        """Whether something can be done about what waits, or it is time to see whose time is over."""
        if self._waiting and self._look_at == math.inf:
            self._look_at = now + LOOK_S
        if not self._waiting or (not changed and now < self._look_at):
            return False
        self._waiting, self._waited, self._look_at = Counter(), self._waiting, math.inf
        self._kept.clear()
        return True


def _at_best(pool: _Pool) -> _Share:
    """What can be used of a pool: addresses of this node, else those that others lend."""
    return _Share(
        [pair for pair in pool.own if pair[0].open] or [pair for pair in pool.lent if pair[0].open],
    )


def _number(pending: Pending) -> int:
    """A number that is the same at every attempt, and anything for the recipient before and after."""
    return (pending.serial * _GOLDEN & _MASK) >> 32


def _is_six(outlet: Outlet) -> bool:
    return ":" in outlet.source.address
