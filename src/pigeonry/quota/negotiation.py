"""How one limit is dealt out: a pure function of who holds what and what one of them asks.

Stores run it inside a transaction, or under compare-and-set. What makes it sound:

- A share is only raised out of what nobody holds, so the sum never exceeds the limit (``granted``).
- A share is only lowered to what its session said it keeps: it stopped using the rest before it said so.
- A session that is over is not lowered below its safe share, which it knows, before it is proved or taken for gone.

Who is to have how much (``target``) is decided by weighted max-min fairness: nobody gets more than it wants, and nobody
gets less than another of its weight who has more than it wants. With fewer units than members they go round in turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.ports.quota import Ask, Grant

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["Holding", "Pot", "deal", "decode_pot", "encode_pot", "holders", "negotiated"]


class Holding(msgspec.Struct, frozen=True, array_like=True):
    """One session's part in a limit.

    Args:
        granted: Units counted as its own.
        want, limit, weight: As it last said.
        safe: Units that stay its own for a while when it is over: what it was told, or relied on before.
    """

    session: str
    granted: int
    want: int
    limit: int
    weight: float
    safe: int


Pot = tuple[Holding, ...]
"""All holdings of one limit, in the order in which what cannot be divided is dealt."""

_DECODER: Final = msgspec.msgpack.Decoder(Pot)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode_pot(pot: Pot) -> bytes:
    """A pot as it is stored."""
    return _ENCODER.encode(pot)


def decode_pot(octets: bytes) -> Pot:
    """The other way."""
    return _DECODER.decode(octets)


def holders(pot: Pot) -> frozenset[str]:
    """The sessions that have a part in it."""
    return frozenset(holding.session for holding in pot)


def negotiated(
    pot: Pot,
    session: str,
    ask: Ask,
    *,
    former: Collection[str] = (),
    over: Collection[str] = (),
    gone: Collection[str] = (),
) -> tuple[Pot, Grant, Sequence[str]]:
    """Answer one ask.

    Args:
        former: The asking member's sessions before this one.
        over: Sessions that lived too long ago: they use their safe share at most.
        gone: Sessions that use nothing any more.

    Returns:
        The pot from now on, the answer, and the sessions that should ask anew.
    """
    own = {session, *former}
    had = sum(holding.granted for holding in pot if holding.session in own)
    others = [holding for holding in pot if holding.session not in own and holding.session not in gone]
    living = [holding for holding in others if holding.session not in over]
    dying = [_shrunk(holding) for holding in others if holding.session in over and holding.safe]
    free = min([ask.limit, *(holding.limit for holding in living)]) - sum(holding.granted for holding in dying)
    mine = Holding(session, 0, ask.want, ask.limit, ask.weight, 0)
    place = _place(pot, own, ask, len(living))
    line = [*living[:place], mine, *living[place:]]
    targets = deal(free, [(holding.want, holding.weight) for holding in line])
    room = free - sum(holding.granted for holding in living)
    kept = min(ask.keep, had)
    units = max(kept, min(targets[place], room))
    safe = min(units, free // (len(line) + 1))  # what it would have if one more came
    line[place] = Holding(session, units, ask.want, ask.limit, ask.weight, max(safe, min(ask.safe, units)))
    turns = any(not target and holding.want for target, holding in zip(targets, line, strict=True))
    scarce = _scarce(line)
    grant = Grant(ask.name, units, targets[place], safe, scarce, turns)
    told = turns or (scarce and not _scarce(pot))
    call = _uneven(line, targets, room=room - units, told=told)
    if not units and not ask.want:
        del line[place]
    return (*line, *dying), grant, [one for one in call if one != session]


def deal(units: int, wants: Sequence[tuple[int, float]]) -> list[int]:
    """Divide units among those who want so many and have such a weight.

    Each gets one first, in order, as far as they go; each further one goes to who has least for its weight.
    """
    targets = [0] * len(wants)
    asking = [place for place, (want, _) in enumerate(wants) if want > 0]
    for place in asking[: max(0, units)]:
        targets[place] = 1
    if units <= len(asking):
        return targets
    level = -1.0
    while True:  # in bulk, what each gets at the least; who is content with that leaves more to the others
        open_ones = [place for place in asking if targets[place] < wants[place][0]]
        spare = units - sum(targets[place] for place in asking if place not in open_ones) - len(open_ones)
        last, level = level, spare / sum(wants[place][1] for place in open_ones) if open_ones else level
        if level == last:
            break
        for place in open_ones:
            want, weight = wants[place]
            targets[place] = min(want, max(1, int(level * weight)))
    for _ in range(units - sum(targets)):
        open_ones = [place for place in asking if targets[place] < wants[place][0]]
        if not open_ones:
            break
        poorest = min(open_ones, key=lambda place: (targets[place] + 1) / wants[place][1])
        targets[poorest] += 1
    return targets


def _shrunk(holding: Holding) -> Holding:
    """What counts of a session that is over."""
    return msgspec.structs.replace(holding, granted=min(holding.granted, holding.safe), want=0)


def _place(pot: Pot, own: Collection[str], ask: Ask, last: int) -> int:
    """Where the asking member stands in line: where it stood, or behind all when it is new or had its turn."""
    if ask.yields:
        return last
    for place, holding in enumerate(pot):
        if holding.session in own:
            return min(place, last)
    return last


def _scarce(holdings: Sequence[Holding]) -> bool:
    """Whether somebody has less than it wants."""
    return any(holding.granted < min(holding.want, holding.limit) for holding in holdings)


def _uneven(line: Sequence[Holding], targets: Sequence[int], *, room: int, told: bool) -> list[str]:
    """Those who have more than they should while another has less, and those for whom there is room.

    Args:
        told: Whether all who have any are to learn that there is not enough.
    """
    lacking = any(holding.granted < target for holding, target in zip(line, targets, strict=True))
    return [
        holding.session
        for holding, target in zip(line, targets, strict=True)
        if (holding.granted > target and lacking)
        or (holding.granted < target and room > 0)
        or (told and holding.granted)
    ]
