"""The durability drill: load by SMTP and HTTP while workers, supervisor and power die at random instants.

Bars: nothing acknowledged is lost, each acknowledged recipient has exactly one final event, a receiver gets
a second copy only where an attempt was in doubt, and each of those is flagged. What was refused is not delivered.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec

from pigeonry.drills.audit import audit
from pigeonry.drills.clients import HttpClient, SmtpClient
from pigeonry.drills.node import Node, NodeDown, free_port
from pigeonry.drills.receiver import Misbehaviour, Receiver
from pigeonry.drills.report import Report
from pigeonry.drills.senders import Ledger, Sender
from pigeonry.ports.environment import Clock, Dice

__all__ = ["Plan", "durability"]

DOMAIN: Final = "sender.test"
RECEIVER_DOMAIN: Final = "dest.test"
IN_DOUBT_S: Final = 5.0  # seconds; hundreds of doubts are cleared within the drill
QUIET_S: Final = 3 * IN_DOUBT_S  # no arrival for so long after the last retry could have been: all is settled
SETTLED_S: Final = 900.0  # seconds for the queue to empty after the last kill
STALLED_S: Final = 120.0  # seconds without an acknowledgement after which the load is given up; a restart takes two
PROGRESS_S: Final = 15.0  # seconds between two lines for who watches

CONFIG: Final = """
[node]
data = "{data}"
hostname = "node.drill.test"
workers = {workers}
drain_grace_s = 0.0
[http]
listen = ["127.0.0.1:{http}"]
[smtp]
listen = ["127.0.0.1:{smtp}"]
trusted_networks = ["127.0.0.0/8"]
[delivery]
route = "smtp://127.0.0.1:{receiver}"
retry_base_s = 1.0
retry_cap_s = 5.0
in_doubt_delay_s = {in_doubt}
[ops]
listen = []
[log]
level = "warning"
"""


class Plan(msgspec.Struct, frozen=True):
    """How long and how cruel.

    Args:
        messages: Messages to be acknowledged.
        kills: kill -9 of a worker (three in four) or of the supervisor.
        power_cuts: Deaths of all processes with every write since the last sync forgotten.
        octets: Size of a message's text.
    """

    messages: int
    kills: int
    power_cuts: int
    workers: int = 2
    smtp_senders: int = 24
    http_senders: int = 12
    octets: int = 1024
    misbehaviour: Misbehaviour = Misbehaviour(drops_reply=0.001, defers=0.005)


class _Stalled(Exception):
    """Nothing is acknowledged any more."""


async def durability(plan: Plan, folder: Path, *, clock: Clock, dice: Dice, report: Report) -> None:
    """Run the drill in an empty folder and put its figures into the report."""
    receiver = Receiver(dice, plan.misbehaviour)
    receiver_port, smtp, http = await receiver.start("127.0.0.1"), free_port(dice), free_port(dice)
    config = folder / "pigeonry.toml"
    config.write_text(
        CONFIG.format(
            data=folder / "data",
            workers=plan.workers,
            http=http,
            smtp=smtp,
            receiver=receiver_port,
            in_doubt=IN_DOUBT_S,
        )
    )
    forgetful = {"PIGEONRY_TESTING_DISK": "forgetful"} if plan.power_cuts else {}
    node = Node(config, smtp, clock, forgetful)
    await node.command("domain", "add", DOMAIN)
    key = str((await node.command("key", "create"))["key"])
    await node.start()
    ledger = Ledger(plan.messages, RECEIVER_DOMAIN)
    report.happened(f"load begins: {plan.messages} messages, {plan.kills} kills, {plan.power_cuts} power cuts")
    begun = clock.monotonic()
    try:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_watch(ledger, receiver, clock=clock, report=report))
                group.create_task(_hurt(plan, node, ledger, clock=clock, dice=dice, report=report))
                for sender in _senders(plan, ledger, clock, smtp=smtp, http=http, key=key):
                    group.create_task(sender.run())
        except* (_Stalled, NodeDown) as ended:
            report.broke_off(f"the load broke off: {ended.exceptions[0]}")
        elapsed = clock.monotonic() - begun
        report.noted("messages acknowledged a second, deaths included", f"{len(ledger.acknowledged) / elapsed:.0f}")
        report.happened("load ended; waiting until everything is settled")
        await _settled(receiver, ledger, clock, report)
    finally:
        await node.stop()
        await receiver.stop()
    report.happened("the node has stopped; its files are read")
    _judge(plan, folder / "data", receiver, ledger, report)
    report.happened("done")


def _senders(plan: Plan, ledger: Ledger, clock: Clock, *, smtp: int, http: int, key: str) -> list[Sender]:
    """All clients, by SMTP at one port and by HTTP at the other."""
    who, octets = f"a@{DOMAIN}", plan.octets
    by_smtp = SmtpClient(reverse_path=who, octets=octets)
    by_http = HttpClient(domain=DOMAIN, key=key, reverse_path=who, octets=octets)
    return [
        *(Sender(ledger, clock, ("127.0.0.1", smtp), by_smtp) for _ in range(plan.smtp_senders)),
        *(Sender(ledger, clock, ("127.0.0.1", http), by_http) for _ in range(plan.http_senders)),
    ]


async def _watch(ledger: Ledger, receiver: Receiver, *, clock: Clock, report: Report) -> None:
    """Say how far the load is, and give it up when it stands still."""
    seen, since, told = -1, clock.monotonic(), clock.monotonic()
    while (count := len(ledger.acknowledged)) < ledger.total:
        now = clock.monotonic()
        if count != seen:
            seen, since = count, now
        elif now - since > STALLED_S:
            raise _Stalled(f"nothing was acknowledged for {STALLED_S:.0f} s")
        if now - told > PROGRESS_S:
            told = now
            report.happened(f"{count} acknowledged, {receiver.taken.total()} taken by the receiver")
        await clock.sleep(1.0)


async def _hurt(plan: Plan, node: Node, ledger: Ledger, *, clock: Clock, dice: Dice, report: Report) -> None:
    """Spread the deaths over the load, at random instants."""
    deaths = ["power"] * plan.power_cuts + ["kill"] * plan.kills
    _shuffle(deaths, dice)
    for number, death in enumerate(deaths):
        target = (number + dice.random()) * plan.messages / (len(deaths) + 1)
        while len(ledger.acknowledged) < target:
            await clock.sleep(0.01)
        workers = node.workers()
        if death == "power":
            report.happened("power cut")
            await node.kill_all()
        elif dice.random() < 0.25 or not workers:
            report.happened("kill -9 of the supervisor")
            await node.kill_supervisor()
        else:
            report.happened("kill -9 of a worker")
            node.kill(workers[int(dice.random() * len(workers))])


def _shuffle(things: list[str], dice: Dice) -> None:
    for last in range(len(things) - 1, 0, -1):
        pick = int(dice.random() * (last + 1))
        things[last], things[pick] = things[pick], things[last]


async def _settled(receiver: Receiver, ledger: Ledger, clock: Clock, report: Report) -> None:
    """Wait until every acknowledged message arrived and nothing more comes."""
    give_up = clock.monotonic() + SETTLED_S
    seen, quiet_since, told = -1, clock.monotonic(), clock.monotonic()
    missing = ledger.acknowledged
    while clock.monotonic() < give_up:
        arrived = receiver.taken.total() + receiver.dropped.total() + receiver.deferred
        now = clock.monotonic()
        if arrived != seen:
            seen, quiet_since = arrived, now
        missing = [path for path in missing if not receiver.taken[path]]
        if (not missing and now - quiet_since > QUIET_S) or now - quiet_since > 4 * QUIET_S:
            return
        if now - told > PROGRESS_S:
            told = now
            report.happened(f"{len(missing)} still to be taken")
        await clock.sleep(1.0)


def _judge(plan: Plan, data: Path, receiver: Receiver, ledger: Ledger, report: Report) -> None:
    """Compare what was acknowledged, what arrived and what was recorded."""
    books = audit(data)
    acknowledged = ledger.acknowledged
    report.exactly(
        "messages acknowledged (each to one recipient)", min(len(acknowledged), plan.messages), plan.messages
    )
    report.none_of("acknowledged and lost", sum(1 for path in acknowledged if not receiver.copies(path)))
    report.none_of("acknowledged without an accepted event", sum(1 for p in acknowledged if not books.accepted[p]))
    report.none_of("acknowledged without exactly one final event", sum(1 for p in acknowledged if books.finals(p) != 1))
    report.none_of(
        "accepted in the log without exactly one final event",
        sum(1 for path in books.accepted if books.finals(path) != 1),
    )
    report.none_of("recipients whose state is not what their events say", books.disagreeing)
    report.none_of("refused and delivered all the same", sum(1 for path in ledger.refused if receiver.copies(path)))
    twice = [path for path in {*receiver.taken, *receiver.dropped} if receiver.copies(path) > 1]
    report.none_of("duplicates without a possible-duplicate flag", sum(1 for p in twice if not books.flagged[p]))
    report.none_of("gaps in the sequence of a shard's events", books.gaps)
    report.noted("duplicates, all of them in doubt and flagged", str(len(twice)))
    report.noted("recipients flagged as possible duplicates", str(len(books.flagged)))
    report.noted("left unanswered by a death (allowed either way)", str(len(ledger.unanswered)))
    report.noted("octets of the data folder", str(_octets(data)))


def _octets(folder: Path) -> int:
    return sum((Path(root) / name).stat().st_size for root, _, names in os.walk(folder) for name in names)
