"""Calls between those who trust each other, and the refusal of all others."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.auth.support import ALICE, BOB, SERVER, STRANGER, knowing, serving
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS, Streaming, texts
from tests.rpc.trusted import Trusted, all_of, failure
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.auth import CurveKeyPair, Identity
from txzmq.rpc import (
    Channel,
    Context,
    PermissionDenied,
    Server,
    Unauthenticated,
    Unavailable,
)
from txzmq.rpc.authorization import permissions
from txzmq.testing import MemoryNetwork

IS_ALICE = Identity("alice", ALICE.public_key, frozenset({"staff"}))


async def tell(requests: Any, context: Context) -> Any:
    """Reads what there is, and answers with who calls."""
    if hasattr(requests, "__aiter__"):
        async for _ in requests:
            pass
    yield text(str(context.identity))


async def tell_at_the_end(requests: Any, context: Context) -> Any:
    async for _ in requests:
        pass
    return text(str(context.identity))


class Telling(Streaming):
    """Each method answers with who calls."""

    def collect(self, request: Any, context: Context) -> Any:
        self.contexts.append(context)
        return tell_at_the_end(request, context)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_each_kind_of_call_knows_who_calls(one_loop: Loop, tmp_path: Path, transport: str) -> None:
    echo, streaming = Echo(), Telling(tell)
    world = Trusted(one_loop, [echo, streaming])
    address = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/socket"}[transport]

    async def main() -> None:
        for keys, name in ((ALICE, "alice"), (BOB, "bob")):
            channel = world.channel(keys)
            assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
            assert await all_of(channel.unary_stream(COUNT, text("1"))) == [name]
            assert (await channel.stream_unary(COLLECT, texts(2))).value == name
            assert await all_of(channel.stream_stream(CHAT, texts(2))) == [name]

    world.run(main, address)
    first, second = echo.contexts
    assert first.identity == IS_ALICE
    assert second.identity == Identity("bob", BOB.public_key)
    assert [str(context.identity) for context in streaming.contexts] == ["alice"] * 3 + ["bob"] * 3


def test_without_credentials_nobody_has_an_identity(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    echo = Echo()

    async def main() -> None:
        server = Server(factory, [echo])
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        await channel.unary_unary(ECHO, text("x"))
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
    assert [context.identity for context in echo.contexts] == [None]


@pytest.mark.parametrize(
    ("keys", "servers", "words"),
    [
        (STRANGER, (), "the server does not know this client's key"),
        (None, (), "the server asks for a key, and this client has no credentials"),
        (ALICE, (STRANGER,), "its key may be another than the server_keys"),
        (ALICE, (STRANGER, BOB), "its key may be another than the server_keys"),
    ],
    ids=["unknown key", "no key", "wrong server key", "two wrong server keys"],
)
def test_a_refusal_is_told_and_says_why(
    one_loop: Loop,
    logged: Logged,
    keys: CurveKeyPair | None,
    servers: tuple[CurveKeyPair, ...],
    words: str,
) -> None:
    echo = Echo()
    world = Trusted(one_loop, [echo])

    async def main() -> None:
        channel = world.channel(keys, *servers)
        for _ in range(3):  # the ones after the first are told of it at once
            error = await failure(channel.unary_unary(ECHO, text("x"), timeout=5))
            assert type(error) is Unauthenticated
            assert words in str(error)
            assert world.endpoint in str(error)
            assert ALICE.secret_key not in str(error)
        assert channel.counters["refused"] >= max(1, len(servers))

    world.run(main)
    assert not echo.seen
    assert not logged.failures()


def test_a_server_without_credentials_is_not_talked_to(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    echo = Echo()

    async def main() -> None:
        server = Server(factory, [echo])
        endpoint = server.listen("tcp://127.0.0.1:*")
        channel = Channel(factory, endpoint, credentials=knowing())
        error = await failure(channel.unary_unary(ECHO, text("x"), timeout=5))
        assert type(error) is Unauthenticated
        assert "the server has no credentials, and this client asks for them" in str(error)
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
    assert not echo.seen


def refuses(address: str) -> bool:
    """Whether nobody listens at an address of this machine."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_where_nobody_listens_a_client_with_credentials_is_not_called_refused(
    one_loop: Loop,
) -> None:
    world = Trusted(one_loop, [Echo()])

    async def main() -> None:
        await world.server.stop(0)
        # libzmq closes the port in its own thread; until then it accepts, and hangs up.
        await one_loop.until(lambda: refuses(world.endpoint))
        error = await failure(world.channel().unary_unary(ECHO, text("x"), timeout=5))
        assert type(error) is Unavailable

    world.run(main)


def test_who_is_let_in_later_gets_through(one_loop: Loop, logged: Logged) -> None:
    world = Trusted(one_loop, [Echo()])

    async def main() -> None:
        channel = world.channel(STRANGER)
        error = await failure(channel.unary_unary(ECHO, text("x")))
        assert type(error) is Unauthenticated
        world.clients[STRANGER.public_key] = "new"
        world.credentials.clients.reload()
        reply = await channel.unary_unary(ECHO, text("x"), wait_for_ready=True, timeout=20)
        assert reply.value == "x"

    world.run(main)


@pytest.mark.parametrize("servers", [(SERVER, STRANGER), (STRANGER, SERVER), (BOB, ALICE, SERVER)])
def test_a_server_may_have_any_of_several_keys(
    one_loop: Loop, servers: tuple[CurveKeyPair, ...]
) -> None:
    world = Trusted(one_loop, [Echo(), Streaming()])

    async def main() -> None:
        channel = world.channel(ALICE, *servers)
        assert (await channel.unary_unary(ECHO, text("x"), timeout=30)).value == "x"
        # Its publisher has the same key, which is tried first.
        assert await all_of(channel.unary_stream(COUNT, text("2"), timeout=30)) == ["0", "1"]
        right = servers.index(SERVER)
        assert channel.counters["refused"] == right, "only of the connection for calls"

    world.run(main)


# -- who may call what -----------------------------------------------------------------------


def test_what_is_denied_is_told_and_reaches_nothing(one_loop: Loop) -> None:
    echo, streaming = Echo(), Streaming()
    table = {"/test.Echo/*": {"*"}, "/test.Echo/Other": {"staff"}, "/test.Streaming/*": {"staff"}}
    world = Trusted(one_loop, [echo, streaming], authorize=permissions(table))

    async def main() -> None:
        alice, bob = world.channel(ALICE), world.channel(BOB)
        assert (await alice.unary_unary(OTHER, text("x"))).value == "other x"
        assert (await bob.unary_unary(ECHO, text("x"))).value == "x"
        error = await failure(bob.unary_unary(OTHER, text("y"), timeout=5))
        assert type(error) is PermissionDenied
        assert error.message == "bob may not call /test.Echo/Other; the call was not executed"
        for stream in (
            bob.unary_stream(COUNT, text("1"), timeout=5),
            bob.stream_stream(CHAT, texts(1), timeout=5),
            bob.unary_stream(TICKS, text("1"), timeout=5),
        ):
            with pytest.raises(PermissionDenied):
                await all_of(stream)
        assert type(await failure(bob.stream_unary(COLLECT, texts(1)))) is PermissionDenied
        assert await all_of(alice.unary_stream(COUNT, text("1"))) == ["0"]
        assert world.server.counters["request denied"] == 5

    world.run(main)
    assert echo.seen == ["x", "x"]
    assert len(streaming.contexts) == 1


def test_a_server_with_credentials_does_not_listen_where_there_are_none(
    one_loop: Loop,
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Streaming()], credentials=serving())
    for address, publisher in (("inproc://x", None), ("tcp://127.0.0.1:*", "inproc://y")):
        with pytest.raises(ValueError, match="inproc knows no keys"):
            server.listen(address, publisher=publisher)
    with pytest.raises(ValueError, match="credentials are for the sockets of a ZmqFactory"):
        Server(MemoryNetwork(), [Echo()], credentials=serving())
    with pytest.raises(ValueError, match="credentials are for the sockets of a ZmqFactory"):
        Channel(MemoryNetwork(), ADDRESS, credentials=knowing())
    server.stop(0)
    factory.shutdown()


def test_a_server_with_credentials_listens_everywhere(one_loop: Loop) -> None:
    world = Trusted(one_loop, [Echo()])

    async def main() -> None:
        world.endpoint = world.endpoint.replace("0.0.0.0", "127.0.0.1")
        assert (await world.channel().unary_unary(ECHO, text("x"))).value == "x"

    world.run(main, "tcp://0.0.0.0:*")
