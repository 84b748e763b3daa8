"""One run: the real queue, delivery and store on virtual time, among unreliable servers, disks and power.

The worker is wired as in production, over a faulty disk and network. Letters come in at its doors, some of them as
templates for several recipients, some again and again with an idempotency key; days begin and what waits is carried; a
consumer follows the log; the wall clock may be set back. It is killed after a number of steps that the plan says, or
hands over to a successor, which starts on what the disk still has. Then the world calms down, all that is pending comes
to its end, and the ledger is audited against the log, the store, the consumer and what the servers took.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import apsw

from pigeonry.compose.template import QUOTED_PRINTABLE, render, stored
from pigeonry.delivery.connection import Timeouts
from pigeonry.delivery.dispatcher import Dispatcher
from pigeonry.delivery.egress import Egress, Outlet
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.opening import Opener
from pigeonry.delivery.ownership import LeaseTerms, Ownership
from pigeonry.delivery.routing import MxRouter
from pigeonry.domain.errors import Conflict, Fault, NotFound, Refusal, StoreBusy
from pigeonry.domain.event import EventMessage, MessageHeaders, decode_event
from pigeonry.domain.message import (
    BodyKind,
    BodyRef,
    IdempotencyRecord,
    MessageKey,
    NewRecipient,
    Pending,
    RecipientState,
    RecipientView,
    Transition,
)
from pigeonry.domain.route import EgressPool, EgressSource
from pigeonry.domain.submission import Submission
from pigeonry.domain.tenant import SendingDomain
from pigeonry.doors.http.idempotency import Idempotency
from pigeonry.events.consumer import Consumer
from pigeonry.ports.coordinator import Lease
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.queue_store import DueMark
from pigeonry.protocol.mime.builder import Slot
from pigeonry.queue.commands import Commands
from pigeonry.queue.content import ContentCache
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.intake import Intake
from pigeonry.queue.ready import ReadyQueues
from pigeonry.queue.retry import RetrySchedule
from pigeonry.queue.scheduler import Scheduler, SchedulerLimits
from pigeonry.queue.settlement import settle
from pigeonry.stores.memory.coordinator import Board, MemoryCoordinator
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.testing.clock import EPOCH, VirtualClock, VirtualLanes
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop
from pigeonry.testing.network import FakeDialer, FakeResolver
from pigeonry.testing.world import Temper, World
from simulation.faulty_disk import FaultyDisk
from simulation.ledger import Broken, Ledger
from simulation.plan import ADDRESSES, DEDICATED, HORIZON_S, SHARED, SPARE, Crash, Letter, Plan
from support.commits import followed

IN_DOUBT_S = 10.0
SCHEDULE = RetrySchedule(first_pause_s=4.0, pause_s_max=16.0, expiry_s=90.0, in_doubt_s=IN_DOUBT_S)
TIMEOUTS = Timeouts(connect=2.0, tls=2.0, greeting=4.0, envelope=4.0, data=2.0, block=4.0, dot=6.0, farewell=1.0)
DELIVERY = DeliveryLimits(
    connections_per_path=3, connections_max=6, idle_s=1.0, commit_s=3.0, settle_s=3.0, rest_s=0.5, rest_s_max=4.0
)
QUEUE = SchedulerLimits(recipients_max=12, horizon_s=6.0, page=4, settle_deadline_s=3.0)
STORE = Limits(
    in_doubt_delay_s=IN_DOUBT_S,
    free_octets_min=0,
    spool_memory_octets_max=100,
    segment_octets_max=2000,
    finish_after_s=1.0,
    carry_after_s=2.0,
    carry_messages_max=2,
    housekeeping_s=1.0,
)
SHARDS = 2  # one that accepts, and one for the successor to accept into while that is still held
OWN = SendingDomain("1", "own.test", "acct", 0.0, pool="own", pools=("spare",))
TERMS = LeaseTerms(6.0)  # of egress addresses
CONSUMED_S = 5.0  # virtual seconds in which a consumer is level with the log, once nothing happens any more
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

    @followed
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
            shards=SHARDS,
            disk=run.disk,
            lanes=self.lanes,
            clock=clock,
            limits=STORE,
            last_words=last_words,
        )
        self.store: Any = Watched(self.real, run, dice.fork("pages"))
        if run.plant is not None:
            self.store = run.plant(self.store, loop)
        self.dialer = FakeDialer(
            loop,
            run.world,
            dice.fork("dialer"),
            spy=lambda connection, octets: run.sent(self, connection, octets),
            addresses=run.addresses["us"],
        )
        egress = _egress(run)
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
            settlement=lambda pending, message, outcome, now: settle(
                pending,
                message,
                outcome,
                now=now,
                dice=settle_dice,
                schedule=SCHEDULE,
                ids=event_ids,
            ),
            signers=lambda _domain: (),
            domain=run.domains.get,
            render=render,
            clock=clock,
            dice=dice.fork("delivery"),
            log=_Silent(),  # type: ignore[arg-type]
            limits=DELIVERY,
            egress=egress,
        )
        self.addresses = run.ownership("us", egress.outlets.values(), self.dispatcher.review_egress)
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
        self.consumer = Consumer("simulation", self.store, run.follower, clock)
        self.idempotency = Idempotency(
            store=self.store,
            coordinator=MemoryCoordinator(clock, run.board),
            clock=clock,
            ids=SeededIds(f"{run.plan.seed}/{number}/leases"),
        )
        self.parts = (self.scheduler, self.dispatcher, self.consumer, self.addresses)
        self.up = asyncio.Event()
        self.doors: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()
        self.life = loop.create_task(self._live())

    async def _live(self) -> None:
        """Serve until cancelled, or until ``end`` has ended it in order."""
        await self.real.open()
        async with asyncio.TaskGroup() as tasks:
            store = tasks.create_task(self.real.run())
            work = [tasks.create_task(part.run()) for part in self.parts]
            self.up.set()
            await self._ending.wait()
            await self.dispatcher.drain()
            self.cut_off()
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            await self.real.close()
            store.cancel()

    def cut_off(self) -> None:
        """Whoever still waits at a door hears nothing more."""
        self.commands.stop()
        for door in sorted(self.doors, key=asyncio.Task.get_name):
            door.cancel()

    def end(self) -> None:
        """Let what is under way come to its end, and stop."""
        self._ending.set()


def _egress(run: Run) -> Egress:
    plan = run.plan.egress
    if not plan.way:
        return Egress(domain=run.domains.get, clock=run.clock)

    def pool(name: str, addresses: Sequence[str], way: str = "queue") -> EgressPool:
        sources = [EgressSource(address, address) for address in addresses]
        return EgressPool(name, tuple((source, 1) for source in sources), way, plan.grace_s)

    pools = (pool("shared", SHARED), pool("own", DEDICATED, plan.way), pool("spare", SPARE))
    return Egress(pools, default="shared", domain=run.domains.get, clock=run.clock)


class _Unanswering(MemoryCoordinator):
    """A coordinator that cannot be reached for a while."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.clock, run.board)
        self._run = run

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        since, until = self._run.plan.egress.unanswered
        if since <= self._run.loop.time() < until:
            raise StoreBusy("It does not answer.")
        return await super().acquire(name, owner=owner, ttl_s=ttl_s, ended=ended)


class Follower:
    """What a consumer feeds, as the search index is: its cursor outlives the worker, but not always the power."""

    def __init__(self, ledger: Ledger, dice: SeededDice) -> None:
        self._ledger = ledger
        self._dice = dice
        self._cursors: dict[int, int] = {}

    async def cursor(self, shard: int) -> int:
        return self._cursors.get(shard, 0)

    async def feed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        self._ledger.consumed(shard, entries)
        self._cursors[shard] = entries[-1][0]

    async def level(self, at: Mapping[int, float]) -> None:
        """Nobody asks for a watermark."""

    async def give_up(self, shard: int) -> None:
        """Nobody else feeds it."""

    def power_cut(self) -> None:
        """The end of what was taken is lost."""
        self._cursors = {shard: self._dice.count(0, cursor) for shard, cursor in self._cursors.items()}


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
        self.follower = Follower(self.ledger, SeededDice(f"{plan.seed}/follower"))
        self.board = Board()
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
        self.addresses: dict[str, set[str]] = {"us": set(ADDRESSES), "them": set()}
        self.domains = {OWN.name: OWN} if plan.egress.way else {}
        self.rivals = {address: Outlet(EgressSource(address, address)) for address in ADDRESSES}
        """The addresses as another node may use them."""
        self.worker: Worker | None = None
        """The one that the doors lead to."""
        self.workers: list[Worker] = []
        """Those that live: two while one hands over to the other."""
        self.dead = asyncio.Event()
        self._steps_left: list[Crash] = list(plan.crashes)
        self._steps = 0
        self._down_s = 0.1
        self._calm = False
        self._lives_begun = 0
        self._last_words = b""

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

    def sent(self, worker: Worker, connection: int, octets: bytes) -> None:
        """A worker writes to a server."""
        if worker.alive:
            rival = self.rivals.get(worker.dialer.sources[connection])
            if rival is not None and b"MAIL FROM" in octets and rival.until > self.loop.time():
                self.ledger.wrong.append(f"a message began from {rival.source.id} while another node owned it")
            self.ledger.sent((worker.number, connection), octets)
            self.step()

    def die(self, *, power: bool) -> None:
        """The worker is gone, in the middle of whatever it does, and its predecessor too if that still drains."""
        for worker in self.workers:
            worker.alive = False
            worker.dialer.go_down(sent_arrives=not power)
        self._steps = 0
        self.disk.go_down(power=power)
        if power:
            self.follower.power_cut()
        self.ledger.died(power=power)
        self.dead.set()

    def ownership(self, node: str, outlets: Iterable[Outlet], changed: Callable[[], None]) -> Ownership:
        """What keeps the leases of a machine's addresses."""
        return Ownership(
            [outlet for outlet in outlets if outlet.source.address],
            coordinator=_Unanswering(self) if node == "us" else MemoryCoordinator(self.clock, self.board),
            clock=self.clock,
            dice=SeededDice(f"{self.plan.seed}/{node}"),
            node=node,
            has_address=lambda address: address in self.addresses[node],
            changed=changed,
            log=_Silent(),  # type: ignore[arg-type]
            terms=TERMS,
        )

    async def _move_addresses(self) -> None:
        """Addresses come and go; when all is calm they are ours."""
        began = self.loop.time()
        for at, address, node, comes in self.plan.egress.moves:
            await self.clock.sleep(began + at - self.loop.time())
            self.ledger.note(f"{address} {'comes to' if comes else 'leaves'} {node}")
            (self.addresses[node].add if comes else self.addresses[node].discard)(address)
        await self.clock.sleep(began + HORIZON_S - self.loop.time())
        self.addresses["them"].clear()
        self.addresses["us"].update(ADDRESSES)

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
        beside = [
            asyncio.ensure_future(self._hand_over()),
            asyncio.ensure_future(self._set_clock_back()),
            asyncio.ensure_future(self._move_addresses()),
        ]
        rival = asyncio.ensure_future(self.ownership("them", self.rivals.values(), lambda: None).run())
        await self.clock.sleep(HORIZON_S)
        self._calm = True
        self.world.temper = CALM
        self.disk.calm()
        await asyncio.gather(*letters, *beside)
        await self._until_all_ended()
        rival.cancel()
        log, views = await self._read_back(lives)
        self.ledger.arrivals = self.world.arrivals
        self.ledger.audit(log, views, in_doubt_s=IN_DOUBT_S)

    async def _set_clock_back(self) -> None:
        at, seconds = self.plan.clock_back
        if seconds:
            await self.clock.sleep(at)
            self.ledger.note(f"the clock is set back by {seconds:.3f} s")
            self.clock.set_back(seconds)

    async def _hand_over(self) -> None:
        """A successor opens the doors, then the worker drains and gives its shards back, as at an upgrade."""
        if not self.plan.hand_over_at:
            return
        await self.clock.sleep(self.plan.hand_over_at)
        old = await self._serving()
        new = self._begin_life(b"")
        up = asyncio.ensure_future(new.up.wait())
        await asyncio.wait((up, new.life), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if not new.alive or not old.alive:
            return
        if new.life.done():
            self.ledger.note(f"the successor could not start: {new.life.exception()!r}")
            self.die(power=False)
            return
        self.ledger.note("handing over")
        self.worker = new
        old.end()
        broken = asyncio.ensure_future(old.real.broken.wait())
        await asyncio.wait((old.life, broken), return_when=asyncio.FIRST_COMPLETED)
        broken.cancel()
        if not old.alive:
            return
        if old.real.broken.is_set():
            self._die_of_disk(old)
            return
        old.life.result()
        self.workers.remove(old)
        self.ledger.note("handed over")
        await self.clock.sleep(3.0)  # until the successor has looked for what was given back

    def _begin_life(self, last_words: bytes) -> Worker:
        self._lives_begun += 1
        worker = Worker(self, self._lives_begun, last_words)
        self.workers.append(worker)
        return worker

    def _die_of_disk(self, worker: Worker) -> None:
        self._last_words = worker.real.last_words()
        self.die(power=False)
        self.ledger.note("the disk cannot be believed")

    async def _lives(self) -> None:
        """Start the worker again and again."""
        while True:
            self.dead.clear()
            last_words, self._last_words = self._last_words, b""
            self.worker = self._begin_life(last_words)
            await self._until_death()
            for worker in self.workers:
                worker.life.cancel()
                worker.cut_off()
            for worker in self.workers:
                await asyncio.wait((worker.life,))
                if not worker.life.cancelled():
                    worker.life.exception()
            self.workers = []
            await self.clock.sleep(self._down_s)
            self._down_s = 0.1
            self.disk = self.disk.come_up()

    async def _until_death(self) -> None:
        """Return when the worker is gone and no other has taken its place."""
        while not self.dead.is_set():
            worker = self.worker
            assert worker is not None
            gone = asyncio.ensure_future(self.dead.wait())
            broken = asyncio.ensure_future(worker.real.broken.wait())
            await asyncio.wait((worker.life, gone, broken), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            broken.cancel()
            if self.dead.is_set() or self.worker is not worker:
                continue  # it handed over, or is gone
            if worker.real.broken.is_set():
                self._die_of_disk(worker)
            elif worker.life.done():
                if not isinstance(worker.life.exception(), apsw.Error | OSError):
                    worker.life.result()
                self.ledger.note(f"the worker could not start: {type(worker.life.exception()).__name__}")
                self.die(power=False)

    async def _serving(self) -> Worker:
        """The worker, once it is up."""
        while True:
            worker = self.worker
            if worker is not None and worker.alive and worker.up.is_set():
                return worker
            await self.clock.sleep(0.05)

    async def _hand_in(self, letter: Letter) -> None:
        """Once, or with an idempotency key until it is acknowledged."""
        await self.clock.sleep(letter.at)
        for _ in range(letter.tries):
            worker = await self._serving()
            door = asyncio.ensure_future(self._door(worker, letter))
            worker.doors.add(door)
            await asyncio.wait((door,))
            worker.doors.discard(door)
            if not door.cancelled():
                door.result()
            if self.ledger.status.get(letter.number) == "ack":
                return
            await self.clock.sleep(letter.again_s)

    async def _door(self, worker: Worker, letter: Letter) -> None:
        self.ledger.note(f"submit {letter.number}")
        try:
            if letter.tries == 1:
                self.ledger.status[letter.number] = "unknown"
                key = await self._submit(worker, letter, None)
            else:
                key = await self._submit_once(worker, letter)
        except Conflict:
            self.ledger.note(f"in flight {letter.number}")
            return
        except Fault as error:
            if worker.alive:
                self.ledger.refused(letter, error)
            return
        if not worker.alive:
            return
        if key is None:
            self.ledger.repeated(letter)
            return
        self.ledger.acknowledged(letter, key)
        if letter.command:
            await self.clock.sleep(letter.command_after_s)
            await self._command(worker, letter)

    async def _submit_once(self, worker: Worker, letter: Letter) -> MessageKey | None:
        """With an idempotency key; None when an earlier try had come to something."""
        scope, digest = (hashlib.sha256(b"%s%d" % (what, letter.number)).digest() for what in (b"scope", b"digest"))
        async with worker.idempotency.reserve(scope, digest) as reservation:
            if reservation.record is not None:
                return None
            self.ledger.status[letter.number] = "unknown"
            return await self._submit(worker, letter, reservation.remember(b"{}"))

    async def _submit(self, worker: Worker, letter: Letter, record: IdempotencyRecord | None) -> MessageKey:
        body: bytes | BodyRef = b"".join(_stored(letter)) if letter.batch else letter.body
        if not letter.spooled:
            return await self._accept(worker, letter, body, record)
        spool = worker.real.spool()
        try:
            for start in range(0, len(body), 50):
                spool.write(body[start : start + 50])
                await self.clock.sleep(0.001)
            return await self._accept(worker, letter, await spool.finish(), record)
        except Fault:
            if worker.alive:
                spool.discard()
            raise

    async def _accept(
        self, worker: Worker, letter: Letter, body: bytes | BodyRef, record: IdempotencyRecord | None
    ) -> MessageKey:
        due = self.clock.now() + letter.delay_s if letter.delay_s else 0.0
        submission = Submission(
            account="acct",
            domain=letter.domain,
            reverse_path="bounce@send.test",
            recipients=tuple(
                NewRecipient(address, due, b'{"name":"somebody"}' if letter.batch else b"")
                for address in letter.addresses
            ),
            summary=EventMessage(MessageHeaders(f"{letter.number}@send.test"), len(letter.body)),
            body=body,
            body_kind=BodyKind.TEMPLATE if letter.batch else BodyKind.OCTETS,
            options=letter.options,
            idempotency=record,
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
            worker.end()
            await worker.life
            worker.alive = False
            self.disk.go_down(power=True)
            self.disk = self.disk.come_up()
            worker = self.worker = self._begin_life(b"")
            await worker.up.wait()
        else:
            self.die(power=True)
            worker = await self._serving()
        await self.clock.sleep(CONSUMED_S)
        store = worker.real
        log = {shard: await _whole(store, shard) for shard in store.shards()}
        views: dict[str, RecipientView] = {}
        keys = set(self.ledger.keys.values())
        for entries in log.values():
            keys |= {MessageKey.parse(decode_event(entry.octets).storage.key) for entry in entries if entry.octets}
        for key in sorted(keys):
            for view in await store.recipients(key):
                if view.pending.day != key.day:
                    self.ledger.note(f"{view.pending.address} was carried")
                if view.state is not RecipientState.VOID or view.pending.address not in views:
                    views[view.pending.address] = view
        lives.cancel()
        return log, views


def _stored(letter: Letter) -> list[bytes]:
    """A template, as the HTTP door would have it made."""
    before, after = letter.body.split(b"to %recipient_email%")
    return [bytes(piece) for piece in stored([before, Slot(QUOTED_PRINTABLE, "to %recipient_email%"), after])]


async def _whole(store: SqliteStore, shard: int) -> list[LogEntry]:
    entries: list[LogEntry] = []
    while page := await store.tail(shard, after=len(entries), limit=100):
        entries += page
    return entries
