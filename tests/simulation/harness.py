"""One run: the real queue, delivery and store on virtual time, among unreliable servers, disks and power.

The worker is wired as in production, over a faulty disk and network. Letters come in at its doors; it is killed after
a number of steps that the plan says, and started again on what the disk still has. Then the world calms down, all
that is pending comes to its end, and the ledger is audited against the log, the store and what the servers took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from pigeonry.delivery.connection import Timeouts
from pigeonry.delivery.dispatcher import Dispatcher
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.opening import Opener
from pigeonry.delivery.routing import MxRouter
from pigeonry.domain.errors import Fault, NotFound, Refusal, StoreInDoubt
from pigeonry.domain.event import EventMessage, MessageHeaders, decode_event
from pigeonry.domain.message import BodyRef, MessageKey, NewRecipient, Pending, RecipientView, Transition
from pigeonry.domain.submission import Submission
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.queue_store import DueMark
from pigeonry.queue.commands import Commands
from pigeonry.queue.content import ContentCache
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.intake import Intake
from pigeonry.queue.ready import ReadyQueues
from pigeonry.queue.retry import RetrySchedule
from pigeonry.queue.scheduler import Scheduler, SchedulerLimits
from pigeonry.queue.settlement import settle
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.testing.clock import EPOCH, VirtualClock, VirtualLanes
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop
from pigeonry.testing.network import FakeDialer, FakeResolver
from pigeonry.testing.world import Temper, World
from simulation.faulty_disk import FaultyDisk
from simulation.ledger import Broken, Ledger
from simulation.plan import HORIZON_S, Crash, Letter, Plan

IN_DOUBT_S = 10.0
SCHEDULE = RetrySchedule(first_pause_s=4.0, pause_s_max=16.0, expiry_s=90.0, in_doubt_s=IN_DOUBT_S)
TIMEOUTS = Timeouts(connect=2.0, tls=2.0, greeting=4.0, envelope=4.0, data=2.0, block=4.0, dot=6.0, farewell=1.0)
DELIVERY = DeliveryLimits(
    connections_per_path=3, connections_max=6, idle_s=1.0, commit_s=3.0, settle_s=3.0, rest_s=0.5, rest_s_max=4.0
)
QUEUE = SchedulerLimits(recipients_max=12, horizon_s=6.0, page=4, settle_deadline_s=3.0)
STORE = Limits(in_doubt_delay_s=IN_DOUBT_S, free_octets_min=0, spool_memory_octets_max=100, segment_octets_max=2000)
CALM = Temper()
END_S = 600.0  # virtual seconds by which everything must have come to its end

Plant = Callable[[Any, asyncio.AbstractEventLoop], Any]
"""Wraps the store as the rest of the worker sees it, with a fault."""


class Watched:
    """The store, with the ledger looking on."""

    def __init__(self, store: SqliteStore, run: Run, dice: SeededDice) -> None:
        self._store = store
        self._run = run
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        """A page that may be old when it arrives: things go on while it is read."""
        page = await self._store.due(after=after, until=until, limit=limit)
        if self._dice.chance(0.8):
            await self._run.clock.sleep(2.0 * self._dice.random())
        return page

    async def commit(self, transition: Transition, *, deadline: float) -> None:
        number = self._run.ledger.handed(transition)
        self._run.step()
        await self._store.commit(transition, deadline=deadline)
        self._run.ledger.durable(transition, number)
        self._run.step()


class Worker:
    """One life of the worker."""

    def __init__(self, run: Run, number: int, last_words: bytes) -> None:
        loop, clock = run.loop, run.clock
        dice = SeededDice(f"{run.plan.seed}/life{number}")
        self.alive = True
        self.number = number
        self.lanes = VirtualLanes(loop, dice, alive=lambda: self.alive, slowness=run.slowness)
        self.real = SqliteStore(
            "data",
            slot=0,
            slots=1,
            shards=1,
            disk=run.disk,
            lanes=self.lanes,
            clock=clock,
            limits=STORE,
            last_words=last_words,
        )
        self.store: Any = Watched(self.real, run, dice.fork("pages"))
        if run.plant is not None:
            self.store = run.plant(self.store, loop)
        self.dialer = FakeDialer(loop, run.world, dice.fork("dialer"), spy=run.sent)
        resolver = FakeResolver(
            exchangers=run.world.exchangers,
            hosts=run.world.hosts,
            dice=dice.fork("dns"),
            fault=lambda: run.world.temper.dns,
        )
        settle_dice = dice.fork("settle")
        event_ids = EventIds(b"simulation's key")
        self.content = ContentCache(self.store, 1 << 16)
        self.scheduler = Scheduler(self.store, clock, dice.fork("scheduler"), QUEUE, content=self.content)
        ready = ReadyQueues(claim=self.scheduler.claim)
        self.dispatcher = Dispatcher(
            ready=ready,
            content=self.content,
            scheduler=self.scheduler,
            store=self.store,
            router=MxRouter(resolver, clock=clock, dice=dice.fork("router")),
            opener=Opener(resolver=resolver, dialer=self.dialer, clock=clock, hostname="send.test", timeouts=TIMEOUTS),
            settlement=lambda pending, message, outcome: settle(
                pending,
                message,
                outcome,
                now=clock.now(),
                dice=settle_dice,
                schedule=SCHEDULE,
                ids=event_ids,
            ),
            signers=lambda _domain: (),
            domain=lambda _domain: None,
            render=_no_templates,
            clock=clock,
            dice=dice.fork("delivery"),
            log=_Silent(),  # type: ignore[arg-type]
            limits=DELIVERY,
        )
        self.scheduler.dispatch = self.dispatcher.dispatch
        self.intake = Intake(
            self.store,
            self.scheduler,
            clock,
            SeededIds(f"{run.plan.seed}/{number}"),
            event_ids=event_ids,
            content=self.content,
            expiry_s=SCHEDULE.expiry_s,
        )
        self.commands = Commands(self.store, self.scheduler, clock, event_ids)
        self.up = asyncio.Event()
        self._ending = asyncio.Event()

    async def live(self) -> None:
        """Serve until cancelled, or until ``end`` has ended it in order."""
        await self.real.open()
        async with asyncio.TaskGroup() as tasks:
            store = tasks.create_task(self.real.run())
            work = [tasks.create_task(self.scheduler.run()), tasks.create_task(self.dispatcher.run())]
            self.up.set()
            await self._ending.wait()
            await self.dispatcher.drain()
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            await self.real.close()
            store.cancel()

    def end(self) -> None:
        """Let what is under way come to its end, and stop."""
        self._ending.set()


def _no_templates(*_args: object, **_kwargs: object) -> bytes:
    raise AssertionError("no letter is a template")


class _Silent:
    """A log that says nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


class Run:
    """Plays one plan."""

    def __init__(self, plan: Plan, *, plant: Plant | None = None, keep: bool = False) -> None:
        self.plan = plan
        self.plant = plant
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._surprised)
        self.clock = VirtualClock(self.loop, epoch=EPOCH - plan.to_midnight_s)
        self.ledger = Ledger(plan, self.loop.time, keep=keep)
        self.world = World(self.loop, SeededDice(f"{plan.seed}/world"), plan.temper, sites=plan.sites)
        self.world.on_line = self.ledger.note
        self.world.on_dot = lambda _recipients, _content: self.step()
        full_from, full_until = plan.full
        self.disk = FaultyDisk(
            SeededDice(f"{plan.seed}/disk"),
            failing_sync=plan.failing_sync,
            full=lambda: full_from <= self.loop.time() < full_until,
            step=self.step,
        )
        self.worker: Worker | None = None
        self.doors: set[asyncio.Task[None]] = set()
        self.dead = asyncio.Event()
        self._steps_left: list[Crash] = list(plan.crashes)
        self._steps = 0
        self._down_s = 0.1
        self._calm = False
        self._life: asyncio.Task[None] | None = None

    # -- faults

    def slowness(self) -> float:
        """How much longer the disk takes now."""
        return 1.0 if self._calm else self.plan.slow

    def step(self) -> None:
        """Something happened; perhaps the worker dies of it."""
        worker = self.worker
        if self._steps_left and worker is not None and worker.alive and worker.up.is_set() and not self._calm:
            self._steps += 1
            if self._steps >= self._steps_left[0].after:
                crash = self._steps_left.pop(0)
                self._down_s = crash.down_s
                self.die(power=crash.power)

    def sent(self, connection: int, octets: bytes) -> None:
        """The worker writes to a server."""
        if self.worker is not None and self.worker.alive:
            self.ledger.sent(connection, octets)
            self.step()

    def die(self, *, power: bool) -> None:
        """The worker is gone, in the middle of whatever it does."""
        worker = self.worker
        assert worker is not None
        worker.alive = False
        self._steps = 0
        worker.dialer.go_down(sent_arrives=not power)
        self.disk.go_down(power=power)
        self.ledger.died(power=power)
        self.dead.set()

    def _surprised(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed, which nobody else hears of. What dead workers leave behind is of no interest."""
        if "handle" in context and self.worker is not None and self.worker.alive:
            self.ledger.wrong.append(f"{context['message']}: {context.get('exception')!r}")

    # -- the run

    def play(self) -> str:
        """Run it; the hash of its trace.

        Raises:
            Broken: A promise was not kept.
        """
        self.loop.play(self._main())
        return self.ledger.trace()

    async def _main(self) -> None:
        lives = asyncio.ensure_future(self._lives())
        story = asyncio.ensure_future(self._story(lives))
        await asyncio.wait((lives, story), return_when=asyncio.FIRST_COMPLETED)
        if not story.done() and not lives.cancelled():
            lives.result()
        await story

    async def _story(self, lives: asyncio.Future[None]) -> None:
        letters = [asyncio.ensure_future(self._hand_in(letter)) for letter in self.plan.letters]
        await self.clock.sleep(HORIZON_S)
        self._calm = True
        self.world.temper = CALM
        self.disk.calm()
        await asyncio.gather(*letters)
        await self._until_all_ended()
        log, views = await self._read_back(lives)
        self.ledger.arrivals = self.world.arrivals
        self.ledger.audit(log, views, in_doubt_s=IN_DOUBT_S)

    async def _lives(self) -> None:
        """Start the worker again and again."""
        number = 0
        last_words = b""
        while True:
            number += 1
            worker = self.worker = Worker(self, number, last_words)
            self.dead.clear()
            life = self._life = asyncio.ensure_future(worker.live())
            gone = asyncio.ensure_future(self.dead.wait())
            broken = asyncio.ensure_future(worker.real.broken.wait())
            await asyncio.wait((life, gone, broken), return_when=asyncio.FIRST_COMPLETED)
            last_words = b""
            if life.done() and not self.dead.is_set():
                if not isinstance(life.exception(), apsw.Error | OSError):
                    life.result()
                self.ledger.note(f"the worker could not start: {type(life.exception()).__name__}")
                self.die(power=False)
            if broken.done() and not gone.done():
                last_words = worker.real.last_words()
                self.die(power=False)
                self.ledger.note("the disk cannot be believed")
            worker.commands.stop()
            for task in (life, gone, broken, *sorted(self.doors, key=lambda door: door.get_name())):
                task.cancel()
            await asyncio.wait((life, gone, broken))
            if not life.cancelled():
                life.exception()
            await self.clock.sleep(self._down_s)
            self._down_s = 0.1
            self.disk = self.disk.come_up()

    async def _serving(self) -> Worker:
        """The worker, once it is up."""
        while True:
            worker = self.worker
            if worker is not None and worker.alive and worker.up.is_set():
                return worker
            await self.clock.sleep(0.05)

    async def _hand_in(self, letter: Letter) -> None:
        await self.clock.sleep(letter.at)
        worker = await self._serving()
        door = asyncio.ensure_future(self._door(worker, letter))
        self.doors.add(door)
        await asyncio.wait((door,))
        self.doors.discard(door)
        if not door.cancelled():
            door.result()

    async def _door(self, worker: Worker, letter: Letter) -> None:
        self.ledger.note(f"submit {letter.number}")
        self.ledger.status[letter.number] = "unknown"
        spool = None
        try:
            body: bytes | BodyRef = letter.body
            if letter.spooled:
                spool = worker.real.spool()
                for start in range(0, len(letter.body), 50):
                    spool.write(letter.body[start : start + 50])
                    await self.clock.sleep(0.001)
                body = await spool.finish()
            key = await self._submit(worker, letter, body)
        except Fault as error:
            if worker.alive:
                self.ledger.refused(letter, error)
                if spool is not None and not isinstance(error, StoreInDoubt):
                    spool.discard()
            return
        if not worker.alive:
            return
        self.ledger.acknowledged(letter, key)
        if letter.command:
            await self.clock.sleep(letter.command_after_s)
            await self._command(worker, letter)

    async def _submit(self, worker: Worker, letter: Letter, body: bytes | BodyRef) -> MessageKey:
        due = self.clock.now() + letter.delay_s if letter.delay_s else 0.0
        submission = Submission(
            account="acct",
            domain="send.test",
            reverse_path="bounce@send.test",
            recipients=tuple(NewRecipient(address, due) for address in letter.addresses),
            summary=EventMessage(MessageHeaders(f"{letter.number}@send.test"), len(letter.body)),
            body=body,
            options=letter.options,
        )
        return await worker.intake.accept(submission, deadline=self.clock.monotonic() + letter.patience_s)

    async def _command(self, worker: Worker, letter: Letter) -> None:
        key = self.ledger.keys[letter.number]
        deadline = self.clock.monotonic() + 3.0
        try:
            if letter.command == "cancel":
                answer = await worker.commands.cancel(key, account="acct", deadline=deadline)
            else:
                answer = await worker.commands.retry_now(key, account="acct")
        except (Fault, Refusal) as error:
            if isinstance(error, NotFound) and worker.alive:
                self.ledger.wrong.append(f"letter {letter.number} was acknowledged and is not found")
            return
        self.ledger.note(f"{letter.command} {letter.number}: {answer}")

    async def _until_all_ended(self) -> None:
        while self.loop.time() < END_S:
            worker = await self._serving()
            try:
                left = await worker.real.due(after=DueMark(float("-inf")), until=float("inf"), limit=1)
            except Fault:
                left = [None]  # type: ignore[list-item]
            await self.clock.sleep(2.0)  # also what is in doubt is void by then
            if not left and not worker.scheduler.in_memory:
                return
        raise Broken("recipients are pending for ever")

    async def _read_back(
        self, lives: asyncio.Future[None]
    ) -> tuple[dict[int, list[LogEntry]], dict[str, RecipientView]]:
        """What the disk has after the worker ended, in order or by a cut of the power."""
        worker = await self._serving()
        if len(self.plan.letters) % 2:
            lives.cancel()
            await asyncio.wait((lives,))
            assert self._life is not None
            worker.end()
            await self._life
            worker.alive = False
            self.disk.go_down(power=True)
            self.disk = self.disk.come_up()
            worker = Worker(self, 0, b"")
            self.worker = worker
            self._life = asyncio.ensure_future(worker.live())
            await worker.up.wait()
        else:
            self.die(power=True)
            worker = await self._serving()
        store = worker.real
        log = {shard: await _whole(store, shard) for shard in store.shards()}
        views: dict[str, RecipientView] = {}
        keys = set(self.ledger.keys.values())
        for entries in log.values():
            keys |= {MessageKey.parse(decode_event(entry.octets).storage.key) for entry in entries if entry.octets}
        for key in sorted(keys):
            for view in await store.recipients(key):
                views[view.pending.address] = view
        lives.cancel()
        return log, views


async def _whole(store: SqliteStore, shard: int) -> list[LogEntry]:
    entries: list[LogEntry] = []
    while page := await store.tail(shard, after=len(entries), limit=100):
        entries += page
    return entries
