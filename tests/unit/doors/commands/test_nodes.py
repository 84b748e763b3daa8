"""Commands between nodes: who is let in, what is refused and what it costs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pigeonry.app.cluster_tls import ClusterTls
from pigeonry.domain.errors import (
    BadRequest,
    Conflict,
    NotAllowed,
    NotFound,
    Overloaded,
    OwnerUnreachable,
    StoreBusy,
    TooLarge,
)
from pigeonry.doors.commands.answering import by_name
from pigeonry.doors.commands.client import NobodyListens
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame
from pigeonry.doors.commands.node_door import DoorLimits
from pigeonry.doors.commands.peers import PeerLimits, Peers
from pigeonry.doors.commands.wire import Command, encode_command
from support.clusters import ask, called, calling, certificates, double, holds, raw, shown
from support.loops import on_both_loops


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("good"), "a", "b", "c", "*.x.test", "d.x.test")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("foreign"), "a", "b")


@pytest.fixture(scope="module")
def expired(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same authority's, over since yesterday."""
    folder = tmp_path_factory.mktemp("expired")
    for name in ("ca.crt", "ca.key"):
        (folder / name).write_bytes((good / name).read_bytes())
    return certificates(folder, "a", "b", age_days=3, days=2)


@on_both_loops
async def test_a_member_is_answered_and_its_connection_is_used_again(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        peers = calling(shown(good, "b"))
        assert [await ask(peers, node.member(), argument=n) for n in range(5)] == [0, 2, 4, 6, 8]
        with pytest.raises(NotFound):
            await ask(peers, node.member(), "nothing")
        assert await ask(peers, node.member(), argument="x") == "xx"
        assert node.door.connections == 1
        assert node.door.refused.total() == 0
        peers.close()


@on_both_loops
async def test_who_calls_trusts_no_other_authority_and_no_other_name(good: Path, foreign: Path, expired: Path) -> None:
    for tls, meant in ((shown(foreign, "a"), "a"), (shown(expired, "a", ca=good), "a"), (shown(good, "a"), "c")):
        async with called(tls, "b") as node:
            peers = calling(shown(good, "b"))
            with pytest.raises(NobodyListens) as caught:
                await ask(peers, node.member(meant))
            assert caught.value.retry_after_s
            assert node.door.connections == 0


@on_both_loops
async def test_a_wildcard_stands_for_no_node(good: Path) -> None:
    async with called(shown(good, "*.x.test"), "b", "d.x.test") as node:
        with pytest.raises(NobodyListens):
            await ask(calling(shown(good, "b")), node.member("d.x.test"))
    async with called(shown(good, "a"), "d.x.test", "*.x.test") as node:
        with pytest.raises(NobodyListens):
            await ask(calling(shown(good, "*.x.test")), node.member())
        assert await node.refusals() == {"peer": 1}


@on_both_loops
async def test_who_is_called_lets_in_no_other_authority_and_none_that_is_over(
    good: Path, foreign: Path, expired: Path
) -> None:
    async with called(shown(good, "a"), "a", "b") as node:
        for turn, tls in enumerate((shown(foreign, "b", ca=good), shown(expired, "b", ca=good)), 1):
            with pytest.raises(NobodyListens):
                await ask(calling(tls), node.member())
            assert await node.refusals(turn) == {"handshake": turn}
        assert node.door.connections == 0


@on_both_loops
async def test_a_certificate_that_names_no_member_is_refused_with_a_reason(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        with pytest.raises(NobodyListens) as caught:
            await ask(calling(shown(good, "c")), node.member())
        assert "names no member of the cluster, but c" in str(caught.value.__cause__)
        assert await node.refusals() == {"peer": 1}
        async with raw(node.port, shown(good, "c")) as peer:
            peer.say(frame(encode_command(Command("double", 1))))
            with pytest.raises(NotAllowed):
                await peer.hear()
            assert await peer.hear() is None


@on_both_loops
async def test_no_certificate_is_refused(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        context = ssl.create_default_context(cafile=str(good / "ca.crt"))
        context.set_alpn_protocols(["pigeonry-commands/1"])
        await refused_without_a_word(node.port, context)
        assert await node.refusals() == {"handshake": 1}


async def refused_without_a_word(port: int, context: ssl.SSLContext) -> None:
    """A peer hears nothing but that it is refused."""
    try:
        async with asyncio.timeout(10.0):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="a", ssl_shutdown_timeout=0.1
            )
            writer.write(frame(encode_command(Command("double", 1))))
            heard = await reader.read()
            writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        heard = b""
    assert heard == b""


@on_both_loops
async def test_tls_older_than_1_3_is_not_spoken(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        context = shown(good, "b").calling()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        await refused_without_a_word(node.port, context)
        assert await node.refusals() == {"handshake": 1}


@on_both_loops
async def test_plain_text_is_refused(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(frame(encode_command(Command("double", 1))) + b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10.0):
            heard = await reader.read()
        assert b"double" not in heard
        assert len(heard) <= 7  # at most the alert that says why
        writer.close()
        assert await node.refusals() == {"handshake": 1}


@on_both_loops
async def test_a_release_that_speaks_no_version_of_ours_is_told_so(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node:
        with pytest.raises(NobodyListens) as caught:
            await ask(calling(shown(good, "b", versions=["pigeonry-commands/99"])), node.member())
        assert "here it is pigeonry-commands/1" in str(caught.value.__cause__)


@on_both_loops
async def test_of_the_versions_that_both_speak_the_newest_is_spoken(good: Path) -> None:
    newer = shown(good, "b", versions=["pigeonry-commands/2", "pigeonry-commands/1"])
    async with called(shown(good, "a"), "b") as node:
        assert await ask(calling(newer), node.member()) == 42
    async with called(newer, "a") as node:
        assert await ask(calling(shown(good, "a")), node.member("b")) == 42


@on_both_loops
async def test_a_silent_peer_gives_way_to_one_that_is_quick_and_has_little_time_anyway(good: Path) -> None:
    limits = DoorLimits(handshakes_max=4, handshake_s=0.5)
    async with called(shown(good, "a"), "b", limits=limits) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
        assert await ask(calling(shown(good, "b")), node.member()) == 42
        refused = await node.refusals(20)
        assert refused["slow"] + refused["handshake"] == 20
        assert refused["slow"] >= 16
        assert not node.door._shaking
        for one in silent:
            one.close()


@on_both_loops
async def test_of_too_many_handshakes_those_that_last_longest_give_way(good: Path) -> None:
    limits = DoorLimits(handshakes_max=4, handshake_s=30.0)
    async with called(shown(good, "a"), "b", limits=limits) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
        assert await node.refusals(16) == {"slow": 16}
        for turn, one in enumerate(silent):
            one.setblocking(False)
            if turn < 16:
                await holds(lambda one=one: is_over(one))
            else:
                assert not is_over(one)
            one.close()


def is_over(one: socket.socket) -> bool:
    """Whether the other side closed a connection on which it said nothing."""
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False


@on_both_loops
async def test_connections_of_members_are_bounded(good: Path) -> None:
    async with called(shown(good, "a"), "b", "c", limits=DoorLimits(connections_max=1)) as node:
        first = calling(shown(good, "b"))
        assert await ask(first, node.member()) == 42
        with pytest.raises(NobodyListens) as caught:
            await ask(calling(shown(good, "c")), node.member())
        assert "Too many connections" in str(caught.value.__cause__)
        assert await ask(first, node.member()) == 42


@on_both_loops
async def test_a_frame_announced_too_large_is_refused_before_it_is_read(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node, raw(node.port, shown(good, "b")) as peer:
        assert "release" in await peer.hear()
        peer.say((REQUEST_OCTETS_MAX + 1).to_bytes(4, "big"))
        with pytest.raises(TooLarge):
            await peer.hear()
        assert await peer.hear() is None
        with pytest.raises(TooLarge):
            await ask(calling(shown(good, "b")), node.member(), argument=bytes(REQUEST_OCTETS_MAX))


@on_both_loops
async def test_a_peer_that_is_cut_in_mid_frame_leaves_nothing_behind(good: Path) -> None:
    done: list[Any] = []

    async def note(argument: Any) -> None:
        done.append(argument)

    async with called(shown(good, "a"), "b", act=by_name({"note": note})) as node:
        async with raw(node.port, shown(good, "b")) as peer:
            await peer.hear()
            peer.say(frame(encode_command(Command("note", "x")))[:-1])
            await peer.writer.drain()
        await holds(lambda: not node.door.connections)
        assert done == []


@on_both_loops
async def test_a_peer_that_begins_a_frame_and_is_slow_is_cut_and_a_quiet_one_is_let_go(good: Path) -> None:
    slow, quiet = DoorLimits(frame_s=0.1), DoorLimits(idle_s=0.1)
    async with called(shown(good, "a"), "b", limits=slow) as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        peer.say((100).to_bytes(4, "big") + b"x")
        await holds(lambda: not node.door.connections)
    async with called(shown(good, "a"), "b", limits=quiet) as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        assert await peer.hear() is None
        await holds(lambda: not node.door.connections)


@on_both_loops
async def test_octets_that_are_no_command_are_answered_and_the_next_command_too(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        for octets in (b"", b"\xc1", b"\x91" * REQUEST_OCTETS_MAX):
            peer.say(frame(octets))
            with pytest.raises(BadRequest):
                await peer.hear()
        assert await peer.ask("double", 2) == 4


@on_both_loops
async def test_what_the_owner_refuses_with_comes_back_as_what_it_was(good: Path) -> None:
    async def refuse(_argument: Any) -> Any:
        raise Conflict("Another change came first.", retry_after_s=3.0)

    async with called(shown(good, "a"), "b", act=by_name({"refuse": refuse})) as node:
        with pytest.raises(Conflict) as caught:
            await ask(calling(shown(good, "b")), node.member(), "refuse")
        assert caught.value.retry_after_s == 3.0


@on_both_loops
async def test_an_owner_that_takes_too_long_is_unreachable_and_its_connection_is_not_used_again(good: Path) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(argument: Any) -> Any:
        begun.set()
        await go.wait()
        return argument

    async with called(shown(good, "a"), "b", act=by_name({"wait": wait, "double": double})) as node:
        peers = calling(shown(good, "b"))
        with pytest.raises(OwnerUnreachable) as caught:
            await ask(peers, node.member(), "wait", timeout_s=0.3)
        assert not isinstance(caught.value, NobodyListens)
        assert begun.is_set()
        go.set()
        assert await ask(peers, node.member()) == 42


@on_both_loops
async def test_commands_to_one_node_are_bounded(good: Path) -> None:
    running, go = [0, 0], asyncio.Event()

    async def wait(argument: Any) -> Any:
        running[0] += 1
        running[1] = max(running)
        await go.wait()
        running[0] -= 1
        return argument

    async with called(shown(good, "a"), "b", act=by_name({"wait": wait})) as node:
        peers = calling(shown(good, "b"), PeerLimits(connections_max=2, waiting_max=3))
        asked = [asyncio.ensure_future(ask(peers, node.member(), "wait", n)) for n in range(7)]
        await holds(lambda: running[0] == 2 and sum(task.done() for task in asked) == 2)
        go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers[:5] == [0, 1, 2, 3, 4]
        assert all(isinstance(answer, Overloaded) for answer in answers[5:])
        assert running == [0, 2]


@on_both_loops
async def test_a_node_that_was_away_is_reached_again(good: Path) -> None:
    peers = calling(shown(good, "b"))
    async with called(shown(good, "a"), "b") as node:
        member = node.member()
        assert await ask(peers, member) == 42
    (kept,) = peers._nodes["a"].idle
    await holds(kept.has_ended)
    with pytest.raises(NobodyListens):  # nothing is asked on what has ended
        await ask(peers, member)
    async with called(shown(good, "a"), "b") as node:
        assert await ask(peers, node.member()) == 42


@on_both_loops
async def test_a_node_that_is_a_member_no_more_is_let_go_before_its_next_command(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        assert await peer.ask("double", 1) == 2
        node.members.clear()
        assert await peer.ask("double", 1) in (2, None)  # it was waited for already
        assert await peer.hear() is None


@on_both_loops
async def test_where_it_cannot_be_found_out_who_is_a_member_nobody_is_let_in(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        node.trouble = StoreBusy("The members cannot be read.", retry_after_s=1.0)
        assert await peer.ask("double", 1) in (2, None)
        await holds(lambda: not node.door.connections)
        with pytest.raises(NobodyListens) as caught:
            await ask(calling(shown(good, "b")), node.member())
        assert "The members cannot be read." in str(caught.value.__cause__)
        node.trouble = None
        assert await ask(calling(shown(good, "b")), node.member()) == 42


@on_both_loops
async def test_certificates_that_changed_are_shown_and_asked_for_at_once(good: Path, tmp_path: Path) -> None:
    for name in ("a.crt", "a.key", "b.crt", "b.key", "ca.crt", "ca.key"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    async with called(shown(tmp_path, "a"), "b") as node:
        tls = shown(tmp_path, "b")
        peers = calling(tls)
        assert await ask(peers, node.member()) == 42
        stands = calling(shown(good, "b"))
        assert await ask(stands, node.member()) == 42
        anew(tmp_path)
        for reloaded in (node.tls, tls):
            reloaded.reload()
        node.door.renew()
        peers.renew()
        assert await ask(peers, node.member()) == 42
        await holds(lambda: node.door.connections == 1)
        with pytest.raises(OwnerUnreachable):
            await ask(stands, node.member())
        (tmp_path / "a.key").write_text("no key")
        with pytest.raises(OSError):
            node.tls.reload()
        assert await ask(calling(tls), node.member()) == 42


@on_both_loops
async def test_a_command_under_way_is_answered_while_certificates_change_and_its_connection_is_the_last_of_its_kind(
    good: Path,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(argument: Any) -> Any:
        begun.set()
        await go.wait()
        return argument

    async def begin(peers: Peers) -> asyncio.Future[Any]:
        begun.clear()
        go.clear()
        asked = asyncio.ensure_future(ask(peers, node.member(), "wait", "x"))
        await begun.wait()
        return asked

    async with called(shown(good, "a"), "b", act=by_name({"wait": wait})) as node:
        peers = calling(shown(good, "b"))
        for renew in (node.door.renew, peers.renew):
            asked = await begin(peers)
            renew()
            go.set()
            assert await asked == "x"
            await holds(lambda: not node.door.connections)


def anew(folder: Path) -> None:
    """Another authority, and other keys for all."""
    for path in folder.iterdir():
        path.unlink()
    certificates(folder, "a", "b")


async def test_a_server_that_resumes_sessions_would_look_at_no_certificate(good: Path) -> None:
    assert shown(good, "a").called().num_tickets == 0


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        ("ca.crt", Path.unlink),
        ("b.key", lambda path: path.write_text("x")),
        ("b.crt", lambda path: path.write_text("")),
    ],
)
def test_files_that_are_of_no_use_are_refused(
    good: Path, tmp_path: Path, broken: str, change: Callable[[Path], Any]
) -> None:
    for name in ("b.crt", "b.key", "ca.crt"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    change(tmp_path / broken)
    with pytest.raises(OSError):
        ClusterTls(str(tmp_path / "ca.crt"), str(tmp_path / "b.crt"), str(tmp_path / "b.key"))
