"""What really happened in a run, written down beside the system, and the promises it is held to."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.domain.event import Accepted, Delivered, Event, Failed, decode_event
from pigeonry.domain.message import Accept, DotSent, MessageKey, RecipientState, RecipientView, Settle, Transition
from pigeonry.ports.event_log import LogEntry
from pigeonry.testing.world import Arrival
from simulation.plan import Letter, Plan

_RCPT_OR_DOT = re.compile(rb"RCPT TO:<([^>]+)>|\r\n\.\r\n")
FORWARDING_S = 0.2  # seconds by which two arrivals may be closer than their dots were


class Broken(AssertionError):
    """A promise was not kept."""


class Ledger:
    """Keeps the books of one run.

    ``status`` of a letter is ``ack`` once its door had the key; ``busy`` or ``doubt`` when it was refused;
    ``unknown`` when the worker died first or, after ``doubt``, before the void can have been written.
    """

    def __init__(self, plan: Plan, time: Callable[[], float], *, keep: bool = False) -> None:
        self.plan = plan
        self.lines: list[str] | None = [] if keep else None
        self.keys: dict[int, MessageKey] = {}
        self.status: dict[int, str] = {}
        self.arrivals: list[Arrival] = []
        self.wrong: list[str] = []
        self.crashes = 0
        self._time = time
        self._handed = 0
        self._doubted: dict[int, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)
        self._armed: set[str] = set()
        self._dot_sent: set[str] = set()
        self._connections: dict[tuple[int, int], tuple[bytes, str]] = {}
        self._shown: dict[int, dict[int, bytes]] = defaultdict(dict)

    # -- as it happens

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        line = f"{self._time():.9f} {text}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    def trace(self) -> str:
        """The hash over everything noted."""
        return self._hash.hexdigest()

    def acknowledged(self, letter: Letter, key: MessageKey) -> None:
        self.keys[letter.number] = key
        self.status[letter.number] = "ack"
        self.note(f"ack {letter.number} {key.serial}")

    def repeated(self, letter: Letter) -> None:
        """A try was answered with what an earlier one had come to."""
        self.status[letter.number] = "ack"
        self.note(f"ack {letter.number} again")

    def consumed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """A consumer was shown these events: each stays as it is, and none comes before those below it."""
        seen = self._shown[shard]
        for seq, octets in entries:
            if seen.setdefault(seq, octets) != octets:
                self.wrong.append(f"shard {shard}: event {seq} was shown and is another one now")
            if seq > 1 and seq - 1 not in seen:
                self.wrong.append(f"shard {shard}: event {seq} was shown before the one below it")

    def refused(self, letter: Letter, error: Exception) -> None:
        self.status[letter.number] = "doubt" if isinstance(error, StoreInDoubt) else "busy"
        self._doubted[letter.number] = self._handed
        self.note(f"refused {letter.number} {type(error).__name__}")

    def died(self, *, power: bool) -> None:
        """The worker is gone: doors that were waiting will never know, and voids may not be written."""
        self.crashes += 1
        self.note(f"crash power={power}")
        self._connections.clear()
        for number, status in self.status.items():
            if status == "doubt":
                self.status[number] = "unknown"

    def handed(self, transition: Transition) -> int:
        """Something is handed to the store; its number."""
        self._handed += 1
        if isinstance(transition, DotSent):
            self._dot_sent.add(transition.pending.address)
        return self._handed

    def durable(self, transition: Transition, number: int) -> None:
        """A commit returned; ``number`` is what ``handed`` gave for it."""
        kind = type(transition).__name__
        if isinstance(transition, DotSent):
            self._armed.add(transition.pending.address)
            self.note(f"durable {kind} {transition.pending.serial}")
        elif isinstance(transition, Settle):
            self._armed.discard(transition.pending.address)
            self.note(f"durable {kind} {transition.pending.serial} {transition.state}")
        elif isinstance(transition, Accept):
            self.note(f"durable {kind} {transition.message.key.serial}")
        # A void goes before whatever is handed over after it, so that those in doubt before that are void by now.
        for letter, status in self.status.items():
            if status == "doubt" and self._doubted[letter] < number:
                self.status[letter] = "void"

    def sent(self, connection: tuple[int, int], octets: bytes) -> None:
        """Octets leave on a connection; the dot may be among them."""
        tail, recipient = self._connections.get(connection, (b"", ""))
        octets = tail + octets
        for found in _RCPT_OR_DOT.finditer(octets):
            if found[1] is not None:
                recipient = found[1].decode()
                continue
            self.note(f"dot {recipient}")
            if recipient not in self._armed:
                self.wrong.append(f"the dot to {recipient} left before dot-sent was durable")
            self._armed.discard(recipient)
        self._connections[connection] = (octets[-4:], recipient)

    # -- at the end

    def audit(self, log: dict[int, list[LogEntry]], views: dict[str, RecipientView], *, in_doubt_s: float) -> None:
        """Hold the run to its promises.

        Raises:
            Broken: One was not kept; names all that were not.
        """
        wrong = self.wrong
        events: dict[str, list[Event]] = defaultdict(list)
        ids: set[str] = set()
        for shard, entries in log.items():
            if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
                wrong.append(f"shard {shard}: the seqs have gaps")
            for entry in entries:
                if not entry.octets:
                    continue
                event = decode_event(entry.octets)
                self.note(f"log {shard} {entry.seq} {entry.octets.decode()}")
                if event.id in ids:
                    wrong.append(f"event {event.id} stands twice in the log ({event.recipient})")
                ids.add(event.id)
                events[event.recipient].append(event)
        for shard, shown in self._shown.items():
            if shown != {entry.seq: entry.octets for entry in log.get(shard, ())}:
                wrong.append(f"shard {shard}: the consumer was shown something else than the log has")
        for letter in self.plan.letters:
            self._letter(letter, events)
        by_recipient: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in self.arrivals:
            by_recipient[arrival.recipient].append(arrival)
        for letter in self.plan.letters:
            for address in letter.addresses:
                self._recipient(letter, address, events[address], by_recipient[address], in_doubt_s)
                self._state(address, events[address], views.get(address))
        if wrong:
            raise Broken("\n".join(wrong))

    def _letter(self, letter: Letter, events: dict[str, list[Event]]) -> None:
        """A message is taken with all its recipients, or not at all."""
        status = self.status.get(letter.number, "unknown")
        taken = [any(isinstance(e, Accepted) for e in events[address]) for address in letter.addresses]
        if status == "ack" and not all(taken):
            self.wrong.append(f"letter {letter.number} was acknowledged and is lost")
        if status in {"busy", "doubt", "void"} and any(taken):
            self.wrong.append(f"letter {letter.number} was refused ({status}) and its accepted event is shown")
        if any(taken) != all(taken):
            self.wrong.append(f"letter {letter.number} was taken in part")

    def _recipient(
        self, letter: Letter, address: str, events: list[Event], arrivals: list[Arrival], in_doubt_s: float
    ) -> None:
        accepted = sum(isinstance(event, Accepted) for event in events)
        finals = [
            e for e in events if isinstance(e, Delivered) or (isinstance(e, Failed) and e.severity == "permanent")
        ]
        if accepted == 0:
            if events or arrivals:
                self.wrong.append(f"{address} was never taken, and has {len(events)} events, {len(arrivals)} arrivals")
            return
        if accepted != 1 or len(finals) != 1:
            self.wrong.append(f"{address} has {accepted} accepted and {len(finals)} final events")
            return
        if finals[0] is not events[-1] or not isinstance(events[0], Accepted):
            self.wrong.append(f"{address}: its events are out of order")
        flags = [event.flags.is_possible_duplicate is True for event in events]
        if flags != sorted(flags):
            self.wrong.append(f"{address}: a later event lost the possible-duplicate flag")
        if flags[-1] and address not in self._dot_sent:
            self.wrong.append(f"{address} is flagged, and no dot was ever about to leave")
        delivered = isinstance(finals[0], Delivered) and not letter.options.testmode
        if not flags[-1] and len(arrivals) != int(delivered):
            self.wrong.append(f"{address} arrived {len(arrivals)} times, delivered={delivered}, and is not flagged")
        if flags[-1] and delivered and not arrivals:
            self.wrong.append(f"{address} is delivered and never arrived")
        for one, next_one in itertools.pairwise(arrivals):
            if next_one.at - one.at < in_doubt_s - FORWARDING_S:
                self.wrong.append(f"{address} was sent again {next_one.at - one.at:.3f} s after it was in doubt")
        for arrival in arrivals:
            if not self.plan.permits(letter, arrival.source):
                self.wrong.append(f"{address} came from {arrival.source}, which is not its pool's")
        if any(arrival.content != letter.arrives(address) for arrival in arrivals):
            self.wrong.append(f"{address} arrived with other octets than were accepted")

    def _state(self, address: str, events: list[Event], view: RecipientView | None) -> None:
        if not events:
            if view is not None and view.state is not RecipientState.VOID:
                self.wrong.append(f"{address} has no events and is {view.state.name}")
            return
        expected = RecipientState.DELIVERED if isinstance(events[-1], Delivered) else RecipientState.FAILED
        if view is None or view.state is not expected:
            self.wrong.append(f"{address}: its event says {expected.name}, the store {view and view.state.name}")
