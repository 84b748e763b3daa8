"""How a process reaches the store of its cluster: settings to a session, and to the parts of a worker."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pigeonry.app.config import ConfigInvalid
from pigeonry.app.engine import Engine
from pigeonry.domain.errors import StoreBusy
from pigeonry.net.environment import BootClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pigeonry.app.engine import Who
    from pigeonry.app.settings import CassandraSettings as Section
    from pigeonry.app.settings import Settings
    from pigeonry.ports.documents import Directory, Identity
    from pigeonry.ports.environment import Clock, Dice, IdSource
    from pigeonry.ports.queue_store import RecoveryReport
    from pigeonry.stores.cassandra.locations import Locations, Operator
    from pigeonry.stores.cassandra.schema import Keyspaces
    from pigeonry.stores.cassandra.session import Session

__all__ = ["check_schema", "clustered", "keyspaces_of", "location_operator", "open_session", "shared_documents"]

DAY_S: Final = 86_400.0  # seconds of a day
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # the same for all processes whose monotonic clock is one
OWNERS_S: Final = 1.0  # seconds for which a worker believes what it read of who owns what


@contextlib.asynccontextmanager
async def shared_documents(
    settings: Settings, *, clock: Clock, dice: Dice, ids: IdSource
) -> AsyncIterator[tuple[Identity, Directory]]:
    """What all processes of a cluster share of who may do what, until the block ends.

    Raises:
        ConfigInvalid: The store of the cluster is not described.
        SchemaUnusable, NewerFormat: This release cannot work with what is there.
        StoreBusy: It does not answer.
    """
    leases = await _leases(settings, clock)
    try:
        _located(settings.cassandra, leases, clock)
        yield _documents(settings, leases, clock=clock, dice=dice, ids=ids)
    finally:
        await leases.close()


async def _leases(settings: Settings, clock: Clock) -> Session:
    """A session with the lease keyspace, whose schema this release can work with."""
    section = settings.cassandra
    try:
        session = await open_session(section, clock, keyspace=section.lease_keyspace)
    except StoreBusy:
        await check_schema(settings)  # says so when there is no such keyspace
        raise
    from pigeonry.stores.cassandra.schema import check

    try:
        await check(session, keyspaces_of(section))
    except BaseException:
        await session.close()
        raise
    return session


def _located(section: Section, session: Session, clock: Clock) -> Locations | None:
    """What tells where this location stands, and the session by it; None where the loss of any leaves a quorum."""
    from pigeonry.stores.cassandra.locations import Locations, needs_operator

    replication = keyspaces_of(section).lease_replication
    mine = section.local_datacenter
    if len(replication) < 2 or mine not in replication:
        return None
    if not any(needs_operator(replication, each) for each in replication):
        return None
    locations = Locations(session, keyspace=section.lease_keyspace, mine=mine, names=tuple(replication), clock=clock)
    session.reach = locations.consistency
    return locations


@contextlib.asynccontextmanager
async def location_operator(section: Section, clock: Clock) -> AsyncIterator[Operator]:
    """What an operator does to locations from this one, until the block ends.

    Raises:
        ConfigInvalid: The store of the cluster is not described.
        StoreBusy: It does not answer.
    """
    session = await open_session(section, clock)
    try:
        from pigeonry.stores.cassandra.limits import Limits
        from pigeonry.stores.cassandra.locations import Operator

        yield Operator(
            session,
            keyspace=section.lease_keyspace,
            mine=section.local_datacenter,
            replication=keyspaces_of(section).lease_replication,
            lease_s=Limits().lease_s,
            clock=clock,
        )
    finally:
        await session.close()


def _documents(
    settings: Settings, leases: Session, *, clock: Clock, dice: Dice, ids: IdSource
) -> tuple[Identity, Directory]:
    from pigeonry.stores.cassandra.documents import CassandraDocuments

    keyspace = settings.cassandra.lease_keyspace
    identity = CassandraDocuments(leases, keyspace=keyspace, name="identity", clock=clock, dice=dice, ids=ids)
    return identity, CassandraDocuments(leases, keyspace=keyspace, name="directory", clock=clock, dice=dice, ids=ids)


async def check_schema(settings: Settings) -> None:
    """See, before any worker is started, that this release can work with what is there.

    Raises:
        ConfigInvalid: The store of the cluster is not described.
        SchemaUnusable, NewerFormat: It cannot.
        StoreBusy: The store does not answer.
    """
    from pigeonry.stores.cassandra.schema import check

    session = await open_session(settings.cassandra, BootClock())
    try:
        await check(session, keyspaces_of(settings.cassandra))
    finally:
        await session.close()


async def clustered(
    settings: Settings,
    *,
    who: Who,
    clock: Clock,
    dice: Dice,
    ids: IdSource,
    taken: Callable[[RecoveryReport], None],
) -> Engine:
    """The parts of a worker in a cluster.

    Two sessions: renewing a lease must not wait behind what the queue writes.

    Args:
        taken: Told of each shard that is taken over later than at the opening.

    Raises:
        ConfigInvalid, SchemaUnusable, NewerFormat, StoreBusy: As ``shared_documents``.
    """
    leases = await _leases(settings, clock)
    from pigeonry.stores.cassandra.buckets import CassandraBuckets
    from pigeonry.stores.cassandra.coordinator import CassandraCoordinator
    from pigeonry.stores.cassandra.limits import Limits
    from pigeonry.stores.cassandra.membership import Membership
    from pigeonry.stores.cassandra.ownership import CassandraOwnership
    from pigeonry.stores.cassandra.queue_store import CassandraStore
    from pigeonry.stores.cassandra.quota import CassandraQuota
    from pigeonry.stores.cassandra.session import Consistency

    section = settings.cassandra
    identity, directory = _documents(settings, leases, clock=clock, dice=dice, ids=ids)
    session = await open_session(section, clock, keyspace=section.keyspace)
    limits = Limits(
        in_doubt_delay_s=settings.delivery.in_doubt_delay_s,
        retention_s=settings.retention.events_days * DAY_S + settings.delivery.expire_s + DAY_S,
    )
    membership = Membership(
        leases,
        worker=f"{who.me.node}/{who.me.slot}",
        location=who.me.location,
        address=who.me.address,
        ttl_s=limits.lease_s,
        clock=BootClock(),
        ids=ids,
        locations=_located(section, leases, BootClock()),
    )
    store = CassandraStore(
        session,
        leases=leases,
        membership=membership,
        clock=clock,
        shards=settings.node.shards,
        homes=tuple(section.replication) if len(section.replication) > 1 else (),
        limits=limits,
        writes=Consistency.EACH_QUORUM if section.durability == "remote-ack" else Consistency.LOCAL_QUORUM,
        taken=taken,
    )
    return Engine(
        store=store,
        identity=identity,
        directory=directory,
        coordinator=CassandraCoordinator(
            leases, keyspace=section.lease_keyspace, machine=BOOT_ID.read_text().strip(), clock=BootClock(), ids=ids
        ),
        quota=CassandraQuota(leases, keyspace=section.lease_keyspace, clock=BootClock(), ids=ids),
        buckets=CassandraBuckets(leases, keyspace=section.lease_keyspace, ids=ids),
        workers=lambda: len(membership.alive()),
        ownership=CassandraOwnership(membership, store.shares, clock=clock, fresh_s=OWNERS_S),
        leave=membership.drain,
        last=(session.close, leases.close),
    )


def keyspaces_of(section: Section) -> Keyspaces:
    """The keyspaces and where their rows stand.

    Raises:
        ConfigInvalid: The driver is not installed.
    """
    _check_installed()
    from pigeonry.stores.cassandra.schema import Keyspaces

    return Keyspaces(
        queue=section.keyspace,
        lease=section.lease_keyspace,
        queue_replication=section.replication,
        lease_replication=section.lease_replication or section.replication,
    )


async def open_session(section: Section, clock: Clock, *, keyspace: str = "") -> Session:
    """A session with the nodes of this location.

    Args:
        keyspace: What unqualified tables are in; it must be there, and the store counts as answering when a quorum of
            this location does. Without one everything is tried.

    Raises:
        ConfigInvalid: There are no contact points, or the driver is not installed.
        StoreBusy: No node answers, or none lets us in.
    """
    if not section.contact_points:
        raise ConfigInvalid(["cassandra.contact_points: is needed"])
    _check_installed()
    from pigeonry.stores.cassandra.schema import probe
    from pigeonry.stores.cassandra.session import CassandraSettings, CassandraTls, Consistency, Session

    tls = None
    if section.tls_ca:
        tls = CassandraTls(
            authorities=_text(section.tls_ca), certificate=_text(section.tls_cert), key=_text(section.tls_key)
        )
    settings = CassandraSettings(
        contact_points=section.contact_points,
        local_datacenter=section.local_datacenter,
        keyspace=keyspace,
        username=section.username,
        password=_text(section.password_file).rstrip("\r\n"),
        tls=tls,
        probe=probe(keyspaces_of(section)) if keyspace else "",
        probe_consistency=Consistency.LOCAL_QUORUM,
    )
    return await Session.open(settings, clock)


def _check_installed() -> None:
    try:
        import acsylla  # noqa: F401  # what the session speaks with
    except ImportError as error:
        raise ConfigInvalid(["the store of a cluster needs its driver: install pigeonry[cassandra]"]) from error


def _text(path: str) -> str:
    return Path(path).read_text() if path else ""
