"""A stream lives by its calls: what becomes of SUBSCRIBE messages only makes it faster.

Over real sockets, since what libzmq does with subscriptions is the point: it passes on each
SUBSCRIBE of a socket and one UNSUBSCRIBE for all of them, and drops what is over the subscriber's
send high-water mark without a word.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.field.proxy import Proxy
from tests.rpc.service import text
from tests.rpc.streaming import COUNT, TICKS, Reader, Streaming
from tests.support import PATIENCE, Loop
from txzmq import ZmqEndpoint, ZmqEndpointType, ZmqFactory, ZmqXSubConnection
from txzmq.rpc import Channel, Context, Server, ServerLimits, SocketOptions
from txzmq.rpc.transport import SubscriberHandler, SubscriberTransport, ZmqNetwork


class Waiting:
    """Gives one item, and then none."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.running += 1
        try:
            yield text("0")
            await Deferred()
        finally:
            self.running -= 1


class OnDemand:
    """Gives an item to each stream when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(1_000):
            self.waiting.append(Deferred(self.waiting.remove))
            await self.waiting[-1]
            yield text(str(number))

    def give(self) -> None:
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(None)


class ProxiedPublishers(ZmqNetwork):
    """Reaches publishers by a proxy, which the test can cut."""

    def __init__(self, factory: ZmqFactory, options: SocketOptions) -> None:
        super().__init__(factory, options)
        self._reactor = factory.reactor
        self.proxies: list[Proxy] = []

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        self.proxies.append(Proxy(self._reactor, address))
        return super().subscribe(self.proxies[-1].endpoint, handler, options)


class Both:
    """A server and a channel of it, over tcp."""

    def __init__(self, loop: Loop, handler: Any, **limits: Any) -> None:
        self.loop = loop
        self.servers, self.clients = ZmqFactory(loop.reactor), ZmqFactory(loop.reactor)
        options: Any = {"streams_per_peer": 16_384, **limits}
        self.server = Server(self.servers, [Streaming(handler)], limits=ServerLimits(**options))
        self.endpoint = self.server.listen("tcp://127.0.0.1:*")
        # So few messages, and no limit for subscriptions all the same.
        self.network = ProxiedPublishers(self.clients, SocketOptions(send_high_water_mark=10))
        self.channel = Channel(self.network, self.endpoint)

    def read(self) -> Reader:
        """Read a stream that a busy machine may take long to open, and PyPy at first anyway."""
        return Reader(self.channel.unary_stream(COUNT, text("1"), timeout=PATIENCE))

    async def close(self) -> None:
        # Its goodbye may find no room in a socket of ten messages: then a server waits for its
        # silence.
        self.channel.close()
        await self.server.stop(0)
        assert not self.server.running
        self.clients.shutdown()
        self.servers.shutdown()
        for proxy in self.network.proxies:
            await proxy.close()


#: A server gives a client as long for its streams as the test has: a machine that does ten other
#: things may need more than the defaults, and that is not what is tested.
PATIENT: Final[dict[str, Any]] = {"stream_grace": PATIENCE, "stream_silence": PATIENCE}


def test_many_streams_that_are_opened_at_once_all_begin(one_loop: Loop) -> None:
    async def main() -> int:
        both = Both(one_loop, Waiting(), **PATIENT)
        readers = [both.read() for _ in range(4_000)]
        await one_loop.until(lambda: all_have(readers, ["0"]))
        begun = len(readers)
        await both.close()
        return begun

    assert one_loop.run(main) == 4_000


def all_have(readers: list[Reader], items: list[str]) -> bool:
    """Whether all have read these items; none may have ended."""
    for reader in readers:
        assert not reader.has_ended, reader.ended
        if reader.items != items:
            return False
    return True


def test_many_streams_all_go_on_after_the_publishers_connection_was_cut(one_loop: Loop) -> None:
    async def main() -> None:
        handler = OnDemand()
        both = Both(one_loop, handler, **PATIENT)
        readers = [both.read() for _ in range(1_500)]
        await one_loop.until(lambda: len(handler.waiting) == 1_500)
        for expected in (["0"], ["0", "1"], ["0", "1", "2"]):
            handler.give()
            await one_loop.until(partial(all_have, readers, expected))
            await one_loop.until(lambda: len(handler.waiting) == 1_500)
            for proxy in both.network.proxies:
                proxy.cut()
        await both.close()

    one_loop.run(main)


def test_equal_streams_of_one_channel_end_their_run_when_both_have_left(one_loop: Loop) -> None:
    async def main() -> None:
        handler = Waiting()
        both = Both(one_loop, handler)
        first = Reader(both.channel.unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: first.items)
        second = Reader(both.channel.unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: second.items)
        assert handler.running == 1
        first.stream.cancel()
        second.stream.cancel()
        await one_loop.until(lambda: not handler.running)
        await both.close()

    one_loop.run(main)


class _Stranger(ZmqXSubConnection):
    """Knows topics that are not its own."""

    def messageReceived(self, message: list[bytes]) -> None:
        pass


def test_an_unsubscribe_of_a_stranger_ends_no_stream(one_loop: Loop) -> None:
    async def main() -> tuple[list[str], list[str]]:
        handler = Waiting()
        both = Both(one_loop, handler, stream_grace=1.0)
        readers = [
            Reader(both.channel.unary_stream(method, text("1"))) for method in (COUNT, TICKS)
        ]
        await one_loop.until(lambda: all(reader.items for reader in readers))
        cores: list[Any] = [reader.stream for reader in readers]
        topics = [core._core.topic for core in cores]
        control = cores[0]._core._control
        stranger = _Stranger(
            both.clients,
            ZmqEndpoint(ZmqEndpointType.connect, control._subscriber.endpoint),
        )
        for command in (b"\0", b"\0", b"\1", b"\0", b"\0"):
            for topic in topics:
                stranger.send(command + topic + b"\0")
            await one_loop.sleep(0.3)
        assert handler.running == 2
        assert not any(reader.has_ended for reader in readers)
        stranger.shutdown()
        await both.close()
        return readers[0].items, readers[1].items

    assert one_loop.run(main) == (["0"], ["0"])
