"""The session against real nodes: what comes back, what is refused, what is in doubt."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra import session as module
from pigeonry.stores.cassandra.session import CassandraSettings, CassandraTls, Consistency, QueryRefused, Session
from pigeonry.testing.cassandra import Cluster
from support.cassandra import blocking, cassandra_parts, make_keyspace, ring

TABLES = (
    "CREATE TABLE kinds (k int PRIMARY KEY, i int, b bigint, o blob, t text, d double, u uuid, y boolean, n tinyint)",
    "CREATE TABLE line (k int, n int, v blob, PRIMARY KEY (k, n))",
    "CREATE TABLE lease (k int PRIMARY KEY, owner text, epoch int)",
)
UUID_ = UUID("12345678-1234-5678-1234-567812345678")
_keys = itertools.count(1)


@pytest.fixture(scope="module")
def shared(cassandra: Cluster) -> CassandraSettings:
    return _settings(cassandra, blocking(make_keyspace(cassandra, "session_test", *TABLES)))


@pytest.fixture
async def session(shared: CassandraSettings) -> AsyncIterator[Session]:
    async with _opened(shared) as made:
        yield made


@pytest.fixture
def key() -> int:
    return next(_keys)


def _settings(cluster: Cluster, name: str) -> CassandraSettings:
    location = cluster.nodes[0].seat.location
    return CassandraSettings(contact_points=cluster.contact_points(location), local_datacenter=location, keyspace=name)


@asynccontextmanager
async def _opened(settings: CassandraSettings) -> AsyncIterator[Session]:
    made = await Session.open(settings, SystemClock())
    try:
        yield made
    finally:
        await made.close()


INSERT = "INSERT INTO kinds (k, i, b, o, t, d, u, y, n) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT = "SELECT i, b, o, t, d, u, y, n FROM kinds WHERE k = ?"


@pytest.mark.parametrize(
    "values",
    [
        (1, 2, b"\x00\xff", "grüße", 0.1, UUID_, True, 3),
        (-(2**31), -(2**63), b"", "", -1e300, UUID_, False, -128),
        (2**31 - 1, 2**63 - 1, bytes(100_000), "a\x00b", 1234567890.123456, UUID_, True, 127),
        (None, None, None, None, None, None, None, None),
    ],
)
async def test_values_come_back_as_they_were_and_null_as_none(session: Session, key: int, values: tuple) -> None:
    await session.execute(INSERT, (key, *values), timeout_s=5.0)
    read = tuple(str(value) if isinstance(value, UUID) else value for value in values)
    assert await session.execute(SELECT, (key,), timeout_s=5.0) == [read]


async def test_what_is_not_there_is_no_row(session: Session, key: int) -> None:
    assert await session.execute(SELECT, (key,), timeout_s=5.0) == []


async def test_a_batch_and_pages(session: Session, key: int) -> None:
    insert = "INSERT INTO line (k, n, v) VALUES (?, ?, ?)"
    await session.batch([(insert, (key, n, bytes(1000))) for n in range(50)], timeout_s=5.0)
    read = "SELECT n FROM line WHERE k = ?"
    pages = [page async for page in session.pages(read, (key,), timeout_s=5.0, page_rows=20)]
    assert [len(page) for page in pages] == [20, 20, 10]
    assert [n for page in pages for (n,) in page] == list(range(50))
    assert [page async for page in session.pages(read, (-key,), timeout_s=5.0, page_rows=20)] == []
    assert len(await session.execute(read, (key,), timeout_s=5.0)) == 50


async def test_a_condition_says_whether_it_applied_and_what_is_there_else(session: Session, key: int) -> None:
    insert = "INSERT INTO lease (k, owner, epoch) VALUES (?, ?, ?) IF NOT EXISTS"
    assert await session.conditional(insert, (key, "a", 1), timeout_s=5.0) == (True, {})
    assert await session.conditional(insert, (key, "b", 1), timeout_s=5.0) == (
        False,
        {"k": key, "owner": "a", "epoch": 1},
    )
    update = "UPDATE lease SET owner = ?, epoch = ? WHERE k = ? IF epoch = ?"
    serial = Consistency.LOCAL_SERIAL
    assert await session.conditional(update, ("b", 3, key, 2), timeout_s=5.0, serial=serial) == (False, {"epoch": 1})
    assert await session.conditional(update, ("b", 2, key, 1), timeout_s=5.0, serial=serial) == (True, {})
    read = "SELECT owner, epoch FROM lease WHERE k = ?"
    assert await session.execute(read, (key,), timeout_s=5.0, consistency=Consistency.SERIAL) == [("b", 2)]


@pytest.mark.parametrize(
    ("cql", "values"),
    [
        ("SELECT nothing FROM nowhere", ()),
        ("SELEC", ()),
        (SELECT, ("text",)),
        (SELECT, (2**31,)),
        (SELECT, (object(),)),
        (SELECT, ()),
        (SELECT, (1, 2)),
    ],
)
async def test_a_wrong_statement_is_refused_and_says_so(session: Session, cql: str, values: tuple) -> None:
    with pytest.raises(QueryRefused):
        await session.execute(cql, values, timeout_s=5.0)
    assert await session.execute(SELECT, (-1,), timeout_s=5.0) == []


async def test_who_waits_for_a_place_is_refused_when_its_time_is_over(
    session: Session, key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = "INSERT INTO line (k, n, v) VALUES (?, ?, ?)"
    session._places = asyncio.Semaphore(2)
    writes = [session.execute(insert, (key, n, b""), timeout_s=5.0) for n in range(200)]
    assert await asyncio.gather(*writes) == [[]] * 200
    async with session._places, session._places:
        with pytest.raises(StoreBusy):
            await session.execute(insert, (key, 1000, b""), timeout_s=0.01)
        monkeypatch.setattr(module, "WAITING_MAX", 0)
        with pytest.raises(StoreBusy):
            await session.execute(insert, (key, 1000, b""), timeout_s=5.0)
    rows = await session.execute("SELECT n FROM line WHERE k = ?", (key,), timeout_s=5.0)
    assert len(rows) == 200


async def test_cancelled_requests_leave_the_session_whole(session: Session, key: int) -> None:
    insert = "INSERT INTO line (k, n, v) VALUES (?, ?, ?)"
    await session.execute(insert, (key, 0, b""), timeout_s=5.0)
    for _ in range(20):
        tasks = [asyncio.ensure_future(session.execute(insert, (key, n, b"x"), timeout_s=5.0)) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert session.circuit.under_way == 0
    assert await session.execute("SELECT k FROM line WHERE k = ? AND n = 0", (key,), timeout_s=5.0) == [(key,)]


async def test_close_while_requests_fly(shared: CassandraSettings, key: int) -> None:
    insert = "INSERT INTO line (k, n, v) VALUES (?, ?, ?)"
    for _ in range(5):
        session = await Session.open(shared, SystemClock())
        await session.execute(insert, (key, 0, b""), timeout_s=5.0)
        flying = [asyncio.ensure_future(session.execute(insert, (key, n, b"x"), timeout_s=5.0)) for n in range(1000)]
        await asyncio.sleep(0)
        await session.close()
        ended = await asyncio.gather(*flying, return_exceptions=True)
        assert {type(one) for one in ended} <= {list, StoreBusy, StoreInDoubt}
        with pytest.raises(StoreBusy):
            await session.execute(insert, (key, 0, b""), timeout_s=5.0)
        await session.close()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_works_on_either_loop_one_after_the_other(shared: CassandraSettings, make_loop: Callable) -> None:
    async def story() -> list:
        async with _opened(shared) as session:
            return await session.execute("SELECT key FROM system.local", timeout_s=5.0)

    for _ in range(2):
        loop = make_loop()
        try:
            assert loop.run_until_complete(story()) == [("local",)]
        finally:
            loop.close()


async def test_nobody_there_is_busy() -> None:
    with pytest.raises(StoreBusy):
        await Session.open(
            CassandraSettings(contact_points=("127.0.0.1:19999",), local_datacenter="dc1"), SystemClock()
        )


async def test_a_frozen_store_is_refused_at_once_and_used_again_when_it_thaws(tmp_path: Path) -> None:
    async with ring(tmp_path, {"dc1": 1}) as cluster:
        settings = _settings(cluster, await make_keyspace(cluster, "frozen", *TABLES))
        async with _opened(settings) as session:
            insert = "INSERT INTO line (k, n, v) VALUES (1, ?, ?)"
            await session.execute(insert, (0, b""), timeout_s=5.0)
            cluster.nodes[0].pause()
            flying = [asyncio.ensure_future(session.execute(insert, (n, b""), timeout_s=2.0)) for n in range(20)]
            await _until(lambda: session.circuit.is_open)
            with pytest.raises(StoreBusy):  # refused, not sent: this one is no doubt
                await session.execute(insert, (1000, b""), timeout_s=30.0)
            ended = await asyncio.gather(*flying, return_exceptions=True)
            assert {type(one) for one in ended} == {StoreInDoubt}
            with pytest.raises(StoreBusy):
                await session.execute("SELECT n FROM line WHERE k = 1", timeout_s=30.0)
            cluster.nodes[0].resume()
            await _until(lambda: not session.circuit.is_open)
            await session.execute(insert, (2000, b""), timeout_s=5.0)
            kept = {n for (n,) in await session.execute("SELECT n FROM line WHERE k = 1", timeout_s=5.0)}
            assert {0, 2000} <= kept
            assert 1000 not in kept
            cluster.nodes[0].kill()
            # However long it is away it is asked for as often: who waited twice as long each time would have come
            # ten times by two connections only after a quarter of an hour.
            callers = 0

            def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal callers
                callers += 1
                writer.transport.abort()

            host, port = cluster.nodes[0].address.rsplit(":")
            async with await asyncio.start_server(hang_up, host, int(port)):
                await _until(lambda: callers >= 20)


async def test_three_nodes_serve_while_one_is_frozen_or_dead_and_refuse_without_a_quorum(tmp_path: Path) -> None:
    patient = {"write_request_timeout": "20s", "cas_contention_timeout": "20s"}  # on a machine that has others' work
    async with ring(tmp_path, {"dc1": 3}, settings=patient) as cluster:
        name = await make_keyspace(cluster, "three", *TABLES)
        first, second, third = cluster.nodes
        probe = CassandraSettings(
            contact_points=cluster.contact_points(),
            local_datacenter="dc1",
            keyspace=name,
            probe=f"SELECT k FROM {name}.word WHERE k = ?",
            probe_consistency=Consistency.LOCAL_QUORUM,
        )
        await first.rows(f"CREATE TABLE {name}.word (k text PRIMARY KEY)")
        await cluster.agreed()
        async with _opened(probe) as session:
            insert = "INSERT INTO line (k, n, v) VALUES (?, 0, ?)"
            lease = "UPDATE lease SET epoch = 1 WHERE k = ? IF epoch = null"

            async def write(count: int, base: int) -> None:
                await asyncio.gather(*(session.execute(insert, (base + n, b""), timeout_s=20.0) for n in range(count)))

            await write(100, 0)
            first.pause()
            await write(100, 100)
            assert not session.circuit.is_open
            first.resume()
            second.kill()
            await write(100, 200)
            third.pause()
            with pytest.raises((StoreBusy, StoreInDoubt)):
                await session.execute(insert, (-1, b""), timeout_s=1.0)
            await _until(lambda: session.circuit.is_open)
            with pytest.raises(StoreBusy):
                await session.conditional(lease, (1,), timeout_s=5.0)
            third.resume()
            await _until(lambda: not session.circuit.is_open)
            await write(100, 300)
            assert (await session.conditional(lease, (1,), timeout_s=20.0))[0]


async def test_it_speaks_tls_with_a_password_to_nodes_that_are_who_they_say(tmp_path: Path) -> None:
    (authority, key), (other, _) = (_certificate(None) for _ in range(2))
    (tmp_path / "authority.pem").write_bytes(authority)
    encrypted: dict[str, object] = {}
    secured = {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "client_encryption_options": encrypted,
    }
    cluster = Cluster(tmp_path, cassandra_parts(), {"dc1": 1}, clock=SystemClock(), settings=secured)
    (node,) = cluster.nodes
    certificate, private = _certificate((authority, key), node.seat.address)
    encrypted |= {
        "enabled": True,
        "require_client_auth": False,
        "ssl_context_factory": {
            "class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory",
            "parameters": {"private_key": (private + certificate + authority).decode()},
        },
    }
    settings = CassandraSettings(
        contact_points=(node.address,),
        local_datacenter="dc1",
        username="cassandra",
        password="cassandra",
        tls=CassandraTls(authorities=authority.decode()),
    )
    try:
        node.spawn()
        async with _opened_in_time(settings) as session:
            assert await session.execute("SELECT key FROM system.local", timeout_s=10.0) == [("local",)]
            await session.define("CREATE ROLE reader WITH PASSWORD = 'r' AND LOGIN = true", timeout_s=30.0)
        for wrong in (
            msgspec.structs.replace(settings, password="wrong"),
            msgspec.structs.replace(settings, tls=None),
            msgspec.structs.replace(settings, tls=CassandraTls(authorities=other.decode())),
        ):
            with pytest.raises(StoreBusy):
                await Session.open(wrong, SystemClock())
        async with _opened(msgspec.structs.replace(settings, username="reader", password="r")) as session:
            with pytest.raises(QueryRefused, match="reader does not have"):
                await session.define("CREATE ROLE another", timeout_s=10.0)
    finally:
        cluster.stop()


@asynccontextmanager
async def _opened_in_time(settings: CassandraSettings) -> AsyncIterator[Session]:
    """As ``_opened``, when the node has made its first role."""
    async with asyncio.timeout(120.0):
        while True:
            try:
                session = await Session.open(settings, SystemClock())
            except StoreBusy:
                await asyncio.sleep(0.1)
            else:
                break
    yield session
    await session.close()


def _certificate(authority: tuple[bytes, bytes] | None, address: str = "") -> tuple[bytes, bytes]:
    """A certificate and its key, signed by an authority for an address, or an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address or "authority")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    signer = key
    if authority is None:
        made = made.issuer_name(name)
    else:
        made = made.issuer_name(x509.load_pem_x509_certificate(authority[0]).subject)
        made = made.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        signer = serialization.load_pem_private_key(authority[1], None)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private


async def _until(condition: Callable[[], bool]) -> None:
    """Wait without a look at the clock: the test's own time is what bounds it."""
    async with asyncio.timeout(60.0):
        while not condition():  # noqa: ASYNC110  # the condition is the driver's, which sets no event
            await asyncio.sleep(0.01)
