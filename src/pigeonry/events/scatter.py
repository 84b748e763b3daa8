"""Pages of events over a cluster: each owner is asked for its shards, and the answers are merged.

All or nothing: a page in which the events of one shard are missing looks like any other, and a reader who goes on from
it would never see them. So where a shard has no owner for a moment, or its owner does not answer in time, there is no
page but a fault that says when to come back.

Nothing beyond the lowest watermark is shown. Where one page ended is said for each shard by a seq, which is the same
wherever the shard is indexed: a shard may move, and its new owner may place an event otherwise than the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import Fault, NotOwner, OwnerUnreachable, PigeonryError, StoreBusy
from pigeonry.events.asking import Found
from pigeonry.ports.event_index import IndexMark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pigeonry.events.asking import Ask, Events
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ownership import Member, Ownership

__all__ = ["LOOK", "AskMember", "Scattered"]

LOOK: Final = "events.look"
"""The command by which a member is asked."""
DEADLINE_S: Final = 3.0  # one that is alive takes 0.2 s at most for a page, and is asked twice at most
PAUSES_S: Final = (0.0, 0.0, 0.1, 0.3)  # before owners are looked for: a shard handed over in order is nobody's so long
TOGETHER_MAX: Final = 32  # owners asked at once: a large cluster's answers come in turns and not all in one moment
COME_BACK_S: Final = 2.0  # seconds; a worker that died is back, or taken over, soon after

Item = tuple[IndexMark, bytes]

AskMember = Callable[..., Awaitable[Any]]
"""Has a member do a command: ``(member, name, argument, *, timeout_s)``, its result."""


class _Id(msgspec.Struct, frozen=True):
    id: str


_id_of: Final = msgspec.json.Decoder(_Id).decode


class Scattered:
    """The events of a cluster.

    Args:
        own: What this worker owns; asked directly.
        me: Who we are.
        ownership: Who owns what.
        ask: Asks another member.
        clock: Time.
        deadline_s: For all owners to answer.
    """

    def __init__(
        self,
        own: Events,
        *,
        me: Member,
        ownership: Ownership,
        ask: AskMember,
        clock: Clock,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._own = own
        self._me = (me.node, me.slot)
        self._ownership = ownership
        self._ask = ask
        self._clock = clock
        self._deadline_s = deadline_s

    async def look(self, ask: Ask) -> Found:
        """Look for a page in all shards.

        Raises:
            StoreBusy: Some events cannot be seen just now.
        """
        until = self._clock.monotonic() + self._deadline_s
        answers = await self._gather(ask, until)
        watermark_us = min(answer.watermark_us for answer in answers)
        ends = [end for answer in answers if (end := _end_of(ask, answer)) is not None]
        if not ask.ascending and any(end.time_us > watermark_us for end in ends):
            # Some looked at nothing but what is not to be shown yet.
            answers = await self._gather(msgspec.structs.replace(ask, end_us=min(ask.end_us, watermark_us)), until)
            watermark_us = min(watermark_us, *(answer.watermark_us for answer in answers))
        return merge(ask, answers, watermark_us)

    async def _gather(self, ask: Ask, until: float) -> list[Found]:
        """An answer for each shard, whoever gave it."""
        answers: list[Found] = []
        todo: set[int] | None = None
        for turn, pause_s in enumerate(PAUSES_S):
            await self._clock.sleep(min(pause_s, until - self._clock.monotonic()))
            owners = await self._owners(fresh=turn > 0)
            todo = set(owners) if todo is None else todo
            shards = _by_member(owners, todo)
            if shards is None:
                continue
            answers += await self._ask_all(ask, shards, todo, until)
            if not todo:
                return answers
        raise _unseen()

    async def _owners(self, *, fresh: bool) -> Mapping[int, Member | None]:
        try:
            owners = await self._ownership.owners(fresh=fresh)
        except Fault as error:
            raise _unseen() from error
        if not owners:
            raise _unseen()
        return owners

    async def _ask_all(self, ask: Ask, shards: Mapping[Member, list[int]], todo: set[int], until: float) -> list[Found]:
        """Ask some members at once; what was answered is taken out of ``todo``."""
        turns = asyncio.Semaphore(TOGETHER_MAX)

        async def ask_one(member: Member, numbers: list[int]) -> Found | None:
            async with turns:
                return await self._ask_one(member, _for_shards(ask, numbers), until)

        try:
            async with asyncio.TaskGroup() as group:
                asked = [(group.create_task(ask_one(*each)), each[1]) for each in shards.items()]
        except ExceptionGroup as errors:
            if errors.split(PigeonryError)[1] is not None:
                raise
            raise _unseen() from errors
        answers = []
        for told, numbers in asked:
            answer = told.result()
            if answer is not None:
                todo.difference_update(numbers)
                answers.append(answer)
        return answers

    async def _ask_one(self, member: Member, ask: Ask, until: float) -> Found | None:
        """None when it may be another's to answer."""
        timeout_s = until - self._clock.monotonic()
        if timeout_s <= 0:
            raise _unseen()
        try:
            if (member.node, member.slot) == self._me:
                async with asyncio.timeout(timeout_s):
                    return await self._own.look(ask)
            told = await self._ask(member, LOOK, msgspec.to_builtins(ask), timeout_s=timeout_s)
            return msgspec.convert(told, type=Found)
        except (NotOwner, OwnerUnreachable):
            return None
        except (PigeonryError, TimeoutError, msgspec.ValidationError) as error:  # the last: of another release
            raise _unseen() from error


def merge(ask: Ask, answers: Sequence[Found], watermark_us: int) -> Found:
    """One page of the pages of all shards.

    Args:
        watermark_us: The lowest.
    """
    ascending = ask.ascending
    ends = [end for answer in answers if (end := _end_of(ask, answer)) is not None]
    looked_to = (min if ascending else max)(ends) if ends else None
    shown, hidden = list[Item](), list[IndexMark]()
    for mark, octets in _in_order((item for answer in answers for item in answer.items), ascending=ascending):
        beyond = looked_to is not None and (mark > looked_to if ascending else mark < looked_to)
        if beyond or mark.time_us > watermark_us or len(shown) >= ask.limit:
            hidden.append(mark)
        else:
            shown.append((mark, octets))
    covered = {shard: span for answer in answers for shard, span in answer.covered.items()}
    for mark in hidden:
        low, high = covered[mark.shard]
        above = ascending or mark.time_us > watermark_us  # not shown yet, and neither is what comes after it
        covered[mark.shard] = (low, min(high, mark.seq - 1)) if above else (max(low, mark.seq), high)
    more = looked_to is not None and len(shown) < ask.limit and not (ascending and looked_to.time_us > watermark_us)
    return Found(shown, watermark_us, looked_to if more else None, covered)


def _in_order(items: Iterable[Item], *, ascending: bool) -> list[Item]:
    """The items in order, each event once."""
    once: dict[str, Item] = {}
    for item in sorted(items, key=_mark, reverse=not ascending):
        once.setdefault(_id_of(item[1]).id, item)
    return list(once.values())


def _end_of(ask: Ask, answer: Found) -> IndexMark | None:
    """How far an answer goes; None when to the end."""
    return answer.upto or (answer.items[-1][0] if len(answer.items) >= ask.limit else None)


def _by_member(owners: Mapping[int, Member | None], todo: Iterable[int]) -> dict[Member, list[int]] | None:
    """The shards of each owner; None where one of them has none."""
    shards: dict[Member, list[int]] = {}
    for shard in sorted(todo):
        owner = owners.get(shard)
        if owner is None:
            return None
        shards.setdefault(owner, []).append(shard)
    return shards


def _for_shards(ask: Ask, shards: Sequence[int]) -> Ask:
    marks = {shard: ask.marks[shard] for shard in shards if shard in ask.marks}
    return msgspec.structs.replace(ask, shards=tuple(shards), marks=marks)


def _mark(item: Item) -> IndexMark:
    return item[0]


def _unseen() -> StoreBusy:
    return StoreBusy("Some events cannot be seen just now.", retry_after_s=COME_BACK_S)
