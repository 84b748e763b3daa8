"""The supervisor: binds the sockets, keeps one worker in each slot, and stands aside.

It opens no store and reads no mail. A worker that ends is started again with growing pauses; one whose loop says
nothing for five seconds is killed. SIGTERM and the command ``node.drain`` let it end in order: first it only says that
it is not ready, for ``node.drain_grace_s``, so that balancers turn away while all is still taken and the workers hand
over what others can have; then it drains, and the last worker gives back what belongs to the node. A second signal ends
at once. SIGHUP reads the configuration again: when only the certificate's files changed the workers load them; when a
setting changed, each slot gets a successor that serves on the same sockets, accepting into a shard of its own, before
the old worker drains. The rest of the slot's shards follow as the old one lets them go.

The sockets are the supervisor's, so connections wait in their backlog while a dead worker is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from pigeonry.app import exits
from pigeonry.app.child import Child, Plan
from pigeonry.app.config import ConfigInvalid, worker_count
from pigeonry.app.control import Certificates, Drain, Leaving
from pigeonry.app.sockets import AddressTaken, Listener, bind, bind_command_socket, listeners_of
from pigeonry.telemetry.log import configure

if TYPE_CHECKING:
    import socket

    from pigeonry.app.notify import Notifier
    from pigeonry.app.settings import Settings
    from pigeonry.ports.environment import Clock
    from pigeonry.telemetry.log import Logger

__all__ = ["Supervisor", "drain_s_max", "pause_s"]

PAUSE_S_MIN: Final = 0.1  # before the first restart
PAUSE_S_MAX: Final = 30.0  # a worker that cannot start is tried again this often
STEADY_S: Final = 30.0  # a worker that ran so long starts the count of failures anew
TICK_S: Final = 0.5  # how often the beats are judged
AFTER_DRAIN_S: Final = 5.0  # beyond the drain a worker may need this to close its files
END_S: Final = 5.0  # beyond its workers the supervisor needs a moment to close its sockets, more on a busy machine


def pause_s(failures: int) -> float:
    """Seconds to wait before a worker is started again after so many failures in a row."""
    return min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(failures - 1, 16)) if failures > 0 else 0.0


def drain_s_max(drain_s: float) -> float:
    """Seconds that a draining worker may take: for transactions, as many for deliveries, and some for its files."""
    return 2.0 * drain_s + AFTER_DRAIN_S


class Supervisor:
    """Runs the workers of a node.

    Args:
        settings: As first read.
        read: Reads the configuration again; raises ``ConfigInvalid``.
        data: The data folder.
        sealing_key: File of the sealing key.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: Callable[[], Settings],
        data: str,
        sealing_key: str,
        clock: Clock,
        notifier: Notifier,
        log: Logger,
    ) -> None:
        self._settings = settings
        self._read = read
        self._data = data
        self._sealing_key = sealing_key
        self._clock = clock
        self._notifier = notifier
        self._log = log
        self._bound: dict[Listener, tuple[socket.socket, ...]] = {}
        self._command: list[socket.socket] = []
        self._children: set[Child] = set()
        self._serving: dict[int, Child] = {}
        self._replace = [asyncio.Event() for _ in range(worker_count(settings))]
        self._replacing: set[int] = set()
        self._reload = asyncio.Event()
        self._leaving = asyncio.Event()
        self._stop = asyncio.Event()
        self._grace_s = 0.0
        self._forced = 0
        self.restarts = 0

    async def run(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> int:
        """Serve until told to stop; the exit status.

        Args:
            beside: What else runs in this process (the ops door, the command socket), cancelled at the end.

        Raises:
            AddressTaken: An address cannot be listened on.
        """
        self._bind(self._settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        async with asyncio.TaskGroup() as group:
            self._group = group
            others = [group.create_task(work()) for work in (self._watch, self._reloads, self._leave, *beside)]
            slots = [group.create_task(self._keep(slot)) for slot in range(len(self._replace))]
            await asyncio.wait(slots)
            for task in others:
                task.cancel()
        self._close()
        self._log.info("stopped", at_once=bool(self._forced))
        return {0: exits.OK, int(signal.SIGINT): exits.INTERRUPTED}.get(self._forced, exits.FAILED)

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether every slot has a worker whose doors are open; and how each stands."""
        workers = {}
        for slot in range(len(self._replace)):
            child = self._serving.get(slot)
            state = "down" if child is None else "ready" if child.ready.is_set() and not child.draining else "starting"
            workers[str(slot)] = {"state": state, "pid": child.pid if child else 0}
        ready = not self._leaving.is_set() and all(worker["state"] == "ready" for worker in workers.values())
        return ready, {"draining": self._leaving.is_set(), "restarts": self.restarts, "workers": workers}

    def addresses(self) -> dict[str, list[str]]:
        """What is really listened on, by door."""
        found: dict[str, list[str]] = {}
        for listener, made in self._bound.items():
            host, port = made[0].getsockname()[:2]
            found.setdefault(listener.door, []).append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return found

    @property
    def leaves_within_s(self) -> float:
        """Seconds from ``leave`` to the end of this process, at most."""
        node = self._settings.node
        return node.drain_grace_s + drain_s_max(node.drain_s) + END_S

    def leave(self, *, told_by: str) -> None:
        """Go out of service in order: not ready first, then drained, then ended; once told, more words change nothing.

        Args:
            told_by: For the log: a signal, a command.
        """
        if self._leaving.is_set():
            return
        # Whoever is not ready is sent nothing: nobody has to notice.
        self._grace_s = self._settings.node.drain_grace_s if self.readiness()[0] else 0.0
        self._leaving.set()
        self._log.info("leaving", told_by=told_by, grace_s=self._grace_s)
        self._notifier.stopping()
        for child in self._children:
            child.send(Leaving())

    async def _leave(self) -> None:
        """Close no door before balancers had their time to notice that this node is not ready."""
        await self._leaving.wait()
        await self._clock.sleep(self._grace_s)
        self._log.info("draining")
        self._stop.set()

    def _told_to_stop(self, number: int) -> None:
        name = signal.Signals(number).name
        if not self._leaving.is_set():
            self.leave(told_by=name)
            return
        self._forced = number
        self._log.warning("stop_at_once", signal=name)
        self._stop.set()
        for child in self._children:
            child.kill()

    def _bind(self, settings: Settings) -> None:
        """Bind what is new, keep what stays, close what is no longer listed."""
        wanted = listeners_of(settings)
        fresh: dict[Listener, tuple[socket.socket, ...]] = {}
        try:
            for listener in wanted:
                if listener not in self._bound:
                    fresh[listener] = bind(listener, slots=len(self._replace))
        except AddressTaken:
            for made in fresh.values():
                _close_all(made)
            raise
        for listener in set(self._bound) - set(wanted):
            _close_all(self._bound.pop(listener))
        self._bound.update(fresh)
        while len(self._command) < len(self._replace):
            self._command.append(bind_command_socket(self._data, len(self._command)))

    def _close(self) -> None:
        for made in (*self._bound.values(), tuple(self._command)):
            _close_all(made)

    def _plan(self, slot: int) -> Plan:
        return Plan(
            slot=slot,
            workers=len(self._replace),
            settings=self._settings,
            data=self._data,
            sealing_key=self._sealing_key,
            sockets=[(listener.door, made[slot]) for listener, made in self._bound.items()],
            command=self._command[slot],
        )

    async def _keep(self, slot: int) -> None:
        """Keep a worker in this slot until the end."""
        failures, generation, last_words = 0, 0, b""
        while not self._stop.is_set():
            generation += 1
            self._replace[slot].clear()  # it starts with the settings of now
            self._replacing.discard(slot)
            child = await self._spawn(slot, generation)
            if child is not None:
                child.go(last_words)
                child, generation = await self._serve(slot, child, generation)
                last_words = child.last_words
                if self._stop.is_set():
                    break
                lived_s = self._clock.monotonic() - child.started_at
                failures = 1 if lived_s > STEADY_S else failures + 1
            else:
                failures += 1
            self.restarts += 1
            pause = pause_s(failures)
            status = None if child is None else child.status
            self._log.error("worker_ended", slot=slot, status=status, failures=failures, pause_s=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._first(self._stop, self._replace[slot]), pause)
            if self._replace[slot].is_set():
                failures = 0  # somebody has mended something

    async def _spawn(self, slot: int, generation: int) -> Child | None:
        try:
            child = await Child.spawn(self._plan(slot), generation=generation, clock=self._clock)
        except OSError as error:
            self._log.error("worker_not_started", slot=slot, reason=str(error))
            return None
        child.is_last = functools.partial(self._is_last, child)
        self._children.add(child)
        self._group.create_task(self._attend(child))
        self._log.info("worker_started", slot=slot, pid=child.pid, generation=generation)
        return child

    def _is_last(self, child: Child) -> bool:
        return self._leaving.is_set() and all(other.quiet for other in self._children if other is not child)

    async def _attend(self, child: Child) -> None:
        try:
            await child.attend()
        finally:
            self._children.discard(child)

    async def _serve(self, slot: int, child: Child, generation: int) -> tuple[Child, int]:
        """Return when the slot's worker has ended, replaced as often as asked for in between."""
        while True:
            self._serving[slot] = child
            await self._first(child.ended, self._stop, self._replace[slot])
            if child.ended.is_set():
                self._serving.pop(slot, None)
                return child, generation
            if self._stop.is_set():
                await self._drain(child)
                self._serving.pop(slot, None)
                return child, generation
            self._replace[slot].clear()
            generation += 1
            child = await self._succeed(slot, child, generation)
            if not self._replace[slot].is_set():
                self._replacing.discard(slot)

    async def _succeed(self, slot: int, old: Child, generation: int) -> Child:
        """A prepared successor in place of the old worker; the old one when none could be prepared."""
        successor = await self._spawn(slot, generation)
        if successor is None:
            return old
        await self._first(successor.prepared, successor.ended, self._stop)
        if successor.prepared.is_set() and not self._stop.is_set():
            old.successor = successor
            successor.go(old.last_words)
            await self._first(successor.ready, successor.ended, self._stop)
        if successor.ready.is_set():
            self._serving[slot] = successor
            await self._drain(old)
            successor.last_words = old.last_words
            return successor
        old.successor = None
        if self._stop.is_set():
            await self._drain(successor)  # its doors may be open already
        else:
            self._log.error("successor_failed", slot=slot, status=successor.status)
            successor.kill()
        return old

    async def _drain(self, child: Child) -> None:
        """Let it finish; kill it when it takes longer than it may."""
        child.send(Drain())
        try:
            await asyncio.wait_for(child.ended.wait(), drain_s_max(self._settings.node.drain_s))
        except TimeoutError:
            self._log.warning("worker_killed", slot=child.slot, pid=child.pid, reason="it did not drain in time")
            child.kill()
            await child.ended.wait()

    async def _first(self, *events: asyncio.Event) -> None:
        """Wait for any of these."""
        waits = [self._group.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _watch(self) -> None:
        """Kill workers whose loop stands still; tell systemd that ours turns."""
        previous = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_S)
            now = self._clock.monotonic()
            self._notifier.watchdog()
            late = now - previous - TICK_S
            previous = now
            for child in list(self._children):
                if late > TICK_S * 2:  # we stood still ourselves (a suspended machine): their silence proves nothing
                    child.heard_at = now
                if child.is_stuck(now):
                    silent = round(now - child.heard_at, 1)
                    self._log.error("worker_stuck", slot=child.slot, pid=child.pid, silent_s=silent)
                    child.heard_at = now
                    child.kill()

    async def _report(self) -> None:
        """Say once when all doors are open."""
        while self._replacing or not self.readiness()[0]:
            await self._clock.sleep(TICK_S / 10)
        pending = sum(child.report.pending for child in self._serving.values())
        self._log.info("ready", workers=len(self._replace), pending=pending, **self.addresses())
        self._notifier.ready(f"{len(self._replace)} workers")

    async def _reloads(self) -> None:
        """Read the configuration again whenever asked, also while the last one is not served by all yet."""
        report = self._group.create_task(self._report())
        try:
            while True:
                await self._reload.wait()
                self._reload.clear()
                report.cancel()
                self._notifier.reloading(self._clock.monotonic())
                try:
                    self._apply(self._read())
                except (ConfigInvalid, AddressTaken) as error:
                    self._log.error("reload_refused", reason=str(error))
                for slot in set(range(len(self._replace))) - set(self._serving):
                    self._replace[slot].set()  # who waits to be started again is tried now
                report = self._group.create_task(self._report())
        finally:
            report.cancel()

    def _apply(self, settings: Settings) -> None:
        if worker_count(settings) != len(self._replace) or settings.node != self._settings.node:
            raise ConfigInvalid(["node: its settings are read at a restart only"])
        if settings.ops != self._settings.ops:
            raise ConfigInvalid(["ops: its settings are read at a restart only"])
        if settings == self._settings:
            self._log.info("certificates_reloaded")
            for child in self._children:
                child.send(Certificates())
            return
        self._bind(settings)
        if settings.log != self._settings.log:
            self._log = configure(level=settings.log.level, form=settings.log.format)
        self._settings = settings
        self._log.info("reloaded", **self.addresses())
        self._replacing = set(range(len(self._replace)))
        for replace in self._replace:
            replace.set()


def _close_all(sockets: tuple[socket.socket, ...]) -> None:
    for made in sockets:
        made.close()
