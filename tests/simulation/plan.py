"""What happens in one run, all of it drawn from its seed."""

from __future__ import annotations

import msgspec

from pigeonry.domain.message import Options
from pigeonry.testing.dice import SeededDice
from pigeonry.testing.world import Temper

HORIZON_S = 25.0  # seconds in which messages come in and things go wrong


class Letter(msgspec.Struct, frozen=True):
    """One message that somebody hands in.

    Args:
        at: Virtual time at which it is handed in.
        patience_s: How long the door waits for the commit.
        delay_s: How much later it is to be sent, 0.0 for at once.
        domain: The sending domain: ``send.test``, or ``own.test`` with an egress pool of its own.
        command: ``cancel`` or ``retry`` once it is accepted, or nothing.
        batch: Whether its body is a template that is rendered for each recipient.
        tries: How often it is handed in until it is acknowledged; more than once only with an idempotency key.
        again_s: Pause between two tries.
        spooled: Whether its body is received piece by piece, into a file of its own when it is long.
    """

    number: int
    at: float
    patience_s: float
    addresses: tuple[str, ...]
    body: bytes
    delay_s: float
    options: Options
    domain: str
    command: str
    command_after_s: float
    spooled: bool
    batch: bool
    tries: int
    again_s: float

    def arrives(self, address: str) -> bytes:
        """The octets that are to reach a recipient."""
        return self.body.replace(b"%recipient_email%", address.encode()) if self.batch else self.body


class Crash(msgspec.Struct, frozen=True):
    """One end of the worker.

    Args:
        after: How many more steps (things that were handed over, written, sent or received) it lives.
        power: Whether the power is cut, so that what was not synced is lost.
        down_s: How long it takes until it is up again.
    """

    after: int
    power: bool
    down_s: float


class Egress(msgspec.Struct, frozen=True):
    """Which addresses mail leaves from, and what becomes of them.

    Args:
        way: What the pool ``own`` says of ``on_site_loss``; empty where the system chooses the address.
        grace_s: What all pools say of ``on_site_loss_grace_s``.
        moves: Virtual times at which an address comes to a machine (``us`` or ``them``) or leaves it.
        unanswered: Virtual times between which the coordinator does not answer us; none when equal.
    """

    way: str = ""
    grace_s: float = 0.0
    moves: tuple[tuple[float, str, str, bool], ...] = ()
    unanswered: tuple[float, float] = (0.0, 0.0)


SHARED, DEDICATED, SPARE = ("192.0.2.11", "192.0.2.12"), ("192.0.2.21",), ("192.0.2.31",)
ADDRESSES = (*SHARED, *DEDICATED, *SPARE)


class Plan(msgspec.Struct, frozen=True):
    """One run.

    Args:
        seed: What it was drawn from.
        slow: Factor on the time that the disk takes, while things go wrong.
        failing_sync: The sync, counted from the start, that fails; 0 for none.
        to_midnight_s: Seconds from the start until a new day begins.
        hand_over_at: Virtual time at which a successor takes over while the worker drains; 0.0 for never.
        clock_back: Virtual time at which the wall clock is set back, and by how many seconds.
        full: Virtual times between which the disk is full; none when equal.
    """

    seed: str
    sites: int
    letters: tuple[Letter, ...]
    crashes: tuple[Crash, ...]
    temper: Temper
    slow: float
    failing_sync: int
    full: tuple[float, float]
    to_midnight_s: float
    hand_over_at: float
    clock_back: tuple[float, float]
    egress: Egress

    def permits(self, letter: Letter, source: str) -> bool:
        """Whether a letter may leave from that address."""
        if not self.egress.way:
            return True
        if letter.options.pool == "spare":
            return source in SPARE
        if letter.domain != "own.test":
            return source in SHARED
        instead = {"shared": SHARED, "pool:spare": SPARE}.get(self.egress.way, ())
        return source in DEDICATED or source in instead


def draw(seed: int, *, sites: int = 3) -> Plan:
    """The plan of a seed."""
    dice = SeededDice(f"pigeonry/{seed}")
    rough = dice.choose((0.0, 0.05, 0.15, 0.35))
    temper = Temper(
        refuse=rough * dice.random(),
        silent=rough * 0.3 * dice.random(),
        greet_4yz=rough * 0.5 * dice.random(),
        broken=min(0.9, rough * 3.0 * dice.random()),
        stalls=0.3 * dice.random(),
        defer=rough * 0.4 * dice.random(),
        reject=rough * 0.3 * dice.random(),
        dns=rough * 0.5 * dice.random(),
        tls=rough * dice.random(),
        slow_s=dice.choose((0.01, 0.1, 1.0)),
    )
    letters = tuple(_letter(dice, number, sites) for number in range(dice.count(3, 12)))
    crashes = tuple(
        Crash(after=dice.count(1, 90), power=dice.chance(0.6), down_s=dice.between(0.05, 3.0))
        for _ in range(dice.choose((0, 1, 1, 2, 3)))
    )
    full_from = dice.between(0.0, HORIZON_S)
    return Plan(
        seed=str(seed),
        sites=sites,
        letters=tuple(sorted(letters, key=lambda letter: letter.at)),
        crashes=crashes,
        temper=temper,
        slow=dice.choose((1.0, 1.0, 10.0, 200.0)),
        failing_sync=dice.count(1, 60) if dice.chance(0.15) else 0,
        full=(full_from, full_from + dice.between(0.5, 5.0)) if dice.chance(0.15) else (0.0, 0.0),
        to_midnight_s=dice.between(1.0, HORIZON_S) if dice.chance(0.4) else 43_200.0,
        hand_over_at=dice.between(0.5, HORIZON_S) if dice.chance(0.25) else 0.0,
        clock_back=(dice.between(0.0, HORIZON_S), dice.between(0.0, 40.0)) if dice.chance(0.15) else (0.0, 0.0),
        egress=_egress(SeededDice(f"pigeonry/{seed}/egress")),
    )


def _egress(dice: SeededDice) -> Egress:
    if dice.chance(0.4):
        return Egress()
    moves = [
        (dice.between(0.0, HORIZON_S), dice.choose(ADDRESSES), dice.choose(("us", "us", "them")), dice.chance(0.5))
        for _ in range(dice.count(0, 8))
    ]
    unanswered_at = dice.between(0.0, HORIZON_S)
    return Egress(
        way=dice.choose(("queue", "shared", "pool:spare")),
        grace_s=dice.choose((0.0, 3.0)),
        moves=tuple(sorted(moves)),
        unanswered=(unanswered_at, unanswered_at + dice.between(1.0, 15.0)) if dice.chance(0.4) else (0.0, 0.0),
    )


def _letter(dice: SeededDice, number: int, sites: int) -> Letter:
    def address(n: int) -> str:
        domain = "nowhere.test" if dice.chance(0.03) else f"site{dice.count(0, sites - 1)}.test"
        return f"m{number}r{n}@{domain}"

    chosen = dice.fork(f"sender{number}")
    own = chosen.chance(0.5)
    batch, keyed = dice.chance(0.2), dice.chance(0.25)
    lines = [
        b"Message-ID: <%d@send.test>" % number,
        b"Subject: number %d" % number,
        b"",
        *([b"to %recipient_email%"] if batch else []),
        *(dice.choose((b"hello", b".", b"..", b".dot", b"x" * dice.count(1, 400))) for _ in range(dice.count(1, 4))),
    ]
    return Letter(
        number=number,
        at=HORIZON_S * dice.random() ** 2,
        patience_s=dice.choose((0.02, 0.2, 2.0)),
        addresses=tuple(address(n) for n in range(dice.choose((1, 1, 1, 1, 2, 3)))),
        body=b"\r\n".join(lines) + b"\r\n",
        delay_s=dice.choose((0.0, 0.0, 0.0, 0.0, 15.0)),
        options=Options(testmode=dice.chance(0.03), pool="spare" if own and chosen.chance(0.2) else ""),
        domain="own.test" if own else "send.test",
        command=dice.choose(("", "", "", "", "", "", "cancel", "retry")),
        command_after_s=dice.between(0.0, 5.0),
        spooled=dice.chance(0.2),
        batch=batch,
        tries=dice.count(2, 4) if keyed else 1,
        again_s=dice.choose((0.05, 0.5, 5.0, 70.0)),
    )
