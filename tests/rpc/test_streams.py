"""Streams of responses, in virtual time: how they run, and how they end."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from tests.rpc.leftovers import leftovers
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COUNT, PUBLISHER, RESUME, Handler, Reader, StreamWorld
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Code,
    Context,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    Liveness,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ResponseMetadata,
    RpcError,
    ServerLimits,
    ServerProceed,
    Unavailable,
    Unknown,
    current_context,
)
from txzmq.rpc._wire.headers import OpenStream, RequestHead, ResponseHead
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults

Worlds = Callable[..., StreamWorld]


@pytest.fixture
def make() -> Generator[Worlds]:
    worlds: list[StreamWorld] = []

    def build(*arguments: Any, **options: Any) -> StreamWorld:
        worlds.append(StreamWorld(*arguments, **options))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()
        assert leftovers(world.channel, world.server) == []


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


# -- how they run ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="PyPy does not count references")
def test_an_item_is_not_kept_while_the_handler_waits_for_the_next(make: Worlds) -> None:
    given = [text("nobody's")]
    kept = sys.getrefcount(given[0])

    def give() -> StringValue:
        given.append(text("item"))
        return given[-1]

    async def asynchronous(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield give()
        await Deferred()

    def one_by_one(request: StringValue, context: Context) -> Iterable[Any]:
        yield give()
        yield Deferred()

    def later(request: StringValue, context: Context) -> Iterable[Any]:
        yield succeed(give())
        yield Deferred()

    for handler in (asynchronous, one_by_one, later):
        assert make(handler).run().items == ["item"]
        count = sys.getrefcount(given[-1])
        assert count == kept


@pytest.mark.parametrize("count", [0, 1, 3, 255, 256, 257, 10_000])
def test_all_items_arrive_in_order(make: Worlds, count: int) -> None:
    world = make()
    reader = world.run(count)
    assert reader.items == numbers(count)
    assert reader.ended == "well"


def test_streams_run_side_by_side(make: Worlds) -> None:
    world = make()
    readers = [world.read(number) for number in range(50)]
    world.network.run()
    assert [reader.items for reader in readers] == [numbers(number) for number in range(50)]


def test_the_handler_is_asked_only_when_the_client_has_subscribed(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    world.network.cut(PUBLISHER)
    world.network.run()
    stream = world.open()
    order: list[str] = []
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    while not endless.running:
        assert not any(publisher.subscribers.values())
        order.append("waits")
        world.network.clock.advance(0)
        if any(publisher.subscribers.values()):
            break
    assert order
    world.network.run()
    assert endless.running == 1
    stream.cancel()


def plain(request: StringValue, context: Context) -> Iterable[StringValue]:
    return [text(str(number)) for number in range(int(request.value))]


def generator(request: StringValue, context: Context) -> Iterable[StringValue]:
    for number in range(int(request.value)):
        yield text(str(number))


def deferreds(request: StringValue, context: Context) -> Iterable[Deferred[StringValue]]:
    for number in range(int(request.value)):
        yield succeed(text(str(number)))


def deferred(request: StringValue, context: Context) -> Deferred[Iterable[StringValue]]:
    return succeed(plain(request, context))


async def coroutine(request: StringValue, context: Context) -> Iterable[StringValue]:
    return plain(request, context)


@pytest.mark.parametrize("handler", [plain, generator, deferreds, deferred, coroutine])
def test_a_handler_may_give_items_in_many_ways(make: Worlds, handler: Any) -> None:
    reader = make(handler).run(5000)
    assert reader.items == numbers(5000)
    assert reader.ended == "well"


def test_a_callback_may_read(make: Worlds) -> None:
    world = make()
    items: list[str] = []
    ended = world.open(3).each(lambda item: items.append(item.value))
    assert world.network.result(ended) is None
    assert items == numbers(3)


def test_a_callback_may_have_the_next_item_wait(make: Worlds) -> None:
    world = make()
    waiting: list[Deferred[None]] = []

    def take(item: StringValue) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    ended = world.open(2).each(take)
    world.network.run()
    assert len(waiting) == 1
    waiting[0].callback(None)
    assert len(waiting) == 2
    assert not ended.called
    waiting[1].callback(None)
    assert ended.called


def test_a_callback_that_fails_cancels_the_stream(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    ended = world.open().each(lambda item: 1 / 0)
    world.network.run()
    endless.give()
    with pytest.raises(ZeroDivisionError):
        world.network.result(ended)
    assert endless.ends == ["the client cancelled it"]
    assert not endless.running


def test_a_stream_has_one_reader_at_a_time(make: Worlds) -> None:
    world = make(Endless())
    first = world.run()
    second = Reader(first.stream)
    assert isinstance(second.ended, RuntimeError)
    first.stream.cancel()


def test_metadata_goes_both_ways(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"begin": "1"})
        yield text(dict(context.metadata)["tenant"])  # type: ignore[arg-type]  # text, by its key
        context.set_trailing_metadata({"end-bin": b"2"})

    world = make(handler)
    with ResponseMetadata() as metadata:
        reader = world.run(metadata={"tenant": "a"})
    assert reader.items == ["a"]
    assert reader.stream.initial_metadata == metadata.initial == (("begin", "1"),)
    assert reader.stream.trailing_metadata == metadata.trailing == (("end-bin", b"2"),)


def test_initial_metadata_may_come_before_all_items(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> list[Deferred[StringValue]]:
        context.send_initial_metadata({"begin": "1"})
        return [Deferred()]

    reader = make(handler).run()
    assert reader.stream.initial_metadata == (("begin", "1"),)
    assert not reader.has_ended
    reader.stream.cancel()


# -- back-pressure -----------------------------------------------------------------------------


def test_a_handler_is_not_asked_beyond_the_window(make: Worlds) -> None:
    asked: list[int] = []

    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for number in range(1000):
            asked.append(number)
            yield text(str(number))

    world = make(handler, stream_window=10)
    stream = world.open()
    world.network.advance(5)
    assert len(asked) == 10
    reader = Reader(stream)
    assert len(reader.items) == 10
    world.network.run()
    assert reader.items == numbers(1000)


@pytest.mark.parametrize("on_server", [False, True])
def test_the_window_has_bytes_too(make: Worlds, on_server: bool) -> None:
    asked: list[int] = []

    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for number in range(100):
            asked.append(number)
            yield text("x" * 98)  # 100 bytes

    limit = {"limits": ServerLimits(stream_window_bytes=450)}
    world = make(handler, **(limit if on_server else {"stream_window_bytes": 450}))
    stream = world.open()
    world.network.run()
    assert len(asked) == 5
    reader = Reader(stream)
    world.network.run()
    assert len(reader.items) == 100


def test_all_streams_have_a_limit_together(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for _ in range(10):
            yield text("x" * 98)

    world = make(handler, limits=ServerLimits(streams_bytes=500))
    first, second = world.open(), world.open()
    world.network.run()
    third = world.run()
    assert isinstance(third.ended, ResourceExhausted)
    assert "ServerLimits.streams_bytes" in third.ended.message
    readers = [Reader(first), Reader(second)]
    # Nothing is acknowledged before half a window was read, or a heartbeat asks.
    world.network.advance(30)
    assert [len(reader.items) for reader in readers] == [10, 10]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=1), "ServerLimits.streams)"),
        (ServerLimits(streams_per_peer=1), "ServerLimits.streams_per_peer)"),
    ],
)
def test_the_number_of_streams_is_limited(make: Worlds, limits: ServerLimits, name: str) -> None:
    world = make(Endless(), limits=limits)
    first = world.run()
    second = world.run()
    assert isinstance(second.ended, ResourceExhausted)
    assert name in second.ended.message
    assert world.server.counters["shed stream"] == 1
    first.stream.cancel()
    world.network.run()
    assert not world.run().has_ended


def streams_of(world: StreamWorld) -> Any:
    """What the server has of streams; there is no other place to look."""
    server: Any = world.server
    return server._dispatcher.streams


class Deaf:
    """Subscribes to streams, and says nothing of what it gets (a ``SubscriberHandler``)."""

    def __init__(self, world: StreamWorld) -> None:
        self.raw = RawClient(world.network, ADDRESS)
        self.transport = world.network.subscribe(PUBLISHER, self, {})
        self.run = world.network.run
        #: What it got.
        self.frames: list[bytes] = []

    def open(self) -> ResponseHead:
        head = RequestHead(COUNT.path, None, (), open_stream=OpenStream())
        number = self.raw.request(head, text("0").SerializeToString())
        self.run()
        reply, _ = self.raw.replies()[number]
        if reply.stream is not None:
            self.transport.subscribe(reply.stream.topic + SEPARATOR)
            self.run()
        return reply

    def close(self) -> None:
        self.raw.transport.close()
        self.transport.close()

    def published(self, frame: bytes) -> None:
        self.frames.append(frame)

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def failed(self, reason: str) -> None: ...

    def flush(self) -> None: ...

    def closed(self) -> None: ...


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=3), "ServerLimits.streams)"),
        (ServerLimits(streams_per_peer=3), "ServerLimits.streams_per_peer)"),
    ],
)
def test_streams_count_until_the_client_has_the_end(
    make: Worlds, limits: ServerLimits, name: str
) -> None:
    world = make(limits=limits)
    deaf = Deaf(world)
    world.network.run()
    codes = [deaf.open().code for _ in range(4)]
    assert not streams_of(world).running
    assert codes == [Code.OK] * 3 + [Code.RESOURCE_EXHAUSTED]
    assert name in deaf.open().message
    world.network.advance(30)  # it has stopped answering
    assert deaf.open().code is Code.OK
    deaf.close()
    world.network.advance(30)


def test_a_stream_that_ends_and_is_cancelled_in_one_turn_is_forgotten(make: Worlds) -> None:
    ending: list[Deferred[None]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        ending.append(Deferred())
        await ending[-1]
        for nothing in list[StringValue]():
            yield nothing

    world = make(handler)
    deaf = Deaf(world)
    world.network.run()
    topics = [stream.topic for _ in range(2) if (stream := deaf.open().stream)]
    body = streams_pb2.CancelStreamsRequest(topics=topics[:1]).SerializeToString()
    deaf.raw.request(RequestHead("/txzmq.rpc.v1.Streams/Cancel", None, ()), body)
    body = streams_pb2.AcknowledgeRequest(
        positions=[streams_pb2.Position(topic=topics[1], sequence=2)]
    ).SerializeToString()
    deaf.raw.request(RequestHead("/txzmq.rpc.v1.Streams/Acknowledge", None, ()), body)
    for deferred in ending:
        deferred.callback(None)
    world.network.run()
    assert not streams_of(world)
    world.network.advance(60)
    assert deaf.frames == []  # not even heartbeats
    assert not world.server.counters["silent subscriber"]
    deaf.close()


def test_an_item_has_a_size_on_the_server(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        yield text("a")
        yield text("x" * 100)

    reader = make(handler, limits=ServerLimits(message_size=100)).run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, ResourceExhausted)
    assert "ServerLimits.message_size" in reader.ended.message


def test_an_item_has_a_size_on_the_client(make: Worlds) -> None:
    world = make(returning([text("a"), text("x" * 100)]), message_size=100)
    reader = world.run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, ResourceExhausted)
    assert "Channel's message_size" in reader.ended.message


# -- how they end ------------------------------------------------------------------------------


def test_an_error_comes_after_the_items_before_it(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        raise NotFound("no more", metadata=(("k", "v"),))

    reader = make(handler).run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, NotFound)
    assert reader.ended.message == "no more"
    assert reader.ended.metadata == (("k", "v"),)
    assert reader.ended.method == COUNT.path


@pytest.mark.parametrize(
    "handler",
    [returning(fail(PermissionDenied("not you"))), raising(PermissionDenied("not you"))],
)
def test_an_error_may_come_first(make: Worlds, handler: Handler) -> None:
    reader = make(handler).run()
    assert isinstance(reader.ended, PermissionDenied)


def test_an_unexpected_exception_is_logged_and_not_sent(make: Worlds, logged: Logged) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        raise ZeroDivisionError("secret")

    reader = make(handler).run()
    assert isinstance(reader.ended, Unknown)
    assert "secret" not in reader.ended.message
    (error,) = logged.failures()
    assert isinstance(error, ZeroDivisionError)
    logged.clear()


@pytest.mark.parametrize("result", [[BytesValue()], [None], ["x"]])
def test_an_item_of_a_wrong_type_ends_the_stream(
    make: Worlds, logged: Logged, result: object
) -> None:
    reader = make(returning(result)).run()
    assert isinstance(reader.ended, Unknown)
    assert [type(error) for error in logged.failures()] == [TypeError]
    logged.clear()


def test_a_handler_that_returns_no_stream_is_told(make: Worlds, logged: Logged) -> None:
    reader = make(returning(5)).run()
    assert isinstance(reader.ended, Internal)
    logged.clear()


def test_cancelling_ends_the_handler(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    endless.give()
    world.network.run()
    reader.stream.cancel()
    reader.stream.cancel()
    assert isinstance(reader.ended, CancelledError)
    world.network.run()
    assert reader.items == ["1"]
    assert endless.ends == ["the client cancelled it"]
    assert not endless.running
    assert not world.server.running


def test_cancelling_ends_a_handler_that_waits_for_room(make: Worlds) -> None:
    ended: list[str] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        try:
            for number in range(100):
                yield text(str(number))
        finally:
            ended.append("closed")

    world = make(handler, stream_window=2)
    stream = world.open()
    world.network.run()
    stream.cancel()
    world.network.run()
    assert ended == ["closed"]
    assert isinstance(Reader(stream).ended, CancelledError)


@pytest.mark.parametrize("turns", range(8))
def test_cancelling_at_any_moment_leaves_nothing(make: Worlds, turns: int) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.read()
    for _ in range(turns):
        world.network.clock.advance(0)
    reader.stream.cancel()
    assert isinstance(reader.ended, CancelledError)
    world.network.advance(0.5)
    assert not endless.running
    assert not world.server.running


def test_the_coroutine_that_reads_may_be_cancelled(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    reader.done.cancel()
    world.network.run()
    assert isinstance(reader.ended, CancelledError)
    assert not endless.running


def test_leaving_a_with_block_cancels(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)

    async def read() -> str:
        async with world.open() as stream:
            async for item in stream:
                return item.value
        raise AssertionError("no item")

    read_ = Deferred.fromCoroutine(read())
    world.network.run()
    endless.give()
    assert world.network.result(read_) == "1"
    assert not endless.running


def test_forgetting_cancels(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    world.open()
    gc.collect()
    world.network.run()
    stream = world.open()
    world.network.run()
    assert endless.running == 1
    del stream
    gc.collect()
    world.network.run()
    assert not endless.running


def test_a_coroutine_that_is_closed_is_not_woken(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)

    async def read() -> None:
        async with world.open() as stream:
            async for _ in stream:
                pass

    coroutine = read()
    coroutine.send(None)
    world.network.run()
    coroutine.close()  # as the garbage collector does
    world.network.run()
    assert not endless.running


def test_a_handler_that_goes_on_when_cancelled_keeps_its_place(make: Worlds) -> None:
    release: Deferred[None] = Deferred()

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        try:
            await Deferred()
        except CancelledError:
            await release
        yield text("x")

    world = make(handler, limits=ServerLimits(streams=1))
    world.run().stream.cancel()
    world.network.run()
    assert world.server.running == 1
    assert isinstance(world.run().ended, ResourceExhausted)
    release.callback(None)
    world.network.run()
    assert not world.server.running


def test_a_stream_has_a_deadline_on_both_sides(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run(timeout=1.0)
    assert world.service.contexts[0].time_remaining() == pytest.approx(1.0)
    world.network.advance(1.1)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert endless.ends
    assert not endless.running


def test_the_servers_deadline_is_told(make: Worlds) -> None:
    world = make(Endless(), limits=ServerLimits(stream_timeout=1.0))
    reader = world.run()
    world.network.advance(1.1)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert "on the server" in reader.ended.message


def test_a_stream_has_no_deadline_by_default(make: Worlds) -> None:
    endless = Endless()
    world = make(endless, timeout=2.0)
    reader = world.run()
    world.network.advance(10_000)
    endless.give()
    world.network.run()
    assert reader.items == ["1"]
    assert world.service.contexts[0].time_remaining() is None
    reader.stream.cancel()


def test_opening_has_the_channels_timeout(make: Worlds) -> None:
    world = make(waiting_for_ever, timeout=2.0)
    reader = world.run()
    world.network.advance(2.1)
    assert isinstance(reader.ended, DeadlineExceeded)
    world.network.run()


def test_silence_has_a_limit(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = Reader(world.open().max_silence(5))
    for _ in range(5):
        world.network.advance(4)
        endless.give()
    world.network.advance(4.9)
    assert not reader.has_ended
    world.network.advance(0.2)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert "silent for 5 s" in reader.ended.message
    assert reader.items == ["1", "2", "3", "4", "5"]
    assert not endless.running


def test_a_handlers_streams_end_with_it(make: Worlds) -> None:
    inner = Endless()
    inside = make(inner)
    taken: list[str] = []

    async def outer(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        assert current_context() is context
        async for item in inside.open(timeout=100):
            taken.append(item.value)
            yield item

    world = make(outer)
    reader = world.run(timeout=50)
    inside.network.run()
    inner.give()
    inside.network.run()
    world.network.run()
    assert reader.items == ["1"]
    left = inside.service.contexts[0].time_remaining()
    assert left is not None
    assert left <= 50
    reader.stream.cancel()
    world.network.run()
    inside.network.run()
    assert not inner.running


def test_a_channel_that_is_closed_says_so(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    world.run()
    assert endless.running == 1
    world.channel.close()
    world.network.run()
    assert endless.ends == ["the client cancelled it"]


def test_closing_the_channel_ends_its_streams(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    world.channel.close()
    assert isinstance(reader.ended, CancelledError)
    late = world.run()
    assert isinstance(late.ended, Unavailable)
    world.network.advance(10)
    assert not endless.running


# -- connections that break --------------------------------------------------------------------


def test_a_stream_survives_a_broken_connection(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    for _ in range(20):
        world.cut()
        endless.give()
        world.network.advance(0.05)
        endless.give()
        world.network.advance(2)
    assert reader.items == [str(number) for number in range(1, 41)]
    assert world.server.counters["replay"]
    reader.stream.cancel()


def test_the_end_survives_a_broken_connection(make: Worlds) -> None:
    release: Deferred[None] = Deferred()

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        await release
        context.set_trailing_metadata({"k": "v"})
        raise NotFound("gone")

    world = make(handler)
    reader = world.run()
    world.cut()
    release.callback(None)
    world.network.advance(3)
    assert isinstance(reader.ended, NotFound)
    assert reader.stream.trailing_metadata == (("k", "v"),)
    world.network.advance(1)


def test_a_subscriber_that_does_not_come_back_is_forgotten(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    world.run()
    # As if the process had died: the channel does nothing any more.
    other = Channel(world.network, ADDRESS)
    reader = Reader(other.unary_stream(COUNT, text("1")))
    world.network.run()
    assert endless.running == 2
    world.network.faults = Faults(loss=1)
    other.close()
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(4.9)
    assert endless.running == 2
    world.network.advance(0.2)
    assert endless.running == 1
    assert endless.ends == ["nobody subscribes to it"]
    assert isinstance(reader.ended, CancelledError)


def test_a_client_that_never_subscribes_is_forgotten(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.read()
    world.network.publisher(PUBLISHER).close()  # type: ignore[union-attr]  # there is one
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)
    assert not world.server.running
    assert not endless.running


def test_a_restarted_server_is_told_as_such(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    world.die()
    world.network.advance(0.1)
    assert not reader.has_ended
    world.serve()
    world.network.advance(2)
    assert isinstance(reader.ended, Unavailable)
    assert "was restarted" in reader.ended.message
    assert not world.run(timeout=1).has_ended


def test_a_restart_is_told_where_the_question_for_the_streams_is_lost(make: Worlds) -> None:
    world = make(Endless())
    reader = world.run()
    world.die()
    world.network.advance(0.1)
    world.serve()
    world.network.faults = Faults(loss=1)
    world.network.advance(2)  # connected, and asked in vain
    world.network.faults = Faults()
    world.network.advance(60)
    assert isinstance(reader.ended, Unavailable)
    assert "was restarted" in reader.ended.message


def test_a_server_that_is_gone_is_told(make: Worlds) -> None:
    world = make(Endless())
    reader = world.run()
    world.die()
    world.network.advance(4.9)
    assert not reader.has_ended  # it could come back
    world.network.advance(0.2)
    assert isinstance(reader.ended, Unavailable)
    assert "connection" in reader.ended.message


@pytest.mark.parametrize("seed", range(10))
def test_loss_doubles_and_delay_change_nothing(make: Worlds, seed: int) -> None:
    faults = Faults(seed=seed, loss=0.2, duplication=0.2, delay=0.3)
    world = make(faults=faults, stream_window=8)
    reader = world.read(100)
    while reader.ended != "well":
        world.network.advance(200)
        if isinstance(reader.ended, RpcError):
            reader = world.read(100)  # the call that opens it was lost
    assert reader.items == numbers(100)
    assert reader.ended == "well"


def test_a_client_that_stops_answering_is_forgotten(make: Worlds) -> None:
    world = make(limits=ServerLimits(stream_silence=20), stream_window=2)
    stream = world.open(10)
    world.network.run()
    # Heartbeats are answered even when nobody reads ...
    world.network.advance(100)
    assert world.server.running == 1
    # ... but not by a process that is stopped.
    world.network.faults = Faults(loss=1)
    world.network.advance(40)
    world.network.faults = Faults()
    assert not world.server.running
    assert world.server.counters["silent subscriber"] == 1
    stream.cancel()


async def count_on(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Count slowly, from wherever another one left off."""
    for number in range(context.first_item - 1, int(request.value)):
        yield text(str(number))
        if number % 3 == 2:
            await sleep_of[context.method](0.2)


sleep_of: dict[str, Callable[[float], Deferred[None]]] = {}


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_stream_goes_on_elsewhere_where_its_method_may(make: Worlds, how: str) -> None:
    world = make(count_on)
    sleep_of[RESUME.path] = world.sleep
    reader = Reader(world.channel.unary_stream(RESUME, text("60")))
    for _ in range(3):
        world.network.advance(0.7)
        assert not reader.has_ended
        if how == "dies":
            world.die()
        else:
            world.server.stop(0)
        world.network.advance(0.1)
        world.serve()
        world.network.advance(1)
    world.network.advance(30)
    assert reader.items == numbers(60)
    assert reader.ended == "well"
    assert world.channel.counters["stream resumed"] == 3
    # What the dead servers still run has lost its clients, too.


def test_a_method_that_is_not_resumable_begins_at_the_beginning(make: Worlds) -> None:
    world = make()
    calls: Any = world.channel._calls  # pyright: ignore[reportPrivateUsage]  # another client may
    calls._window = calls._window._replace(sequence=5)
    assert isinstance(world.run().ended, FailedPrecondition)


# -- interceptors, on the server ---------------------------------------------------------------


def test_an_interceptor_goes_around_opening(make: Worlds) -> None:
    async def refuse(request: Any, context: Context, proceed: ServerProceed) -> Any:
        if request.value == "0":
            raise PermissionDenied("not you")
        return await proceed(request)

    world = make(interceptors=[refuse])
    assert isinstance(world.run(0).ended, PermissionDenied)
    assert world.run(2).items == numbers(2)


def test_an_interceptor_may_change_the_items(make: Worlds) -> None:
    async def louder(request: Any, context: Context, proceed: ServerProceed) -> Any:
        items = await proceed(request)

        async def changed() -> AsyncIterator[StringValue]:
            async for item in items:
                yield text(f"{item.value}!")

        return changed()

    assert make(interceptors=[louder]).run(2).items == ["0!", "1!"]


# -- a server that shuts down ------------------------------------------------------------------


def test_a_drain_lets_streams_end(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    stopped = world.server.stop(grace=10)
    world.network.advance(5)
    endless.give()
    world.network.run()
    assert reader.items == ["1"]
    assert not stopped.called
    reader.stream.cancel()
    world.network.advance(3)
    assert stopped.called


def test_a_drain_that_is_over_ends_streams(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    stopped = world.server.stop(grace=10)
    world.network.advance(11)
    assert stopped.called
    assert isinstance(reader.ended, Unavailable)
    assert "shut down" in reader.ended.message
    assert endless.ends == ["the server shuts down"]
    assert not endless.running


# -- clients that say nothing any more ---------------------------------------------------------


async def one_and_silence(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    yield text("first")
    await Deferred()


def hold(world: StreamWorld) -> Callable[[], None]:
    """Let nothing arrive, as if a process were stopped; until the result is called."""
    held: list[Callable[[], None]] = []
    carry = world.network.carry

    def keep(arrive: Callable[[], None]) -> None:
        held.append(arrive)

    world.network.carry = keep  # type: ignore[method-assign]  # connections stay as they are

    def release() -> None:
        world.network.carry = carry  # type: ignore[method-assign]  # as it was
        for arrive in held:
            world.network.clock.callLater(0, arrive)

    return release


@pytest.mark.parametrize("count", [1, 5])
def test_s5_an_idle_client_that_says_nothing_is_given_up(make: Worlds, count: int) -> None:
    # Without pings the client does not notice; a stopped one would not either.
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(count)]
    world.network.advance(30)  # everything is acknowledged
    hold(world)
    world.network.advance(9)
    assert world.server.running == count
    world.network.advance(16)
    assert world.server.running == 0
    assert world.server.counters["silent subscriber"] == count
    assert [reader.items for reader in readers] == [["first"]] * count


def test_a_client_that_was_stopped_learns_that_it_was_given_up(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    world.network.advance(30)
    release = hold(world)
    world.network.advance(60)
    release()
    world.network.advance(10)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)
        assert "has given up the stream" in reader.ended.message


def test_a_client_that_was_stopped_learns_of_all_where_timers_are_late(make: Worlds) -> None:
    """It is looked at before three quarters of the time that it may be silent, and after all."""
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    clock: Any = world.network.clock
    call_later = clock.callLater
    # The server looks every 5.1 s, at 30.6 s for instance.

    def late(seconds: float, *rest: Any) -> Any:
        return call_later(seconds + 0.1 if seconds == 5 else seconds, *rest)

    clock.callLater = late
    readers = [world.run() for _ in range(3)]
    world.network.advance(30.6 + 0.35)
    readers.append(world.run())  # a sign of life; it is silent for 14.95 s, and then for 20.05
    release = hold(world)
    world.network.advance(60)
    assert world.server.running == 0
    release()
    world.network.advance(10)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)


@pytest.mark.parametrize("ping_interval", [10, None])
def test_an_idle_client_is_not_given_up(make: Worlds, ping_interval: float | None) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=ping_interval))
    readers = [world.run() for _ in range(100)]
    world.network.advance(30)
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    published: list[bytes] = []
    publish = publisher.publish

    def noted(frame: bytes) -> None:
        published.append(frame)
        publish(frame)

    publisher.publish = noted  # type: ignore[method-assign]  # there is no other place to look
    world.network.advance(600)
    assert world.server.running == 100
    assert not any(reader.has_ended for reader in readers)
    # One stream speaks for all of them.
    assert len(published) <= 61


def test_a_server_that_stood_still_gives_nobody_up_for_it(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    world.network.advance(30)
    world.network.clock.advance(60)  # all timers come late, and before what has arrived is read
    world.network.advance(60)
    assert world.server.running == 3
    assert not any(reader.has_ended for reader in readers)


def test_a_stopped_client_is_given_up_though_the_server_stood_still(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    for _ in range(3):
        world.run()
    world.network.advance(30)
    hold(world)
    world.network.clock.advance(60)
    world.network.advance(30)
    assert world.server.running == 0
    assert world.server.counters["silent subscriber"] == 3


def test_a_client_that_pings_is_not_given_up(make: Worlds) -> None:
    """Its heartbeats may be lost on their way, while it waits for other calls."""
    world = make(Endless())
    deaf = Deaf(world)
    world.network.run()
    assert deaf.open().code is Code.OK
    for _ in range(10):
        deaf.raw.request(RequestHead("/txzmq.rpc.v1.Control/Ping", None, ()))
        world.network.advance(10)
    assert world.server.running == 1
    world.network.advance(30)
    assert world.server.running == 0
    deaf.close()


def test_a_server_that_stood_still_waits_for_acknowledgements(make: Worlds) -> None:
    world = make(stream_window=2)
    stream = world.open(1000)  # is not read, so that items wait
    world.network.advance(5)
    world.network.clock.advance(60)
    world.network.advance(60)
    assert world.server.running == 1
    assert Reader(stream).ended is None


def test_a_client_that_came_back_speaks_for_its_streams(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    for _ in range(5):
        world.cut()
        world.network.advance(60)
    assert world.server.running == 3
    assert not any(reader.has_ended for reader in readers)
    hold(world)
    world.network.advance(25)
    assert world.server.running == 0
