"""txzmq: ``python -m benchmarks.streams.txzmq_ serve [secured]``, or ``drive ADDRESS``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value
from twisted.internet import epollreactor

from benchmarks.streams.loads import CHATS, SECURED, SERVICE, Figures, Order, item, ticks, trips

epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's

from twisted.internet.defer import Deferred  # noqa: E402 - after the reactor was chosen
from twisted.internet.task import react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from benchmarks.trust import curve_client, curve_server, new_curve  # noqa: E402
from txzmq import ZmqFactory  # noqa: E402
from txzmq.rpc import (  # noqa: E402
    Channel,
    Context,
    Kind,
    Method,
    RequestStream,
    Server,
    ServerLimits,
    Service,
    SocketOptions,
)
from txzmq.rpc.method import Sharing, StreamOptions  # noqa: E402

_PATH: Final = f"/{SERVICE}/"
WATCH = Method(f"{_PATH}Watch", "watch", BytesValue, BytesValue, kind=Kind.UNARY_STREAM)
UPLOAD = Method(f"{_PATH}Upload", "upload", BytesValue, UInt64Value, kind=Kind.STREAM_UNARY)
CHAT = Method(f"{_PATH}Chat", "chat", BytesValue, BytesValue, kind=Kind.STREAM_STREAM)
REST = Method(f"{_PATH}Rest", "rest", BytesValue, BytesValue, kind=Kind.UNARY_STREAM)
TICKS = Method(
    f"{_PATH}Ticks",
    "ticks",
    BytesValue,
    BytesValue,
    kind=Kind.UNARY_STREAM,
    stream=StreamOptions(sharing=Sharing.SHARED, replay=1000),
)


class Streams:
    """What the clients call."""

    __txzmq_service__: ClassVar[Service] = Service(SERVICE, (WATCH, UPLOAD, CHAT, REST, TICKS))

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def watch(self, request: BytesValue, context: Context) -> AsyncIterator[BytesValue]:
        while True:
            yield item()

    async def upload(self, requests: RequestStream[BytesValue], context: Context) -> UInt64Value:
        count = 0
        async for _ in requests:
            count += 1
        return UInt64Value(value=count)

    async def chat(
        self, requests: RequestStream[BytesValue], context: Context
    ) -> AsyncIterator[BytesValue]:
        async for request in requests:
            yield request

    async def rest(self, request: BytesValue, context: Context) -> AsyncIterator[BytesValue]:
        yield item()
        await Deferred()

    async def ticks(self, request: BytesValue, context: Context) -> AsyncIterator[BytesValue]:
        burst, pause = map(int, request.value.split())
        while True:
            for _ in range(burst):
                yield item()
            await self._sleep(pause / 1000)

    def _sleep(self, seconds: float) -> Deferred[None]:
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._reactor.callLater(seconds, deferred.callback, None)
        return deferred


def _factory(reactor: Any) -> ZmqFactory:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    return factory


def serve(reactor: Any) -> Deferred[None]:
    """Serve until killed."""
    limits = ServerLimits(streams_per_peer=16_384)
    keys = new_curve() if SECURED in sys.argv else ""
    server = Server(
        _factory(reactor),
        [Streams(reactor)],
        limits=limits,
        credentials=curve_server(keys) if keys else None,
    )
    print(server.listen("tcp://127.0.0.1:*") + keys, flush=True)
    return Deferred()


def _open_channel(timeout: float = 60, socket_options: SocketOptions | None = None) -> Channel:
    address, credentials = curve_client(sys.argv[2])
    return Channel(
        _factories[-1],
        address,
        timeout=timeout,
        socket_options=socket_options,
        credentials=credentials,
    )


async def drive(reactor: Any) -> None:
    """Follow the orders that come, line by line."""
    _factories.append(_factory(reactor))
    channel = _open_channel()
    while line := await deferToThread(sys.stdin.readline):
        order: Order = json.loads(line)
        if order["load"] == "audience":
            await _audience(order)
            continue
        if order["load"] == "openings":
            await _openings(order)
            continue
        started, cpu = time.perf_counter(), time.process_time()
        end = started + order["seconds"]
        if order["load"] == "fan-out":
            count = await _fan_out(end, order)
        else:
            count = await _LOADS[order["load"]](channel, end)
        figures = Figures(
            count=count,
            seconds=time.perf_counter() - started,
            cpu=time.process_time() - cpu,
            p50=statistics.median(trips) * 1e6 if trips else 0.0,
        )
        trips.clear()
        print(json.dumps(figures), flush=True)
    for each in (channel, *_others):
        each.close()


async def _server(channel: Channel, end: float) -> int:
    count, now = 0, time.perf_counter
    async with channel.unary_stream(WATCH, item()) as stream:
        async for _ in stream:
            count += 1
            if not count % 100 and now() >= end:
                break
    return count


async def _client(channel: Channel, end: float) -> int:
    now = time.perf_counter

    def items() -> Iterator[BytesValue]:
        count = 0
        while True:
            yield item()
            count += 1
            if not count % 100 and now() >= end:
                return

    return (await channel.stream_unary(UPLOAD, items())).value


async def _chat(channel: Channel, end: float) -> int:
    count, now = 0, time.perf_counter
    said: Deferred[None] = Deferred()

    async def items() -> AsyncIterator[BytesValue]:
        nonlocal said
        while (begun := now()) < end:
            said = Deferred()
            yield item()
            await said
            trips.append(now() - begun)

    async for _ in channel.stream_stream(CHAT, items()):
        count += 1
        said.callback(None)
    return count


async def _chats(channel: Channel, end: float) -> int:
    chats = [Deferred.fromCoroutine(_chat(channel, end)) for _ in range(CHATS)]
    return sum([await chat for chat in chats])


class _Audience:
    """Subscribers, each with a channel of its own, as if each were a process of its own."""

    def __init__(self, order: Order) -> None:
        self.count = 0
        #: Fires when each has received something.
        self.complete: Deferred[None] = Deferred()
        self._silent = order["subscribers"]
        request = ticks(order["burst"], order["pause"])
        channels = _channels(order["subscribers"])
        self._streams = [channel.unary_stream(TICKS, request).skip_gaps() for channel in channels]
        self._ended = [stream.each(self._listener()) for stream in self._streams]

    def _listener(self) -> Callable[[BytesValue], None]:
        silent = True

        def deliver(_: BytesValue) -> None:
            nonlocal silent
            self.count += 1
            if silent:
                silent = False
                self._silent -= 1
                if not self._silent:
                    self.complete.callback(None)

        return deliver

    def leave(self) -> None:
        """End all streams."""
        for stream, ended in zip(self._streams, self._ended, strict=True):
            ended.addErrback(lambda _: None)
            stream.cancel()


async def _fan_out(end: float, order: Order) -> int:
    audience = _Audience(order)
    await deferToThread(time.sleep, max(0.0, end - time.perf_counter()))
    audience.leave()
    return audience.count


async def _audience(order: Order) -> None:
    """Say when all receive; count from the next line that comes to the one behind it."""
    audience = _Audience(order)
    await audience.complete
    print("complete", flush=True)
    await deferToThread(sys.stdin.readline)
    before = audience.count
    await deferToThread(sys.stdin.readline)
    print(audience.count - before, flush=True)
    audience.leave()


class _Openings:
    """Streams that are opened at once; each gives one item."""

    def __init__(self, channel: Channel, streams: int) -> None:
        #: Fires when each has given its item.
        self.complete: Deferred[None] = Deferred()
        self._missing = streams
        self._streams = [channel.unary_stream(REST, item()) for _ in range(streams)]
        for stream in self._streams:
            stream.each(self._begun).addErrback(self._failed)

    def _begun(self, _: BytesValue) -> None:
        self._missing -= 1
        if not self._missing:
            self.complete.callback(None)

    # Any: pyright knows a Failure in parts only.
    def _failed(self, failure: Any) -> None:
        if self._missing and not self.complete.called:
            self.complete.errback(failure)

    def end(self) -> None:
        """End all of them."""
        for stream in self._streams:
            stream.cancel()


async def _openings(order: Order) -> None:
    """Say when all have begun; end them at the next line."""
    high_water_mark = order["high_water_mark"]
    options = SocketOptions(send_high_water_mark=high_water_mark) if high_water_mark else None
    channel = _open_channel(timeout=100, socket_options=options)
    await _Openings(channel, 1).complete  # connects
    started, cpu = time.perf_counter(), time.process_time()
    openings = _Openings(channel, order["subscribers"])
    await openings.complete
    figures = Figures(
        count=order["subscribers"],
        seconds=time.perf_counter() - started,
        cpu=time.process_time() - cpu,
        p50=0.0,
    )
    print(json.dumps(figures), flush=True)
    await deferToThread(sys.stdin.readline)
    openings.end()
    channel.close()
    print("ended", flush=True)


_factories: list[ZmqFactory] = []
_others: list[Channel] = []


def _channels(count: int) -> list[Channel]:
    while len(_others) < count:
        # A context has 1,023 sockets at most.
        if len(_others) % 50 == 49:
            _factories.append(_factory(_factories[0].reactor))
        _others.append(_open_channel())
    return _others[:count]


_LOADS: Final = {
    "server": _server,
    "client": _client,
    "chat": _chat,
    "chats": _chats,
}

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        react(serve)
    else:
        react(drive)
