"""When a stream is open, has its metadata and has ended: Deferreds that tell it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.retried_streams import World as RetriedWorld
from tests.rpc.service import made, text
from tests.rpc.streaming import (
    TICKS,
    Endless,
    Reader,
    StreamWorld,
    Worlds,
    count,
    numbers,
    raising,
    streams_of,
    waiting_for_ever,
)
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    NotFound,
    ResponseStream,
    Unavailable,
)
from txzmq.rpc._core.stream_state import OPENING


async def look_on(call: ClientCall, proceed: ClientProceed) -> Any:
    return await proceed(call)


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.fixture(params=["plain", "intercepted"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a world: a stream is the channel's, or that of an interceptor."""
    return {} if request.param == "plain" else {"client_interceptors": [look_on]}


def heartbeat(world: StreamWorld) -> None:
    """Have the server tell what it has published of each stream that has been subscribed to."""
    for stream in list(streams_of(world)._streams.values()):
        if stream.state is not OPENING:
            stream.publisher.heartbeat(stream)
    world.network.run()


class Sources:
    """Handlers whose items come from events, which nobody keeps for those who come late."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[str]] = []

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            event: Deferred[str] = Deferred(lambda waiting: self.waiting.remove(waiting))
            self.waiting.append(event)
            yield text(await event)

    def happen(self, event: str) -> None:
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(event)


def watch(world: StreamWorld, method: str, **options: Any) -> ResponseStream[StringValue]:
    if method == "private":
        return world.open(1, **options)
    return world.channel.unary_stream(TICKS, text("1"), **options)


@pytest.mark.parametrize("method", ["private", "shared"])
def test_what_happens_after_a_stream_is_open_is_not_missed(
    make: Worlds, options: dict[str, Any], method: str
) -> None:
    sources = Sources()
    world = make(sources, **options)
    stream = watch(world, method)
    reader = Reader(stream)
    opened = stream.opened()
    sources.happen("too early")
    assert not opened.called
    world.network.run()
    heartbeat(world)
    assert world.network.result(opened) is None
    for event in "abc":
        sources.happen(event)
        world.network.run()
    assert reader.items == ["a", "b", "c"]
    assert world.network.result(stream.opened()) is None, "also for who asks later"
    stream.cancel()


def test_a_stream_is_not_open_before_the_server_has_the_subscription(make: Worlds) -> None:
    world = make(waiting_for_ever)
    stream = world.open()
    opened = stream.opened()
    world.network.advance(1)
    assert not opened.called
    stream.cancel()
    with pytest.raises(CancelledError):
        world.network.result(opened)


def all_of(stream: ResponseStream[StringValue]) -> list[Deferred[Any]]:
    return [stream.opened(), stream.received_initial_metadata(), stream.ended()]


@pytest.mark.parametrize("ask", ["early", "late"])
def test_they_fail_with_the_streams_error(make: Worlds, options: dict[str, Any], ask: str) -> None:
    world = make(raising(NotFound("not here")), **options)
    stream = world.open()
    waiting = all_of(stream) if ask == "early" else []
    world.network.run()
    waiting = waiting or all_of(stream)
    for each in waiting:
        with pytest.raises(NotFound, match="not here"):
            world.network.result(each)


@pytest.mark.parametrize("ask", ["early", "late"])
def test_a_stream_that_nobody_reads_tells_its_end(
    make: Worlds, options: dict[str, Any], ask: str
) -> None:
    def handler(request: StringValue, context: Context) -> Any:
        context.send_initial_metadata({"key": "value"})
        return count(request, context)

    world = make(handler, **options)
    stream = world.open(3)
    waiting = all_of(stream) if ask == "early" else []
    world.network.run()
    waiting = waiting or all_of(stream)
    opened, metadata, ended = waiting
    assert world.network.result(opened) is None
    assert world.network.result(metadata) == (("key", "value"),)
    assert world.network.result(ended) is None
    assert Reader(stream).items == numbers(3), "the items are still there"


def test_an_error_behind_items_is_told_where_nobody_reads(
    make: Worlds, options: dict[str, Any]
) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("0")
        raise NotFound("no more")

    world = make(handler, **options)
    stream = world.open()
    with pytest.raises(NotFound):
        world.network.result(stream.ended())
    reader = Reader(stream)
    assert reader.items == ["0"]
    assert isinstance(reader.ended, NotFound)


def test_a_stream_without_metadata_tells_so_with_its_first_item(
    make: Worlds, options: dict[str, Any]
) -> None:
    endless = Endless()
    world = make(endless, **options)
    stream = world.open()
    received = stream.received_initial_metadata()
    world.network.run()
    heartbeat(world)
    assert not received.called
    endless.give()
    assert world.network.result(received) == ()
    stream.cancel()


def test_each_has_a_deferred_of_its_own(make: Worlds, options: dict[str, Any]) -> None:
    """To cancel one cancels neither the stream nor the others."""
    endless = Endless()
    world = make(endless, **options)
    stream = world.open()
    world.network.run()
    first, second = stream.ended(), stream.ended()
    first.cancel()
    with pytest.raises(CancelledError):
        world.network.result(first)
    world.network.run()
    assert not second.called
    assert endless.running == 1
    stream.cancel()
    with pytest.raises(CancelledError):
        world.network.result(second)
    world.network.run()
    assert not endless.running


def test_the_deadline_ends_it(make: Worlds, options: dict[str, Any]) -> None:
    world = make(Endless(), **options)
    stream = world.open(timeout=1.0)
    ended = stream.ended()
    world.network.advance(1.1)
    with pytest.raises(DeadlineExceeded):
        world.network.result(ended)


def test_who_waits_keeps_the_stream(make: Worlds, options: dict[str, Any]) -> None:
    """A stream that is forgotten is cancelled, but not while somebody waits for its end."""
    endless = Endless()
    world = make(endless, **options)
    ended = world.open().ended()
    world.network.run()
    gc.collect()
    world.network.run()
    assert endless.running == 1
    ended.cancel()
    gc.collect()
    with pytest.raises(CancelledError):
        world.network.result(ended)
    del ended
    gc.collect()
    world.network.run()
    assert not endless.running


def test_an_error_that_comes_along_with_items_is_behind_them(
    make: Worlds, options: dict[str, Any]
) -> None:
    """In one message: the stream was opened, and its metadata came before its first item."""

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("0")
        raise NotFound("no more")

    world = make(handler, **options)
    stream = world.open()
    waiting: list[Deferred[Any]] = [stream.opened(), stream.received_initial_metadata()]
    ended = stream.ended()
    world.network.run()
    assert [world.network.result(one) for one in waiting] == [None, ()]
    with pytest.raises(NotFound):
        world.network.result(ended)
    reader = Reader(stream)
    assert reader.items == ["0"]
    assert isinstance(reader.ended, NotFound)


def test_who_is_told_may_cancel_the_stream(make: Worlds, options: dict[str, Any]) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"key": "value"})
        yield text("0")

    world = make(handler, **options)
    for ask in ("opened", "received_initial_metadata", "ended"):
        stream = world.open()
        waiting: Deferred[Any] = getattr(stream, ask)()

        def cancel(_: object, stream: ResponseStream[StringValue] = stream) -> None:
            stream.cancel()

        waiting.addCallback(cancel)
        world.network.run()
        assert waiting.called
        assert Reader(stream).has_ended
    world.network.run()
    assert not world.server.running


def test_closing_the_channel_tells_all(make: Worlds, options: dict[str, Any]) -> None:
    world = make(waiting_for_ever, **options)
    waiting = all_of(world.open())
    world.network.run()
    world.channel.close()
    for each in waiting:
        with pytest.raises((CancelledError, Unavailable)):
            world.network.result(each)


class Own(ResponseStream[StringValue]):
    """What a user derives, without the newer methods."""

    async def __anext__(self) -> StringValue:
        raise StopAsyncIteration

    def cancel(self) -> None:
        pass


def test_a_stream_of_the_users_own_says_what_it_lacks() -> None:
    for ask in (Own.opened, Own.received_initial_metadata, Own.ended):
        with pytest.raises(NotImplementedError, match="Own"):
            ask(Own())


@pytest.mark.parametrize("asks", [False, True])
def test_a_stream_that_is_known_to_be_open_is_not_begun_elsewhere(asks: bool) -> None:
    """A policy may repeat it until then: what happens between two attempts is lost."""
    fails: list[Deferred[None]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        if not fails:
            fails.append(Deferred())
            await fails[0]
        yield text("from the beginning")

    world = RetriedWorld(handler)
    stream: ResponseStream[StringValue] = world.open(1)
    reader = Reader(stream)
    world.network.run()
    heartbeat(world)
    if asks:
        assert world.network.result(stream.opened()) is None
    fails[0].errback(Unavailable("it goes down"))
    world.network.advance(3)
    if asks:
        assert isinstance(reader.ended, Unavailable)
    else:
        assert reader.items == ["from the beginning"]
    world.close()
