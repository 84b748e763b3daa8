"""What a message's account may ask while it waits: cancel it, drop it, try it now.

Only the owner of a shard writes it (invariant I3); these are the handlers on the owner's side, whatever carried
the command there. A command first *holds* the recipients that are in no attempt, then looks at them in the store, so
that what it decides on can't change under its hands. One that is in an attempt is never touched: the attempt's
outcome is the truth, and the answer says so.

Trust: the caller was authenticated by a door; a message of another account does not exist for him.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import NotFound
from pigeonry.domain.message import RecipientState, as_told_of
from pigeonry.ports.queue_store import DueMark
from pigeonry.queue.settlement import WITHDRAWN_CODE, withdraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.domain.message import Message, MessageKey, Pending, RecipientView
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import QueueStore
    from pigeonry.queue.event_ids import EventIds
    from pigeonry.queue.scheduler import Scheduler

__all__ = ["CommandAnswer", "Commands"]

PAGE: Final = 1_000  # recipients read at once: some milliseconds
TOGETHER_MAX: Final = 100  # settles handed to the store at once: they share a group, and leave room for others


class CommandAnswer(msgspec.Struct, frozen=True):
    """What a command came to, in recipients.

    Args:
        done: It was done to so many.
        in_attempt: So many are being attempted just now, and were left alone.
        ended: So many had come to an end before.
        in_doubt: So many may have been delivered and wait until the receiver is surely done; not hastened.
    """

    done: int = 0
    in_attempt: int = 0
    ended: int = 0
    in_doubt: int = 0


class Commands:
    """Handles commands to the messages of this worker's shards.

    Args:
        store: Has them.
        scheduler: Holds what is in memory of them, and settles.
        clock: Time.
        event_ids: Derives the ids of events.
    """

    def __init__(self, store: QueueStore, scheduler: Scheduler, clock: Clock, event_ids: EventIds) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._event_ids = event_ids
        self._running: set[asyncio.Future[CommandAnswer]] = set()  # drops, shielded from who asked

    async def cancel(self, key: MessageKey, *, account: str, deadline: float) -> CommandAnswer:
        """End what still waits, with a final event of reason ``cancelled``.

        Raises:
            NotFound: There is no such message for this account.
        """
        return await self.drop(
            key, account=account, reason="cancelled", description="Cancelled by its owner", deadline=deadline
        )

    async def drop(
        self,
        key: MessageKey,
        *,
        account: str,
        reason: str,
        description: str,
        deadline: float,
        code: int = WITHDRAWN_CODE,
    ) -> CommandAnswer:
        """End what still waits, with a final event of the reason and code given.

        Once begun it runs to its end, also when the caller goes away: what is held must be settled.

        Raises:
            NotFound: There is no such message for this account.
        """
        work = asyncio.ensure_future(
            self._drop(key, account, reason=reason, code=code, description=description, deadline=deadline)
        )
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return await asyncio.shield(work)

    async def _drop(
        self, key: MessageKey, account: str, *, reason: str, code: int, description: str, deadline: float
    ) -> CommandAnswer:
        message, waiting, answer = await self._hold(key, account)
        now = self._clock.now()
        ids = self._event_ids
        settles = [
            withdraw(
                view.pending,
                as_told_of(message, view.pending.address, view.variables),
                reason=reason,
                code=code,
                description=description,
                now=now,
                ids=ids,
            )
            for view in waiting
        ]
        for start in range(0, len(settles), TOGETHER_MAX):
            async with asyncio.TaskGroup() as together:
                for settle in settles[start : start + TOGETHER_MAX]:
                    together.create_task(self._scheduler.settled(settle, deadline=deadline))
        return msgspec.structs.replace(answer, done=len(settles))

    def stop(self) -> None:
        """Cut off what still runs: the worker ends. What was not settled waits in the store as before."""
        for work in tuple(self._running):
            work.cancel()

    async def retry_now(self, key: MessageKey, *, account: str) -> CommandAnswer:
        """Attempt what waits without waiting any longer, save what is in doubt.

        Nothing is written: after a crash it is due when it was.

        Raises:
            NotFound: There is no such message for this account.
        """
        _, waiting, answer = await self._hold(key, account)
        now = self._clock.now()
        hastened = 0
        for view in waiting:
            pending = view.pending
            if pending.in_doubt:
                self._scheduler.let_go(pending)
            else:
                self._scheduler.let_go(msgspec.structs.replace(pending, due=min(pending.due, now)))
                hastened += 1
        return msgspec.structs.replace(answer, done=hastened, in_doubt=len(waiting) - hastened)

    async def hasten(self, concerns: Callable[[Pending], bool]) -> CommandAnswer:
        """Attempt all that waits and that it concerns without waiting any longer, save what is in doubt.

        What finds no room just now, or is in an attempt, is counted as ``in_attempt``: it is worth asking again.

        Raises:
            Fault: The store did not answer; what was hastened until then is.
        """
        now = self._clock.now()
        mark, done, in_attempt, in_doubt = DueMark(now), 0, 0, 0
        while page := await self._store.due(after=mark, until=math.inf, limit=PAGE):
            for pending in page:
                if not concerns(pending):
                    continue
                if pending.in_doubt:
                    in_doubt += 1
                elif self._scheduler.hasten(pending):
                    done += 1
                else:
                    in_attempt += 1
            last = page[-1]
            mark = DueMark(last.due, last.message.shard, last.serial)
            await self._clock.sleep(0.0)
        return CommandAnswer(done=done, in_attempt=in_attempt, in_doubt=in_doubt)

    async def _hold(self, key: MessageKey, account: str) -> tuple[Message, Sequence[RecipientView], CommandAnswer]:
        """The message, those of its recipients that wait (now held), and how many do not."""
        message = await self._store.message(key)
        if message is None or message.account != account:
            raise NotFound("Message not found")
        count = len(await self._store.recipients(key))
        held = set(self._scheduler.hold(key, count))
        try:
            views = await self._store.recipients(key)
        except BaseException:
            for serial in held:
                self._scheduler.give_up(key, serial)
            raise
        waiting = []
        ended = in_attempt = 0
        for view in views:
            pending = view.pending
            if view.state is not RecipientState.PENDING:
                ended += 1
                if pending.serial in held:
                    self._scheduler.forget(key, pending.serial)
            elif pending.serial in held:
                waiting.append(view)
            else:
                in_attempt += 1
        return message, waiting, CommandAnswer(in_attempt=in_attempt, ended=ended)
