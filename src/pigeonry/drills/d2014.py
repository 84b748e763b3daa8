"""The drill D-2014: nodes, their store and locations go away under load, as they did to others in September 2014.

Bars: nothing acknowledged is lost, each recipient has exactly one final event, and a receiver gets a second copy only
where an attempt was in doubt, flagged.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.drills.clients import is_taken
from pigeonry.drills.cluster_audit import read_books
from pigeonry.drills.load import CUT, Load
from pigeonry.drills.receiver import Misbehaviour
from pigeonry.drills.senders import Ledger, Sender
from pigeonry.drills.site import IN_DOUBT_S, KEYSPACE, RECEIVER_DOMAIN, WITNESS, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pigeonry.drills.audit import Books
    from pigeonry.drills.load import Attempt
    from pigeonry.drills.report import Report
    from pigeonry.ports.environment import Clock, Dice
    from pigeonry.testing.cassandra import Parts

__all__ = ["FULL", "SHORT", "Form", "d2014"]

# Bars
TAKEOVER_S: Final = 15.0  # from the death of a node until its shards are served
REFUSAL_S: Final = 1.0  # for an answer while the store is frozen, at the 99th percentile
NORMAL_S: Final = 5.0  # from the thaw until all is taken again
GROWTH_MIB: Final = 64.0  # of a worker while the store is frozen: the bound of what may wait for it
FAILOVER_S: Final = 4.0  # from the death of a balancer until all is taken again
ACCEPTS_S: Final = 30.0  # from the death of a location until the other takes all that comes
MOVES_S: Final = 90.0  # from then until the dead one's shards are served

GIVE_UP_S: Final = 120.0  # after which what was waited for counts as never
SETTLED_S: Final = 60.0  # for the queue to empty after the load
LOOK_S: Final = 0.05  # between two looks at who owns what
WARM_S: Final = 3.0  # of load before anything happens
AFTER_S: Final = 8.0  # of load after something happened: over the bar of the thaw
MEASURED_S: Final = 10.0  # of load by as many clients as there are, for the capacity
CLIENTS: Final = 12  # by each door, for the capacity: more do not make it more on two cores
SHARE: Final = 0.8  # of the capacity, for the rolling restart
ANSWERS_OF_ABSENCE: Final = (421, 451, 503)


class Form(msgspec.Struct, frozen=True):
    """How long and on what.

    Args:
        rate: Messages a second, half of them by each door.
        frozen_s: How long the store is frozen; 0 for not at all.
        whole: Whether the capacity is measured, for the rolling restart to be at a share of it, and a balancer and a
            location are killed as well.
    """

    plan: Plan
    rate: float
    frozen_s: float
    whole: bool


_RECEIVER: Final = Misbehaviour(thinks_s=0.1)
SHORT: Final = Form(Plan({"dc1": 1}, misbehaviour=_RECEIVER), rate=20.0, frozen_s=0.0, whole=False)
FULL: Final = Form(Plan({"dc1": 1, "dc2": 1, WITNESS: 1}, misbehaviour=_RECEIVER), rate=30.0, frozen_s=60.0, whole=True)


async def d2014(
    form: Form, folder: Path, parts: Parts, *, certificate: Path, clock: Clock, dice: Dice, report: Report
) -> None:
    """Run the drill in an empty folder and put its figures into the report.

    Args:
        certificate: PEM, chain and key, that the balancers show.
    """
    locations = form.plan.locations
    report.noted("Cassandra nodes", ", ".join(f"{name} {count}" for name, count in locations.items()))
    report.noted("not shown: a quorum that outlives a Cassandra node of its location", "1 replica")
    site = Site(form.plan, folder, parts, certificate=certificate, clock=clock, dice=dice)
    try:
        await site.start()
        await _Drill(site, form, clock=clock, report=report).run()
    finally:
        await site.stop()
    report.happened("done")


class _Drill:
    def __init__(self, site: Site, form: Form, *, clock: Clock, report: Report) -> None:
        self._site = site
        self._form = form
        self._clock = clock
        self._report = report
        self._ledger = Ledger(0, RECEIVER_DOMAIN)
        self._load = Load(self._ledger, clock, site.doors())
        self._first = next(iter(form.plan.locations))

    async def run(self) -> None:
        """All steps, and the judgement at their end."""
        form, report = self._form, self._report
        rate = form.rate
        if form.whole:
            capacity = await self._capacity()
            report.noted("capacity, messages a second", f"{capacity:.0f}")
            rate = SHARE * capacity
        report.happened(f"load begins: {rate:.0f} messages a second, half of them by each door")
        self._load.start(rate)
        try:
            await self._clock.sleep(WARM_S)
            await self._rolling_restart(rate)
            self._load.rate = form.rate
            if form.whole:
                await self._balancer_killed()
            await self._node_killed()
            if form.frozen_s:
                await self._store_frozen()
            if form.whole:
                await self._location_killed(self._first)
        finally:
            await self._load.stop()
        report.happened("load ended; waiting until everything is settled")
        self._judge(await self._settled())

    # -- steps

    async def _capacity(self) -> float:
        """Messages a second that are taken from clients that wait for each answer."""
        self._report.happened("measuring the capacity")
        ledger, doors = self._ledger, self._site.doors()
        ledger.total = 2**62
        senders = [
            asyncio.ensure_future(Sender(ledger, self._clock, address, door.client, door.tls).run())
            for door in doors
            for number in range(CLIENTS)
            for address in [door.addresses[number % len(door.addresses)]]
        ]
        await self._clock.sleep(MEASURED_S)
        taken = len(ledger.acknowledged)
        ledger.total = 0  # each comes to the end of what it sends
        await asyncio.gather(*senders)
        return taken / MEASURED_S

    async def _rolling_restart(self, rate: float) -> None:
        """Each node ends in order and comes back, one after the other."""
        site, report, clock = self._site, self._report, self._clock
        begun, first = clock.monotonic(), len(self._ledger.acknowledged)
        for name, node in site.nodes.items():
            report.happened(f"{name} restarts")
            await node.stop()
            await node.start()
            await clock.sleep(WARM_S)
        sent = self._load.since(begun)
        what = f"rolling restart at {rate:.0f}/s: "
        report.none_of(what + "HTTP requests failed", len(_failed(sent, "HTTP")))
        report.none_of(what + "SMTP transactions cut or refused", len(_failed(sent, "SMTP")))
        acknowledged = self._ledger.acknowledged[first:]
        await self._until_taken(acknowledged)
        copies = [site.receiver.copies(path) for path in acknowledged]
        report.none_of(what + "not delivered", sum(1 for count in copies if not count))
        report.none_of(what + "duplicates", sum(1 for count in copies if count > 1))
        self._tell(sent)

    async def _balancer_killed(self) -> None:
        """Kill -9 of one of a pair: its connections end, and all others go on."""
        report, clock = self._report, self._clock
        dead = self._site.balancers[self._first][0]
        report.happened("kill -9 of a balancer")
        died = clock.monotonic()
        await dead.die()
        await clock.sleep(AFTER_S)
        sent = self._load.since(died)
        self._tell(sent)
        report.none_of(
            "balancer killed: refused or unreached", sum(1 for each in _all_failed(sent) if each.code != CUT)
        )
        report.at_most("balancer killed: all is taken again, s", _last_failure(sent, died), FAILOVER_S)
        await dead.start()

    async def _node_killed(self) -> None:
        """Kill -9 of a node in full delivery."""
        site, report = self._site, self._report
        name = next(iter(site.nodes))
        held = [number for number, owner in (await site.owners()).items() if owner == name]
        report.happened(f"the shards are at {_counted((await site.owners()).values())}")
        report.happened(f"kill -9 of {name}, which has {len(held)} shards")
        await site.nodes[name].die()
        took = await self._until_served_without(name)
        report.happened(f"all shards are served after {took:.1f} s")
        report.at_most("node killed: its shards are taken over, s", took, TAKEOVER_S)
        await site.nodes[name].start()
        report.happened(f"{name} is back")
        await self._clock.sleep(IN_DOUBT_S)

    async def _store_frozen(self) -> None:
        """Every node of Cassandra stops in the middle, and goes on later."""
        site, report, clock = self._site, self._report, self._clock
        before = max(node.resident_mib() for node in site.nodes.values())
        self._load.patient = False
        for each in site.cluster.nodes:
            each.pause()
        report.happened("the store is frozen")
        froze, most = clock.monotonic(), before
        while clock.monotonic() < froze + self._form.frozen_s:
            await clock.sleep(1.0)
            most = max(most, *(node.resident_mib() for node in site.nodes.values()))
        for each in site.cluster.nodes:
            each.resume()
        thawed = clock.monotonic()
        report.happened("the store is thawed")
        await clock.sleep(AFTER_S)
        self._load.patient = True
        sent = self._load.since(froze, thawed)
        self._tell(sent)
        odd = [each for each in sent if each.code not in ANSWERS_OF_ABSENCE and not is_taken(each.code)]
        report.none_of("store frozen: answers other than 421, 451 and 503", len(odd))
        report.at_most("store frozen: time to an answer at p99, s", _p99(each.took_s for each in sent), REFUSAL_S)
        report.at_most("store frozen: growth of a worker, MiB", most - before, GROWTH_MIB)
        after = self._load.since(thawed)
        self._tell(after)
        report.at_most("store thawed: all is taken again, s", _last_failure(after, thawed), NORMAL_S)

    async def _location_killed(self, location: str) -> None:
        """All of a location ends at one instant, and comes back later."""
        site, report, clock = self._site, self._report, self._clock
        names = site.at(location)
        stores = [each for each in site.cluster.nodes if each.seat.location == location]
        report.happened(f"kill -9 of all of {location}: {', '.join(names)} their balancers and their Cassandra")
        died = clock.monotonic()
        for each in stores:
            each.kill()
        for balancer in site.balancers[location]:
            await balancer.die()
        for name in names:
            await site.nodes[name].die()
        took = await self._until_served_without(*names)
        report.happened(f"all shards are served after {took:.1f} s")
        await clock.sleep(AFTER_S)
        sent = self._load.since(died)
        self._tell(sent)
        report.at_most(f"{location} killed: the other takes all that comes, s", _last_failure(sent, died), ACCEPTS_S)
        report.at_most(f"{location} killed: its queue has moved, s", took, MOVES_S)
        for each in stores:
            await each.start()
        await site.cluster.formed()
        for name in names:
            await site.nodes[name].start()
        for balancer in site.balancers[location]:
            await balancer.start()
        report.happened(f"{location} is back")
        await clock.sleep(IN_DOUBT_S)

    # -- waiting

    async def _until_served_without(self, *names: str) -> float:
        begun = self._clock.monotonic()
        while (took := self._clock.monotonic() - begun) < GIVE_UP_S:
            owners = await self._site.owners()
            if all(owner and owner not in names for owner in owners.values()):
                return took
            await self._clock.sleep(LOOK_S)
        return GIVE_UP_S

    async def _until_taken(self, paths: Sequence[str]) -> None:
        give_up = self._clock.monotonic() + SETTLED_S
        while self._clock.monotonic() < give_up and not all(map(self._site.receiver.copies, paths)):
            await self._clock.sleep(LOOK_S)

    async def _settled(self) -> Books:
        """Wait until every recipient has its end."""
        give_up = self._clock.monotonic() + SETTLED_S
        while True:
            books = await read_books(self._site.cluster.nodes[0], KEYSPACE)
            open_ones = sum(1 for path in books.accepted if not books.finals(path))
            if not open_ones or self._clock.monotonic() > give_up:
                return books
            self._report.happened(f"{open_ones} recipients without an end")
            await self._clock.sleep(2.0)

    # -- judging

    def _tell(self, attempts: Sequence[Attempt]) -> None:
        codes = sorted({(each.kind, each.code) for each in attempts})
        counts = {code: sum(1 for each in attempts if (each.kind, each.code) == code) for code in codes}
        told = ", ".join(f"{kind} {code}: {counts[kind, code]}" for kind, code in codes)
        self._report.happened(f"answers: {told}; p99 {_p99(each.took_s for each in attempts):.2f} s")

    def _judge(self, books: Books) -> None:
        """Compare what was acknowledged, what arrived and what was recorded."""
        report, receiver, acknowledged = self._report, self._site.receiver, self._ledger.acknowledged
        report.noted("messages acknowledged (each to one recipient)", str(len(acknowledged)))
        report.noted("messages without an answer", str(len(self._ledger.unanswered)))
        report.none_of("acknowledged and lost", sum(1 for path in acknowledged if not receiver.copies(path)))
        report.none_of("acknowledged without an accepted event", sum(1 for p in acknowledged if not books.accepted[p]))
        report.none_of(
            "acknowledged without exactly one final event", sum(1 for p in acknowledged if books.finals(p) != 1)
        )
        report.none_of(
            "accepted in the log without exactly one final event",
            sum(1 for path in books.accepted if books.finals(path) != 1 or books.accepted[path] != 1),
        )
        refused = sum(1 for path in self._ledger.refused if receiver.copies(path))
        report.none_of("refused and delivered all the same", refused)
        twice = [path for path in receiver.taken if receiver.copies(path) > 1]
        report.none_of("duplicates without a possible-duplicate flag", sum(1 for p in twice if not books.flagged[p]))
        report.none_of("gaps in the sequence of a shard's events", books.gaps)
        report.noted("duplicates, all of them in doubt and flagged", str(len(twice)))
        report.noted("recipients flagged as possible duplicates", str(len(books.flagged)))


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name or 'nobody'}: {count}" for name, count in sorted(Counter(names).items()))


def _failed(attempts: Iterable[Attempt], kind: str) -> list[Attempt]:
    return [each for each in _all_failed(attempts) if each.kind == kind]


def _all_failed(attempts: Iterable[Attempt]) -> list[Attempt]:
    return [each for each in attempts if not is_taken(each.code)]


def _last_failure(attempts: Iterable[Attempt], begun: float) -> float:
    """When the last message that was not taken was due, in seconds from then."""
    return max((each.due - begun for each in _all_failed(attempts)), default=0.0)


def _p99(values: Iterable[float]) -> float:
    found = sorted(values)
    return found[math.ceil(0.99 * len(found)) - 1] if found else 0.0
