"""A service that streams; tests say what its handlers do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, text
from txzmq.rpc import (
    Channel,
    ClientInterceptor,
    Context,
    Kind,
    Method,
    Observer,
    RequestStream,
    ResponseStream,
    Server,
    ServerInterceptor,
    ServerLimits,
    Service,
)
from txzmq.rpc.method import Sharing, StreamOptions
from txzmq.testing import Faults, MemoryNetwork, assert_all_given_back

PUBLISHER = f"{ADDRESS}.streams"
COUNT = Method("/test.Streaming/Count", "count", StringValue, StringValue, kind=Kind.UNARY_STREAM)
COLLECT = Method(
    "/test.Streaming/Collect", "collect", StringValue, StringValue, kind=Kind.STREAM_UNARY
)
RESUME = Method(
    "/test.Streaming/Resume",
    "resume",
    StringValue,
    StringValue,
    kind=Kind.UNARY_STREAM,
    stream=StreamOptions(resumable=True),
)
#: Shared; the last ten items are kept.
TICKS = Method(
    "/test.Streaming/Ticks",
    "ticks",
    StringValue,
    StringValue,
    kind=Kind.UNARY_STREAM,
    stream=StreamOptions(sharing=Sharing.SHARED, replay=10),
)
CHAT = Method("/test.Streaming/Chat", "chat", StringValue, StringValue, kind=Kind.STREAM_STREAM)

#: What a handler does: anything that a stream may be made of.
Handler = Callable[[Any, Context], Any]


async def count(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Count from 0 to below the request."""
    for number in range(int(request.value)):
        yield text(str(number))


class Streaming:
    """Counts, unless told otherwise."""

    __txzmq_service__: ClassVar[Service] = Service(
        "test.Streaming", (COUNT, COLLECT, CHAT, TICKS, RESUME)
    )

    def __init__(self, handler: Handler = count) -> None:
        self.handler = handler
        #: Of the calls that reached a handler.
        self.contexts: list[Context] = []

    def count(self, request: StringValue, context: Context) -> Any:
        self.contexts.append(context)
        return self.handler(request, context)

    collect = chat = ticks = resume = count


class Reader:
    """Reads a stream to its end."""

    def __init__(self, stream: ResponseStream[StringValue]) -> None:
        self.stream = stream
        self.items: list[str] = []
        #: How it ended; None while it has not.
        self.ended: BaseException | str | None = None
        self.done = Deferred.fromCoroutine(self._read())

    @property
    def has_ended(self) -> bool:
        return self.ended is not None

    async def _read(self) -> None:
        try:
            async for item in self.stream:
                self.items.append(item.value)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.ended = error
        else:
            self.ended = "well"


def following(stream: ResponseStream[StringValue]) -> Deferred[StringValue]:
    """Read one item."""

    async def read() -> StringValue:
        return await anext(stream)

    return Deferred.fromCoroutine(read())


class Network(MemoryNetwork):
    """In memory; servers die."""

    def die(self, address: str) -> None:
        """Whoever listens there is not heard of any more; nor does it hear of anybody."""
        for table in (self._listeners, self._publishers):
            end = table.pop(address, None)
            if end is not None:
                end.cut()


class StreamWorld:
    """A server that streams and a channel, in memory."""

    #: What the server is told besides its address, when it listens.
    listening: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        handler: Handler = count,
        *,
        limits: ServerLimits | None = None,
        faults: Faults | None = None,
        interceptors: Sequence[ServerInterceptor] = (),
        debug: bool = False,
        client_interceptors: Sequence[ClientInterceptor] = (),
        observer: Observer | None = None,
        **channel: Any,
    ) -> None:
        self.network = Network(faults)
        self.service = Streaming(handler)
        self.limits = limits
        # Of both sides.
        self.observer = observer
        # Which only the tests' clock knows of.
        self._dead: list[Server] = []
        self.server = self.serve(interceptors, debug=debug)
        self.channel = Channel(
            self.network,
            ADDRESS,
            interceptors=client_interceptors,
            observer=observer,
            **channel,
        )

    def serve(
        self, interceptors: Sequence[ServerInterceptor] = (), *, debug: bool = False
    ) -> Server:
        """Start a server; after :meth:`kill` another one."""
        server = Server(
            self.network,
            [self.service],
            limits=self.limits,
            interceptors=interceptors,
            debug=debug,
            observer=self.observer,
        )
        server.listen(ADDRESS, **self.listening)
        self.server = server
        return server

    def die(self) -> None:
        """The server's process dies; the address is free."""
        self._dead.append(self.server)
        self.network.die(ADDRESS)
        self.network.die(PUBLISHER)

    def open(self, value: object = 3, **options: Any) -> ResponseStream[StringValue]:
        return self.channel.unary_stream(COUNT, text(str(value)), **options)

    def collect(self, requests: Any, **options: Any) -> Deferred[StringValue]:
        return self.channel.stream_unary(COLLECT, requests, **options)

    def chat(self, requests: Any, **options: Any) -> ResponseStream[StringValue]:
        return self.channel.stream_stream(CHAT, requests, **options)

    def sleep(self, seconds: float) -> Deferred[None]:
        """Virtual seconds."""
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call: Any = self.network.clock.callLater(seconds, deferred.callback, None)
        return deferred

    def read(self, value: object = 3, **options: Any) -> Reader:
        return Reader(self.open(value, **options))

    def run(self, value: object = 3, **options: Any) -> Reader:
        """Read a stream, and let all happen that is due now."""
        reader = self.read(value, **options)
        self.network.run()
        return reader

    def cut(self) -> None:
        """Break all connections."""
        self.network.cut(ADDRESS)
        self.network.cut(PUBLISHER)

    def vanish(self, channel: Channel) -> None:
        """Close a channel, and let nobody hear that it says goodbye."""
        self.network.faults = Faults(loss=1)
        channel.close()
        self.network.run()
        self.network.faults = Faults()

    def frames(self, address: str) -> list[bytes]:
        """What is published there from now on."""
        publisher = self.network.publisher(address)
        assert publisher is not None
        frames: list[bytes] = []
        publish = publisher.publish

        def noted(frame: bytes) -> None:
            frames.append(frame)
            publish(frame)

        publisher.publish = noted  # type: ignore[method-assign]  # there is no other place to look
        return frames

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        self.channel.close()
        for dead in self._dead:
            dead.stop(0)
        stopped = self.server.stop(0)
        self.network.advance(3)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()
        assert_all_given_back(self.channel, self.server)


Worlds = Callable[..., StreamWorld]


class Endless:
    """Gives items for ever, one each time the test says so, and notes how it ends."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []
        self.given = 0
        self.ends: list[str] = []
        self.running = 0

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.running += 1
        context.cancelled.addCallback(self.ends.append)
        try:
            while True:
                self.waiting.append(Deferred(self.waiting.remove))
                await self.waiting[-1]
                yield text(str(self.given))
        finally:
            self.running -= 1

    def give(self) -> None:
        self.given += 1
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(None)


def returning(result: object) -> Handler:
    def handler(request: StringValue, context: Context) -> object:
        return result

    return handler


def raising(error: Exception) -> Handler:
    def handler(request: StringValue, context: Context) -> object:
        raise error

    return handler


def waiting_for_ever(request: StringValue, context: Context) -> Deferred[list[StringValue]]:
    return Deferred()


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def streams_of(world: StreamWorld) -> Any:
    """What the server has of streams; there is no other place to look."""
    server: Any = world.server
    return server._dispatcher.streams


async def join(requests: RequestStream[StringValue], context: Context) -> StringValue:
    """Answers with all requests, when there are no more."""
    return text(",".join([request.value async for request in requests]))


async def echo(
    requests: RequestStream[StringValue], context: Context
) -> AsyncIterator[StringValue]:
    """Answers each request with itself."""
    async for request in requests:
        yield request


def texts(count: int) -> list[StringValue]:
    return [text(str(number)) for number in range(count)]


class Source:
    """Gives items when the test says so."""

    def __init__(self) -> None:
        self.waiting: Deferred[StringValue | None] | None = None
        self.closed = False

    async def __call__(self) -> AsyncIterator[StringValue]:
        try:
            while True:
                self.waiting = Deferred()
                item = await self.waiting
                if item is None:
                    return
                yield item
        finally:
            self.closed = True

    def give(self, value: str | None) -> None:
        assert self.waiting is not None
        self.waiting.callback(None if value is None else text(value))
