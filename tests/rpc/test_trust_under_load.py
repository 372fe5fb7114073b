"""Keys that change while calls are made, replies that were kept, and servers behind a proxy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from tests.auth.support import ALICE, BOB, CLIENTS, SERVER, STRANGER, knowing, serving
from tests.rpc.identified import by_name
from tests.rpc.service import ECHO, Echo, text
from tests.rpc.streaming import COUNT, Streaming
from tests.rpc.trusted import Raw, Trusted, all_of, failure, publisher_of
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.auth import ClientKeys, CurveClientCredentials, CurveKeyPair, CurveServerCredentials
from txzmq.rpc import (
    Channel,
    ConnectivityState,
    ReplyCacheLimits,
    Server,
    ServerLimits,
    Unauthenticated,
)
from txzmq.rpc.authorization import permissions

NEW = CurveKeyPair.generate()


class Load:
    """Calls, one after the other on each channel, until it is enough; each failure is kept."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.done = 0
        self.failures: list[Exception] = []
        self.enough = False

    def on(self, channel: Channel) -> Deferred[None]:
        async def run() -> None:
            while not self.enough:
                try:
                    await channel.unary_unary(ECHO, text("x"), timeout=30, wait_for_ready=True)
                    assert await all_of(channel.unary_stream(COUNT, text("2"), timeout=30))
                except Exception as error:  # noqa: BLE001 - whatever it is
                    self.failures.append(error)
                    return
                self.done += 1

        return Deferred.fromCoroutine(run())

    async def more(self, number: int = 20) -> None:
        """Wait until so many more are done."""
        wanted = self.done + number
        await self.loop.until(lambda: self.done >= wanted or self.failures)


def test_the_key_of_a_client_changes_without_a_failed_call(
    one_loop: Loop, tmp_path: Path, logged: Logged
) -> None:
    """The new key is let in, the client changes to it, the old one goes."""
    clients = tmp_path / "clients"
    clients.mkdir()
    ALICE.save(clients / "alice", metadata={"name": "alice"})
    world = Trusted(one_loop, [Echo(), Streaming()], clients=ClientKeys(clients))

    async def main() -> None:
        load = Load(one_loop)
        old = world.channel(ALICE)
        runs = [load.on(old)]
        await load.more()
        NEW.save(clients / "alice-2", metadata={"name": "alice"})
        world.credentials.clients.reload()
        new = world.channel(NEW)
        runs.append(load.on(new))
        await load.more()
        load.enough = True
        for run in runs:
            await run
        load.enough = False
        old.close()
        (clients / "alice.key").unlink()
        world.credentials.clients.reload()
        runs = [load.on(new)]
        await load.more()
        load.enough = True
        await runs[0]
        assert load.failures == []
        error = await failure(world.channel(ALICE).unary_unary(ECHO, text("x"), timeout=5))
        assert type(error) is Unauthenticated

    world.run(main)


def listen_again(server: Server, address: str, publisher: str) -> bool:
    """Whether a server listens where another one has stopped a moment ago.

    libzmq closes sockets in a thread of its own.
    """
    try:
        server.listen(address, publisher=publisher)
    except CannotListenError:
        return False
    return True


def test_the_key_of_a_server_changes_without_a_failed_call(one_loop: Loop, logged: Logged) -> None:
    """Clients know both keys; a server with the new one takes the address."""
    world = Trusted(one_loop, [Echo(), Streaming()])

    async def main() -> None:
        load = Load(one_loop)
        runs = [load.on(world.channel(keys, SERVER, NEW)) for keys in (ALICE, BOB)]
        await load.more()
        load.enough = True  # calls that are on their way end before
        for run in runs:
            await run
        publisher = world.publisher
        await world.server.stop(1)
        load.enough = False
        runs = [load.on(channel) for channel in world.opened]
        server = world.serve(CurveServerCredentials(NEW, CLIENTS))
        await one_loop.until(lambda: listen_again(server, world.endpoint, publisher))
        await load.more(10)
        load.enough = True
        for run in runs:
            await run
        assert load.failures == []

    world.run(main)


def test_the_key_of_two_servers_changes_under_load(one_loop: Loop, logged: Logged) -> None:
    """They are started again one after the other, and calls go on all the while."""
    world = Trusted(one_loop, [Echo(), Streaming()])

    async def main() -> None:
        other = world.serve()
        places = [(world.endpoint, world.publisher)]
        places.append((other.listen("tcp://127.0.0.1:*"), publisher_of(other)))
        endpoints = [endpoint for endpoint, _ in places]
        load = Load(one_loop)
        channels = [
            Channel(world.factory, endpoints, credentials=knowing(keys, SERVER, NEW))
            for keys in (ALICE, BOB)
        ]
        world.opened += channels
        runs = [load.on(channel) for channel in channels for _ in range(3)]
        await load.more()
        for old, (endpoint, publisher) in zip([world.server, other], places, strict=True):
            await old.stop(5)
            new = world.serve(CurveServerCredentials(NEW, CLIENTS))
            await one_loop.until(partial(listen_again, new, endpoint, publisher))
            await one_loop.until(
                lambda: all(
                    each.state is ConnectivityState.READY
                    for channel in channels
                    for each in channel.endpoints
                )
            )
            await load.more()
        load.enough = True
        for run in runs:
            await run
        assert load.failures == []

    world.run(main)


def test_nobody_reads_the_reply_to_another_ones_request(one_loop: Loop) -> None:
    """Path and key of a request are no secret: a log may have them."""
    echo = Echo()
    limits = ServerLimits(reply_cache=ReplyCacheLimits())
    world = Trusted(one_loop, [echo], limits=limits)

    async def main() -> None:
        alice, bob = Raw(world, ALICE), Raw(world, BOB)
        for raw in (alice, bob):
            await raw.ready()
        _, first = await alice.ask(ECHO.path, text("secret"), request_key=b"k" * 16)
        _, again = await alice.ask(ECHO.path, text("secret"), request_key=b"k" * 16)
        assert first == again
        assert echo.seen == ["secret"]
        _, stolen = await bob.ask(ECHO.path, text("guess"), request_key=b"k" * 16)
        assert stolen == text("guess").SerializeToString()
        # Nor with the same body: it is served anew, for him.
        await bob.ask(ECHO.path, text("secret"), request_key=b"k" * 16)
        assert echo.seen == ["secret", "guess", "secret"]
        assert [str(context.identity) for context in echo.contexts] == ["alice", "bob", "bob"]
        for raw in (alice, bob):
            raw.close()

    world.run(main)


def test_nobody_who_is_known_reads_no_reply_of_another_connection(one_loop: Loop) -> None:
    """Where a call carries nothing, it is its connection's, also if a rule lets anybody in."""
    echo = Echo()
    world = Trusted(
        one_loop,
        [echo],
        authenticate=by_name,
        authorize=permissions({"*": {"anybody"}}),
        limits=ServerLimits(reply_cache=ReplyCacheLimits()),
    )

    async def main() -> None:
        alice, bob = Raw(world, ALICE), Raw(world, BOB)
        for raw in (alice, bob):
            await raw.ready()
        for raw in (alice, bob, alice):
            await raw.ask(ECHO.path, text("secret"), request_key=b"k" * 16)
        assert [str(context.peer_identity) for context in echo.contexts] == ["alice", "bob"]
        for raw in (alice, bob):
            raw.close()

    world.run(main)


def test_nobody_pushes_anothers_replies_out_of_the_cache(one_loop: Loop) -> None:
    echo = Echo()
    limits = ServerLimits(reply_cache=ReplyCacheLimits(entries=10))
    world = Trusted(one_loop, [echo], limits=limits)

    async def main() -> None:
        alice, bob = Raw(world, ALICE), Raw(world, BOB)
        for raw in (alice, bob):
            await raw.ready()
        await alice.ask(ECHO.path, text("hers"), request_key=b"k" * 16)
        for number in range(30):
            await bob.ask(ECHO.path, text("his"), request_key=b"%016d" % number)
        await alice.ask(ECHO.path, text("hers"), request_key=b"k" * 16)
        assert echo.seen == ["hers", *["his"] * 30], "hers is kept, and not made again"
        await bob.ask(ECHO.path, text("his"), request_key=b"%016d" % 0)
        assert len(echo.seen) == 32, "his first one is not"
        for raw in (alice, bob):
            raw.close()

    world.run(main)


class Proxy:
    """``zmq_proxy()`` with CURVE on both sides, turned by the test."""

    def __init__(self, loop: Loop, keys: CurveKeyPair) -> None:
        self.loop = loop
        self.context: Any = zmq.Context()  # Any: pyzmq's types of sockets are wide
        self.front = self._socket(zmq.ROUTER, keys)
        self.back = self._socket(zmq.DEALER, keys)
        self.turning = loop.reactor.callLater(0, self.turn)

    def _socket(self, kind: int, keys: CurveKeyPair) -> Any:
        socket = self.context.socket(kind)
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, keys.secret_key.encode())
        socket.bind("tcp://127.0.0.1:*")
        return socket

    def turn(self) -> None:
        for source, target in ((self.front, self.back), (self.back, self.front)):
            while source.poll(0) and target.poll(0, zmq.POLLOUT):
                target.send_multipart(source.recv_multipart())
        self.turning = self.loop.reactor.callLater(0.002, self.turn)

    @staticmethod
    def address(socket: Any) -> str:
        address: str = socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        return address

    def close(self) -> None:
        self.turning.cancel()
        self.context.destroy(linger=0)


@pytest.mark.parametrize("rule", [None, {"/test.Echo/*": {"*"}}, {"/test.Echo/*": {"anybody"}}])
def test_a_server_behind_a_proxy_shows_its_key(one_loop: Loop, rule: Any) -> None:
    """The proxy knows who calls; its own calls have no identity, and rules see that."""
    factory = ZmqFactory(one_loop.reactor)
    echo = Echo()
    authorize = None if rule is None else permissions(rule)
    proxy = Proxy(one_loop, NEW)

    async def main() -> None:
        server = Server(factory, [echo], authorize=authorize, credentials=serving())
        server.connect(Proxy.address(proxy.back), credentials=knowing(SERVER, NEW))
        channel = Channel(factory, Proxy.address(proxy.front), credentials=knowing(ALICE, NEW))
        call = channel.unary_unary(ECHO, text("x"), timeout=10)
        if rule == {"/test.Echo/*": {"*"}}:
            assert type(await failure(call)) is Unauthenticated
        else:
            assert (await call).value == "x"
            assert [context.identity for context in echo.contexts] == [None]
        channel.close()
        await server.stop(0)
        factory.shutdown()
        proxy.close()

    one_loop.run(main)


@pytest.mark.parametrize(
    "credentials", [None, knowing(SERVER, STRANGER)], ids=["no key", "wrong key of the proxy"]
)
def test_a_server_that_does_not_trust_its_proxy_serves_nothing(
    one_loop: Loop, logged: Logged, credentials: CurveClientCredentials | None
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    echo = Echo()
    proxy = Proxy(one_loop, NEW)

    async def main() -> None:
        server = Server(factory, [echo])
        server.connect(Proxy.address(proxy.back), credentials=credentials)
        channel = Channel(factory, Proxy.address(proxy.front), credentials=knowing(ALICE, NEW))
        call = channel.unary_unary(ECHO, text("x"), timeout=0.5)
        await failure(call)
        assert server.counters["connection to a proxy lost"] > 0
        channel.close()
        await server.stop(0)
        factory.shutdown()
        proxy.close()

    one_loop.run(main)
    assert not echo.seen
