"""The only place where parts are chosen: from settings to a node.

Nothing here does work of its own. Read it from the bottom of a message's way to the top: stores, who may send, queue,
delivery, events, doors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pigeonry.admission.domains import DomainBook
from pigeonry.admission.gate import Gate
from pigeonry.admission.interventions import InterventionBook
from pigeonry.app.accounts import DEV_DOMAIN, Accounts
from pigeonry.app.cluster_status import of_itself
from pigeonry.app.cluster_tls import ClusterTls
from pigeonry.app.commanding import Commanding
from pigeonry.app.config import node_address, node_name, own_hostname, smarthost_of
from pigeonry.app.counted import Counted
from pigeonry.app.dns import resolver_of
from pigeonry.app.doors import Doors
from pigeonry.app.egress import OWNED, addresses_of, borrowing, egress_gauges, egress_of, lending, ownership
from pigeonry.app.engine import Who
from pigeonry.app.engines import node_disk, open_engine
from pigeonry.app.event_commands import event_handlers
from pigeonry.app.node import Node, Parts
from pigeonry.app.outgoing import broken_hosts, opener_of, policies_of
from pigeonry.app.queue_commands import asking_why, command_handlers
from pigeonry.app.rulebook import rule_book
from pigeonry.app.secrets import event_ids, page_secret
from pigeonry.app.smtp_config import smtp_config
from pigeonry.app.tls import reloader, server_context
from pigeonry.auth.allowances import Allowances
from pigeonry.auth.keys import KeyRing
from pigeonry.auth.logins import Logins
from pigeonry.auth.passwords import Passwords
from pigeonry.compose.template import render
from pigeonry.delivery.dispatcher import Dispatcher
from pigeonry.delivery.interventions import Interventions
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.policies import NO_POLICIES
from pigeonry.delivery.reach import Reach
from pigeonry.delivery.routing import MxRouter, SmarthostRouter
from pigeonry.delivery.tls_memory import TlsMemory
from pigeonry.domain.errors import Fault
from pigeonry.domain.networks import Networks
from pigeonry.doors.commands.relay import Relays
from pigeonry.doors.http.app import HttpDoor
from pigeonry.doors.http.forwarded import Forwarded
from pigeonry.doors.http.v1 import why
from pigeonry.doors.http.v3 import credentials, domains, events
from pigeonry.doors.smtp.listener import SmtpDoor
from pigeonry.events.asking import WholeNode
from pigeonry.events.consumer import IndexConsumer
from pigeonry.events.ledger import LedgerAudit
from pigeonry.events.own_shards import OwnShards
from pigeonry.events.rebuild import Rebuild
from pigeonry.events.scatter import Scattered
from pigeonry.events.search import EventSearch
from pigeonry.events.show import show
from pigeonry.net.dialer import TcpDialer
from pigeonry.net.environment import SystemClock, SystemDice, SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.net.sealing import load_seal
from pigeonry.ports.event_index import IndexQuery, Term
from pigeonry.ports.ownership import Member
from pigeonry.queue.commands import Commands
from pigeonry.queue.content import ContentCache
from pigeonry.queue.intake import Intake
from pigeonry.queue.ready import ReadyQueues
from pigeonry.queue.retry import RetrySchedule
from pigeonry.queue.scheduler import Scheduler
from pigeonry.queue.settlement import settle
from pigeonry.queue.why import Why
from pigeonry.quota.rates import Rates
from pigeonry.quota.shares import Shares
from pigeonry.stores.sqlite.event_index import SqliteEventIndex
from pigeonry.telemetry.metrics import Metrics, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import Route

    from pigeonry.app.settings import Settings
    from pigeonry.domain.holding import Holding
    from pigeonry.domain.message import Message, Pending, Settle
    from pigeonry.domain.outcome import Outcome
    from pigeonry.events.asking import Events
    from pigeonry.ports.queue_store import RecoveryReport
    from pigeonry.queue.event_ids import EventIds
    from pigeonry.telemetry.log import Logger

__all__ = ["Wiring"]

CONTENT_OCTETS_MAX: Final = 128 * 1024 * 1024  # of messages between their acceptance and their first attempt
EVENTS_OF_MAX: Final = 300  # events of one message shown in the inbox
FOREVER_US: Final = 2**62
RETIRE_S: Final = 3_600.0  # days are not over more often
DAY_S: Final = 86_400.0  # seconds of a day


class Wiring:
    """The parts of one worker. No shard is owned and no door open yet.

    Args:
        data: The data folder; ``installation.prepare`` has seen to it.
        sealing_key: File of the seal key.
        dev: A development run: passwords may be said without TLS, on loopback.

    Raises:
        SealKeyError: The seal key cannot be used.
        OSError: The certificate cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        data: str,
        sealing_key: str,
        slot: int,
        workers: int,
        log: Logger,
        dev: bool = False,
    ) -> None:
        self._settings = settings
        self._log = log
        self._clock, self._dice, self._ids = SystemClock(), SystemDice(), SystemIds()
        self._lanes = ThreadLanes()
        self._tally = Tally()
        self._hostname = own_hostname(settings)
        self._context = server_context(settings.tls.cert, settings.tls.key) if settings.tls.cert else None
        self._seal = load_seal(Path(sealing_key))
        self._dev = dev
        self._data = data
        members = [
            Member(node_name(settings), number, node_address(settings), settings.node.location)
            for number in range(workers)
        ]
        self._who = Who(members, slot)
        cluster = settings.cluster
        self._cluster_tls = ClusterTls(cluster.ca, cluster.cert, cluster.key) if cluster.cert else None

    @classmethod
    async def build(cls, settings: Settings, **choices: Any) -> Wiring:
        """As the constructor, and all that needs the Directory.

        Raises:
            Fault: Identity or Directory cannot be opened.
        """
        wiring = cls(settings, **choices)
        await wiring._build_stores()
        wiring._build_senders()
        wiring._build_queue(await event_ids(wiring._directory, wiring._ids, wiring._seal))
        wiring._build_egress()
        wiring._build_commanding()
        wiring._build_delivery()
        secret = await page_secret(wiring._directory, wiring._ids, wiring._seal)
        wiring._build_doors(EventSearch(wiring._events, wiring._clock, secret))
        return wiring

    def node(self, *, around: Callable[[Any], Any] | None = None) -> Node:
        """The parts as a node.

        Args:
            around: Wraps the HTTP application.
        """
        gateways = Networks(self._settings.edge.forwarded_from)
        http: Any = Forwarded(self._http, gateways) if gateways else self._http
        doors = self._doors(http if around is None else around(http))
        views = (self._keys, self._logins, self._domains, self._interventions, self._allowances)
        parts = Parts(
            clock=self._clock,
            store=self._store,
            dispatcher=self._dispatcher,
            doors=doors,
            metrics=self._metrics,
            commanding=self._commanding,
            first=[view.refresh for view in views],
            running=(
                *(view.run for view in views),
                self._rates.run,
                self._scheduler.run,
                self._addresses.run,
                self._borrowing.run,
                self._relays.run,
                self._consumer.run,
                self._audit.run,
                self._retire_events,
                self._shares.run,
                self._smtp.run,
            ),
            leaving=(self._engine.leave,),
            idle=(self._shares.close, self._rates.close),
            of_node=(self._addresses.give_back,),
            last=(self._commanding.close, self._index.close, *self._engine.last),
            reload_certificates=(reloader(self._context, self._settings.tls), self._commanding.reload),
        )
        return Node(parts, drain_s=self._settings.node.drain_s, log=self._log)

    def accounts(self) -> Accounts:
        """What a person does about accounts, keys, domains and logins."""
        return Accounts(
            identity=self._identity,
            directory=self._directory,
            passwords=self._passwords,
            seal=self._seal,
            clock=self._clock,
            ids=self._ids,
            lane=self._lanes.lane("accounts"),
            hostname=self._hostname,
        )

    async def events_of(self, message_id: str) -> Sequence[Mapping[str, Any]]:
        """The events of a message by its Message-ID, the oldest first."""
        query = IndexQuery(
            domain=DEV_DOMAIN,
            begin_us=0,
            end_us=FOREVER_US,
            ascending=True,
            limit=EVENTS_OF_MAX,
            where=Term("is", "message-id", message_id),
        )
        page = await self._index.search(query)
        return [show(octets, base_url="") for _, octets in page.items]

    async def page(self) -> bytes:
        """The metrics' exposition."""
        return self._metrics.page()

    async def _retire_events(self) -> None:
        """Remove what the search index keeps of days that are over for the log as well, until cancelled."""
        while True:
            try:
                await self._index.retire(before=self._clock.now() - self._settings.retention.events_days * DAY_S)
            except Fault as error:
                self._log.warning("events_not_retired", reason=error.text)
            await self._clock.sleep(RETIRE_S)

    def _tell_repairs(self, report: RecoveryReport) -> None:
        """Say what was mended in a shard that a predecessor let go only after this worker had started."""
        for repair in report.repairs:
            self._log.warning("store_repaired", what=f"shard {report.shard}: {repair}")

    async def _build_stores(self) -> None:
        data, clock, lanes = self._data, self._clock, self._lanes
        engine = self._engine = await open_engine(
            self._settings,
            data=data,
            who=self._who,
            lanes=lanes,
            clock=clock,
            dice=self._dice,
            ids=self._ids,
            taken=self._tell_repairs,
        )
        self._store, self._identity, self._directory = engine.store, engine.identity, engine.directory
        self._coordinator, self._ownership = engine.coordinator, engine.ownership
        name = f"{self._who.me.slot}@{self._who.me.node}"
        self._shares = Shares(engine.quota, name=name, clock=clock, ids=self._ids, log=self._log)
        self._rates = Rates(engine.buckets, clock=clock, workers=engine.workers, log=self._log)
        moving = self._settings.store.engine != "sqlite"
        self._index = SqliteEventIndex(data, disk=node_disk(data), lanes=lanes, clock=clock, moving=moving)
        self._consumer = IndexConsumer(self._store, self._index, clock)
        self._audit = LedgerAudit(self._store, clock)

    def _build_senders(self) -> None:
        self._keys = KeyRing(self._identity, self._clock)
        self._allowances = Allowances(self._identity, self._clock, take=self._rates.take, put_back=self._rates.put_back)
        self._passwords = Passwords(self._lanes.lane("passwords"))
        self._logins = Logins(self._identity, self._clock, self._ids, self._passwords)
        self._domains = DomainBook(self._directory, self._clock, self._seal)
        self._gate = Gate(self._store, message_octets_max=self._settings.http.message_octets_max)

    def _build_queue(self, names: EventIds) -> None:
        delivery = self._settings.delivery
        self._content = ContentCache(self._store, CONTENT_OCTETS_MAX)
        self._scheduler = Scheduler(self._store, self._clock, self._dice, content=self._content)
        self._intake = Intake(
            self._store,
            self._scheduler,
            self._clock,
            self._ids,
            event_ids=names,
            content=self._content,
            expiry_s=delivery.expire_s,
        )
        self._commands = Commands(self._store, self._scheduler, self._clock, names)
        self._event_ids = names

    def _build_egress(self) -> None:
        settings, clock = self._settings, self._clock
        self._resolver = resolver_of(settings, clock)
        self._dialer = TcpDialer()
        self._reach = Reach(settings.delivery.private_networks)
        self._standing = Interventions(clock)
        self._egress = egress_of(settings.egress, domain=self._domains.get, clock=clock, rebound=self._standing.rebound)
        self._lending = lending(
            self._egress,
            hostname=self._hostname,
            smarthost=smarthost_of(settings.delivery.route),
            resolver=self._resolver,
            reach=self._reach,
            clock=clock,
        )
        self._relays = Relays(self._lending, dialer=self._dialer, clock=clock)

    def _build_commanding(self) -> None:
        async def responsible(shard: int) -> bool:
            owner, me = await self._ownership.owner_of(shard), self._who.me
            return owner is not None and (owner.node, owner.slot) == (me.node, me.slot)

        async def owned(_argument: Any) -> Any:
            return self._lending.offers()

        mine = OwnShards(self._store.owned, log=self._store, index=self._index, clock=self._clock)
        events = event_handlers(Rebuild(self._store, self._index), mine)
        reasons = Why(self._store, self._scheduler, self._clock, waiting=self._holding)
        own = command_handlers(self._commands, reasons, self._store, self._clock, responsible=responsible)
        self._commanding = Commanding(
            {**own, **events, **of_itself(self._store, since=self._clock.now()), OWNED: owned},
            ownership=self._ownership,
            me=self._who.me,
            data=self._data,
            tls=self._cluster_tls,
            relays=self._relays,
            near=self._dialer,
            clock=self._clock,
        )
        self._events: Events = WholeNode(self._index)
        if self._settings.store.engine != "sqlite":
            ask = self._commanding.owners.ask_member
            self._events = Scattered(mine, me=self._who.me, ownership=self._ownership, ask=ask, clock=self._clock)

    def _holding(self, pending: Pending) -> Holding:
        return self._dispatcher.explaining.holding(pending)

    def _build_delivery(self) -> None:
        delivery, clock, dice = self._settings.delivery, self._clock, self._dice
        resolver, dialer = self._resolver, self._dialer
        smarthost = smarthost_of(delivery.route)
        self._tls_memory = TlsMemory(clock)
        book = rule_book(self._settings.rulebook.files)
        self._dispatcher = Dispatcher(
            ready=ReadyQueues(claim=self._scheduler.claim),
            content=self._content,
            scheduler=self._scheduler,
            store=self._store,
            router=SmarthostRouter(*smarthost) if smarthost else MxRouter(resolver, clock=clock, dice=dice, book=book),
            opener=opener_of(
                delivery,
                resolver=resolver,
                dialer=dialer,
                clock=clock,
                hostname=self._hostname,
                reach=self._reach,
                through=self._commanding.through,
                memory=self._tls_memory,
            ),
            policies=NO_POLICIES if smarthost else policies_of(delivery, resolver=resolver),
            settlement=self._settlement(),
            signers=self._domains.signers,
            domain=self._domains.get,
            render=render,
            clock=clock,
            dice=dice,
            log=self._log,
            limits=DeliveryLimits(
                connections_per_path=delivery.connections_per_site_max,
                connections_max=delivery.connections_max,
                messages_per_connection=delivery.messages_per_connection_max,
            ),
            shares=self._shares.share,
            egress=self._egress,
            interventions=self._standing,
            node=self._who.me.node,
            book=book,
        )
        self._scheduler.dispatch = self._dispatcher.dispatch
        self._interventions = InterventionBook(self._directory, clock, self._dispatcher.intervene)
        self._addresses = ownership(
            self._settings,
            self._egress,
            node=node_name(self._settings),
            coordinator=self._coordinator,
            clock=clock,
            dice=dice,
            dialer=dialer,
            changed=self._dispatcher.review_egress,
            log=self._log,
        )

        self._borrowing = borrowing(
            self._settings,
            self._egress,
            owners=self._commanding.owners,
            clock=clock,
            dice=dice,
            changed=self._dispatcher.review_egress,
            log=self._log,
        )

    def _settlement(self) -> Callable[[Pending, Message, Outcome, float], Settle]:
        """``queue.settlement.settle`` with all but the attempt filled in, counted."""
        delivery = self._settings.delivery
        tally, dice, names = self._tally, self._dice, self._event_ids
        schedule = RetrySchedule(
            first_pause_s=delivery.retry_base_s,
            pause_s_max=delivery.retry_cap_s,
            expiry_s=delivery.expire_s,
            in_doubt_s=delivery.in_doubt_delay_s,
        )

        def settlement(pending: Pending, message: Message, outcome: Outcome, now: float) -> Settle:
            tally.attempted(outcome)
            return settle(pending, message, outcome, now=now, dice=dice, schedule=schedule, ids=names)

        return settlement

    def _build_doors(self, search: EventSearch) -> None:
        store, clock, ids = self._store, self._clock, self._ids
        self._smtp = SmtpDoor(
            smtp_config(self._settings, self._hostname, dev=self._dev),
            intake=Counted(self._intake, self._tally, "smtp", self._allowances),
            login=self._logins.by_password,
            domains=self._domains.get,
            spool=store.spool,
            clock=clock,
            ids=ids,
            reason_to_shed=store.reason_to_shed,
            tls=self._context,
        )
        web = Counted(self._intake, self._tally, "http", self._allowances)
        self._http = HttpDoor(
            keys=self._keys,
            domains=self._domains,
            accept=web.accept,
            reject=web.reject,
            store=store,
            bodies=store,
            coordinator=self._coordinator,
            clock=clock,
            ids=ids,
            gate=self._gate,
            hostname=self._hostname,
            extra_routes=[
                *events.routes(search),
                *self._account_routes(),
                *why.routes(store, search, ask=asking_why(self._commanding.owners)),
            ],
        )

    def _account_routes(self) -> list[Route]:
        """Domains and logins over HTTP."""
        accounts = self.accounts()
        registry, register = accounts.registry, accounts.register
        return [
            *domains.routes(
                book=self._domains,
                registry=registry,
                register=register,
                clock=self._clock,
                hostname=self._hostname,
                addresses=addresses_of(self._settings.egress),
            ),
            *credentials.routes(registry=registry, register=register),
        ]

    def _doors(self, http: Any) -> Doors:
        doors = Doors(http=http, smtp=self._smtp, context=self._context, settings=self._settings, log=self._log)
        store, smtp, gate = self._store, self._smtp, self._gate
        self._metrics = Metrics(
            self._tally,
            {
                "pigeonry_queue_recipients": lambda: [((), self._scheduler.in_memory)],
                "pigeonry_content_octets": lambda: [((), self._content.octets)],
                "pigeonry_delivery_connections": lambda: [((), self._dispatcher.connections)],
                "pigeonry_tls_broken_hosts": lambda: broken_hosts(self._tls_memory),
                "pigeonry_quota_units": lambda: [(("held",), self._shares.units), (("used",), self._shares.used)],
                "pigeonry_quota_shrunk": lambda: [((), float(self._shares.shrunk))],
                "pigeonry_rates_safe": lambda: [((), float(self._rates.failing))],
                "pigeonry_account_limit_refused_total": lambda: [((), self._allowances.refused)],
                **egress_gauges(self._egress, self._addresses),
                "pigeonry_door_connections": lambda: [
                    (("http",), doors.web_connections),
                    (("smtp",), len(smtp.connections)),
                ],
                "pigeonry_proxy_headers_refused_total": doors.headers_refused.items,
                "pigeonry_bodies_in_flight_octets": lambda: [((), gate.in_flight_octets + smtp.octets_in_flight)],
                "pigeonry_shedding": lambda: [((), float(store.reason_to_shed() is not None))],
                "pigeonry_ledger_difference": lambda: [((), self._audit.difference)],
                "pigeonry_event_gaps_total": lambda: [((), self._audit.gaps)],
                "pigeonry_index_lag_events": lambda: [((), self._consumer.lag())],
                **self._commanding.samples(),
                "pigeonry_log_head": lambda: [((), sum(map(store.head, store.shards())))],
            },
        )
        return doors
