"""How a process reaches the store of its cluster: settings to a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pigeonry.app.config import ConfigInvalid

if TYPE_CHECKING:
    from pigeonry.app.settings import CassandraSettings as Section
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.cassandra.schema import Keyspaces
    from pigeonry.stores.cassandra.session import Session

__all__ = ["keyspaces_of", "open_session"]


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
