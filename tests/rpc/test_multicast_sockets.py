"""Shared streams over sockets: by tcp, and by PGM on the loopback interface.

PGM needs a libzmq that has it; ``make test-multicast`` runs these on one.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from tests.rpc.streaming import COUNT, TICKS, Reader, Streaming
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Server, SocketOptions
from txzmq.rpc.transport import ZmqNetwork

# Of the range that stays within a site (RFC 2365), another one for each test and run.
_groups = (f"239.193.{random.randrange(256)}.{host}" for host in itertools.count(1))
#: As fast as the loopback interface can.
FAST = SocketOptions(multicast_rate=100_000)

needs_pgm = pytest.mark.skipif(not zmq.has("pgm"), reason="this libzmq was built without PGM")


@pytest.fixture
def group() -> str:
    """An address of a group of the test's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"epgm://127.0.0.1;{next(_groups)}:{port}"


@pytest.fixture(params=["tcp", pytest.param("pgm", marks=needs_pgm)])
def multicast(request: pytest.FixtureRequest, group: str) -> str | None:
    """The group that shared streams are sent to, or none."""
    return group if request.param == "pgm" else None


class Events:
    """A shared stream that gives what the test gives, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.running = 0
        self.items: list[str] = []
        self.more: Deferred[None] = Deferred()

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        if context.method == COUNT.path:
            for number in range(int(request.value)):
                yield text(str(number))
            return
        self.runs += 1
        self.running += 1
        given = 0
        try:
            while True:
                while given < len(self.items):
                    given += 1
                    yield text(self.items[given - 1])
                self.more = Deferred()
                await self.more
        finally:
            self.running -= 1

    def give(self, *items: str) -> None:
        self.items += items
        if not self.more.called:
            self.more.callback(None)


def world(
    loop: Loop, multicast: str | None, clients: int
) -> tuple[Events, list[ZmqFactory], list[Any]]:
    """A server and channels, each with sockets of its own."""
    events = Events()
    factories = [ZmqFactory(loop.reactor) for _ in range(clients + 1)]
    server = Server(factories[0], [Streaming(events)], socket_options=FAST)
    endpoint = server.listen("tcp://127.0.0.1:*", multicast=multicast, insecure=True)
    channels = [Channel(factory, endpoint, socket_options=FAST) for factory in factories[1:]]
    return events, factories, [server, *channels]


async def end(factories: list[ZmqFactory], server: Server, channels: list[Channel]) -> None:
    for channel in channels:
        channel.close()
    await server.stop(0)
    for factory in factories:
        factory.shutdown()


def test_all_clients_get_all_items_once_and_in_order(loop: Loop, multicast: str | None) -> None:
    async def main() -> None:
        events, factories, (server, *channels) = world(loop, multicast, 3)
        readers = [Reader(channel.unary_stream(TICKS, text("x"))) for channel in channels]
        readers += [Reader(channels[0].unary_stream(TICKS, text("x")))]
        private = Reader(channels[0].unary_stream(COUNT, text("1000")))
        await loop.until(lambda: events.runs)
        for number in range(300):
            events.give(str(number))
            # No more than are kept: until they have joined, they get them by asking.
            await loop.until(lambda: all(len(reader.items) > number - 5 for reader in readers))  # noqa: B023 - awaited at once
        await loop.until(lambda: all(len(reader.items) == 300 for reader in readers))
        assert all(reader.items == events.items for reader in readers)
        await private.done
        assert private.ended == "well"
        assert len(private.items) == 1000
        assert events.runs == events.running == 1
        for reader in readers:
            reader.stream.cancel()
        await loop.until(lambda: not events.running)
        await end(factories, server, channels)

    loop.run(main)


@needs_pgm
def test_the_items_do_travel_over_multicast(one_loop: Loop, group: str) -> None:
    """A socket that asks nobody hears each of them once, whatever the number of subscribers."""

    async def main() -> None:
        events, factories, (server, *channels) = world(one_loop, group, 2)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        listener = context.socket(zmq.SUB)
        listener.set(zmq.RATE, FAST.multicast_rate)
        listener.set(zmq.LINGER, 0)
        listener.set(zmq.SUBSCRIBE, b"")
        listener.connect(group)
        readers = [Reader(channel.unary_stream(TICKS, text("x"))) for channel in channels]
        await one_loop.until(lambda: events.runs)
        heard: list[bytes] = []

        def listen() -> bool:
            while listener.poll(0):
                heard.append(listener.recv())
            return any(b"hello" in frame for frame in heard)

        count = 0
        while not listen():
            count += 1
            events.give("hello")
            await one_loop.sleep(0.01)
        events.give("last")
        await one_loop.until(lambda: all("last" in reader.items for reader in readers))
        await one_loop.until(lambda: listen() and any(b"last" in frame for frame in heard))
        assert sum(b"last" in frame for frame in heard) == 1
        context.destroy(0)
        await end(factories, server, channels)

    one_loop.run(main)


def test_a_client_that_comes_late_gets_what_is_kept(one_loop: Loop, multicast: str | None) -> None:
    async def main() -> None:
        events, factories, (server, *channels) = world(one_loop, multicast, 2)
        first = Reader(channels[0].unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: events.runs)
        for number in range(30):
            events.give(str(number))
            await one_loop.until(lambda: len(first.items) > number)  # noqa: B023 - awaited at once
        late = Reader(channels[1].unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: len(late.items) == 10)
        assert late.items == events.items[-10:]
        events.give("30")
        await one_loop.until(lambda: late.items[-1] == first.items[-1] == "30")
        await end(factories, server, channels)

    one_loop.run(main)


@pytest.mark.skipif(zmq.has("pgm"), reason="this libzmq was built with PGM")
def test_a_libzmq_without_pgm_is_told(one_loop: Loop, group: str) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming()])
        with pytest.raises(RuntimeError, match="needs a libzmq with PGM"):
            server.listen("tcp://127.0.0.1:*", multicast=group, insecure=True)
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.skipif(zmq.has("pgm"), reason="this libzmq was built with PGM")
def test_a_client_without_pgm_is_told(one_loop: Loop, group: str) -> None:
    """What becomes of it, ``test_a_client_that_cannot_join_is_told`` shows."""

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        handler: Any = None
        with pytest.raises(RuntimeError, match="built without it"):
            ZmqNetwork(factory).subscribe(group, handler, {})
        assert not factory.connections
        with pytest.raises(ValueError, match=r"Server.listen\(multicast=...\)"):
            Server(factory, [Streaming()]).listen("tcp://127.0.0.1:*", advertise=group)
        factory.shutdown()

    one_loop.run(main)
