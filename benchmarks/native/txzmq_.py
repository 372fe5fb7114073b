"""txzmq: ``python -m benchmarks.native.txzmq_ BUILD server|client ADDRESS``.

The generated client and server base, on the defaults but for the timeout of a call, which all
peers have. What is asked and answered is in :mod:`benchmarks.native.loads`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any, Final

from twisted.internet import epollreactor

epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's

from twisted.internet.defer import Deferred, gatherResults  # noqa: E402 - after the reactor
from twisted.internet.task import deferLater, react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from benchmarks.child import Line  # noqa: E402
from benchmarks.drivers import Rounds  # noqa: E402
from benchmarks.figures import percentile  # noqa: E402
from benchmarks.native.loads import Answer, Order  # noqa: E402
from benchmarks.native.peers import own_versions  # noqa: E402
from benchmarks.peers.txzmq_ import make_factory  # noqa: E402
from benchmarks.workload import Messages, Window  # noqa: E402
from benchmarks.workload import Order as CallOrder  # noqa: E402
from txzmq.rpc import Channel, RequestStream, Server  # noqa: E402

#: Seconds that a call or stream may take.
_TIMEOUT: Final = 60.0
#: Sockets of one context are limited; a channel has two.
_CHANNELS_OF_A_FACTORY: Final = 50


# Any: the modules are generated when the benchmarks run.
def _generated(build: str) -> tuple[Any, Any]:
    sys.path.insert(0, build)
    return import_module("generated.native_pb2"), import_module("generated.native_txzmq")


def _service(messages: Any, base: type, reactor: Any) -> Any:
    """An instance of a class with the generated base."""
    item = messages.Item

    # Any: what the generated classes are is known when the benchmarks run.
    def echo(_: object, request: Any, _context: object) -> Any:
        return item(sequence=request.sequence, payload=request.payload)

    async def watch(_: object, request: Any, _context: object) -> AsyncIterator[Any]:
        payload, sequence = request.payload, 0
        while True:
            sequence += 1
            yield item(sequence=sequence, payload=payload)

    async def upload(_: object, requests: RequestStream[Any], _context: object) -> Any:
        items = 0
        async for _request in requests:
            items += 1
        return messages.Count(items=items)

    async def chat(_: object, requests: RequestStream[Any], _context: object) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    async def ticks(_: object, request: Any, _context: object) -> AsyncIterator[Any]:
        payload, sequence = b"\xa5" * request.payload_bytes, 0
        while True:
            for _number in range(request.burst):
                sequence += 1
                yield item(sequence=sequence, payload=payload)
            await deferLater(reactor, request.pause / 1000)

    methods = {"echo": echo, "watch": watch, "upload": upload, "chat": chat, "ticks": ticks}
    return type("Native", (base,), methods)()


def _serve(line: Line, build: str, address: str, reactor: Any) -> Deferred[None]:
    messages, generated = _generated(build)
    server = Server(make_factory(reactor), [_service(messages, generated.NativeBase, reactor)])
    if address.startswith("unix:"):
        endpoint = server.listen("ipc://" + address.removeprefix("unix:"))
    else:
        endpoint = server.listen("tcp://127.0.0.1:*")
    line.write({"address": endpoint, "versions": own_versions()})
    return deferToThread(_wait_for_end, line)


def _wait_for_end(line: Line) -> None:
    while line.read():
        pass


class _Client:
    """Follows orders, and answers them."""

    def __init__(self, line: Line, build: str, address: str, reactor: Any) -> None:
        self._line = line
        self._messages, generated = _generated(build)
        self._make: Callable[[Channel], Any] = generated.NativeClient
        self._address = address
        self._reactor = reactor
        self._factory = make_factory(reactor)
        self._client = self._make(self._channel())
        self._others: list[Any] = []

    def _channel(self) -> Channel:
        return Channel(self._factory, self._address, timeout=_TIMEOUT)

    def _answer(self, count: int, seconds: float, cpu: float, latencies: list[float]) -> None:
        latencies.sort()
        p50, p90, p99, p999 = (
            percentile(latencies, percent) if latencies else 0.0 for percent in (50, 90, 99, 99.9)
        )
        answer = Answer(count=count, seconds=seconds, cpu=cpu, p50=p50, p90=p90, p99=p99, p999=p999)
        self._line.write(asdict(answer))

    def _tell_begun(self) -> None:
        self._line.write({"begun": True})

    async def follow(self, order: Order) -> None:
        """:raises KeyError: if there is no such load."""
        if order.load == "unary":
            await self._calls(order)
        elif order.load == "fan-out":
            await self._fan_out(order)
        else:
            await self._streams(order)

    async def _streams(self, order: Order) -> None:
        streams = {"responses": self._responses, "requests": self._requests, "both": self._both}
        one = streams[order.load]
        trips: list[float] = []
        self._tell_begun()
        cpu, begun = time.process_time(), time.perf_counter()
        end = begun + order.seconds
        payload = b"\xa5" * order.payload_bytes
        counts = await gatherResults(
            [Deferred.fromCoroutine(one(payload, end, trips)) for _ in range(order.at_once)]
        )
        self._answer(sum(counts), time.perf_counter() - begun, time.process_time() - cpu, trips)

    async def _calls(self, order: Order) -> None:
        item = self._messages.Item
        self._tell_begun()
        window = Window(
            Messages(item, item),
            CallOrder(
                in_flight=order.at_once,
                seconds=order.seconds,
                message_bytes=order.payload_bytes + 6,  # what Window takes off again
            ),
        )
        await Rounds(window, order.at_once, self._client.echo).done
        sample = window.sample()
        self._answer(sample.calls, sample.elapsed, sample.client_cpu, window.latencies())

    async def _responses(self, payload: bytes, end: float, _trips: list[float]) -> int:
        count, now = 0, time.perf_counter
        async with self._client.watch(self._messages.Item(payload=payload)) as stream:
            async for _ in stream:
                count += 1
                if not count % 100 and now() >= end:
                    break
        return count

    async def _requests(self, payload: bytes, end: float, _trips: list[float]) -> int:
        item, now, count = self._messages.Item, time.perf_counter, 0

        def items() -> Iterator[Any]:
            nonlocal count
            while count % 100 or now() < end:
                count += 1
                yield item(sequence=count, payload=payload)

        reply = await self._client.upload(items())
        if reply.items != count:
            raise RuntimeError(f"of {count} items {reply.items} came")
        return count

    async def _both(self, payload: bytes, end: float, trips: list[float]) -> int:
        item, now, count = self._messages.Item, time.perf_counter, 0
        said: Deferred[None] = Deferred()

        async def items() -> AsyncIterator[Any]:
            nonlocal said
            begun = now()
            while True:
                said = Deferred()
                yield item(sequence=count + 1, payload=payload)
                await said
                ended = now()
                trips.append(ended - begun)
                if ended >= end:
                    return
                begun = ended

        async for reply in self._client.chat(items()):
            count += 1
            if reply.sequence != count:
                raise RuntimeError(f"item {count} was answered with {reply.sequence}")
            said.callback(None)
        return count

    async def _fan_out(self, order: Order) -> None:
        """Subscribers with a channel each; counts from the moment when all have begun."""
        while len(self._others) < order.at_once:
            if len(self._others) % _CHANNELS_OF_A_FACTORY == _CHANNELS_OF_A_FACTORY - 1:
                self._factory = make_factory(self._reactor)
            self._others.append(self._make(self._channel()))
        request = self._messages.TicksRequest(
            burst=order.burst, pause=order.pause, payload_bytes=order.payload_bytes
        )
        audience = _Audience([other.ticks(request) for other in self._others[: order.at_once]])
        await audience.complete
        self._tell_begun()
        before, cpu, begun = audience.count, time.process_time(), time.perf_counter()
        await deferLater(self._reactor, order.seconds)
        self._answer(
            audience.count - before, time.perf_counter() - begun, time.process_time() - cpu, []
        )
        audience.leave()


class _Audience:
    """Counts what the streams deliver.

    :ivar complete: fires when each has delivered something.
    """

    # Any: of items whose class is generated.
    def __init__(self, streams: Sequence[Any]) -> None:
        self.count = 0
        self.complete: Deferred[None] = Deferred()
        self._silent = len(streams)
        self._streams = [stream.skip_gaps() for stream in streams]
        for stream in self._streams:
            stream.each(self._listener()).addErrback(self._failed)

    def _listener(self) -> Callable[[object], None]:
        silent = True

        def deliver(_: object) -> None:
            nonlocal silent
            self.count += 1
            if silent:
                silent = False
                self._silent -= 1
                if not self._silent:
                    self.complete.callback(None)

        return deliver

    # Any: pyright knows a Failure in parts only.
    def _failed(self, failure: Any) -> None:
        if not self.complete.called:
            self.complete.errback(failure)

    def leave(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.cancel()


async def _drive(line: Line, build: str, address: str, reactor: Any) -> None:
    client = _Client(line, build, address, reactor)
    line.write({"ready": True})
    while order := await deferToThread(line.read):
        await client.follow(Order.parse(order.decode("ascii")))


def main(build: str, role: str, address: str) -> None:
    """Be the server or the client."""
    line = Line()

    def begin(reactor: object) -> Deferred[None]:
        if role == "server":
            return _serve(line, build, address, reactor)
        return Deferred.fromCoroutine(_drive(line, build, address, reactor))

    react(begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
