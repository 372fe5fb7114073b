"""Streams that end by time: deadlines, limits of silence and patience, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import made, text
from tests.rpc.streaming import (
    COUNT,
    PUBLISHER,
    RESUME,
    Endless,
    Handler,
    Reader,
    StreamWorld,
    Worlds,
    count,
    following,
    streams_of,
    texts,
    waiting_for_ever,
)
from tests.support import Logged
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    NotFound,
    ServerLimits,
    Unavailable,
)
from txzmq.testing import Faults


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def test_a_stream_has_a_deadline_on_both_sides(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run(timeout=1.0)
    assert world.service.contexts[0].time_remaining() == pytest.approx(1.0)
    world.network.advance(1.1)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert endless.ends
    assert not endless.running


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("streams", [False, True])
def test_the_server_is_told_what_is_left_of_the_time(
    make: Worlds, *, waits: bool, streams: bool
) -> None:
    """Not the moment when it is up, nor what there was before the call waited for the server."""
    world = make(Endless() if streams else waiting_for_ever)
    world.network.advance(100)
    if waits:
        world.die()
        world.network.run()
    options: dict[str, Any] = {"timeout": 10.0, "wait_for_ready": True}
    call = world.open(**options) if streams else world.collect(texts(1), **options)
    if waits:
        world.network.advance(4)
        world.serve()
    world.network.advance(1)
    left = world.service.contexts[0].time_remaining()
    assert left == pytest.approx(5 if waits else 9, abs=0.01)
    call.cancel()
    if isinstance(call, Deferred):
        call.addErrback(lambda _: None)


def test_the_next_server_is_told_what_is_left_of_the_time(make: Worlds) -> None:
    world = make(Endless())
    world.network.advance(100)
    reader = Reader(world.channel.unary_stream(RESUME, text("x"), timeout=50.0))
    world.network.advance(20)
    world.die()
    lost = world.server
    world.serve()
    world.network.advance(10)
    first, second = world.service.contexts
    assert second is not first
    assert second.time_remaining() == pytest.approx(20, abs=0.01)
    reader.stream.cancel()
    lost.stop(0)


@pytest.mark.parametrize("how", ["read", "cancelled", "lost", "silent"])
def test_a_server_keeps_no_time_of_a_stream_that_has_ended(make: Worlds, how: str) -> None:
    world = make(count if how == "read" else Endless())
    stream = world.open(timeout=1_000)
    world.network.run()
    streams = streams_of(world)
    assert len(streams.deadlines) == (how != "read")
    if how == "read":
        assert Reader(stream).ended == "well"
    elif how == "cancelled":
        stream.cancel()
    elif how == "lost":
        world.vanish(world.channel)
        world.network.advance(10)
    else:
        world.network.faults = Faults(loss=1)
        world.network.advance(60)
        world.network.faults = Faults()
    world.network.run()
    assert [len(streams.deadlines), len(streams.graces), len(streams.returns)] == [0, 0, 0]


async def fast(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    for number in range(20):
        yield text(str(number))


async def failing(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    for number in range(4):
        yield text(str(number))
    raise NotFound("no more")


@pytest.mark.parametrize("handler", [fast, failing])
@pytest.mark.parametrize("pause", [0.0, 0.1, 2.0])
def test_at_the_deadline_what_was_not_read_is_dropped(
    make: Worlds, handler: Handler, pause: float
) -> None:
    """Also where the end had arrived: a slow reader and one that begins late get the same error."""
    world = make(handler)
    stream = world.open(timeout=0.5)
    world.network.run()
    if not pause:
        first = world.network.result(following(stream))
        assert first.value == "0"
    world.network.advance(pause)
    items: list[str] = []

    async def read() -> None:
        async for item in stream:
            items.append(item.value)
            await world.sleep(0.4)

    reading = Deferred.fromCoroutine(read())
    world.network.advance(3)
    with pytest.raises(DeadlineExceeded) as caught:
        world.network.result(reading)
    assert caught.value.method == COUNT.path
    assert len(items) <= 2
    with pytest.raises(DeadlineExceeded):
        world.network.result(following(stream))


def test_who_has_read_the_last_item_in_time_gets_the_end(make: Worlds) -> None:
    world = make()
    stream = world.open(2, timeout=0.5)
    world.network.run()
    for number in range(2):
        item = world.network.result(following(stream))
        assert item.value == str(number)
    world.network.advance(1)
    reader = Reader(stream)
    assert (reader.items, reader.ended) == ([], "well")


@pytest.mark.parametrize("how", ["read", "cancelled", "forgotten", "closed"])
def test_a_deadline_of_an_ended_stream_is_given_back(make: Worlds, how: str) -> None:
    world = make()
    stream = world.open(2, timeout=100)
    world.network.run()
    if how == "read":
        assert world.network.result(Reader(stream).done) is None
    elif how == "cancelled":
        stream.cancel()
    elif how == "forgotten":
        del stream
        gc.collect()
    else:
        world.channel.close()
    world.network.advance(1)
    registry: Any = world.channel
    assert not registry._registry._logical
    assert len(registry._registry._deadlines) == 0


def test_a_handler_that_swallows_cancelling_and_goes_on_keeps_nothing(
    make: Worlds, logged: Logged
) -> None:
    """Each item that it gives after the end is refused: no byte is counted, no number taken."""
    release: list[Deferred[None]] = []
    given: list[int] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("first")
        for number in range(100):
            with suppress(CancelledError):
                release.append(Deferred())
                await release[-1]
            given.append(number)
            yield text("x" * 1_000)

    world = make(handler)
    for _ in range(20):
        stream = world.open()
        world.network.run()
        stream.cancel()
        world.network.run()
    assert given == [0] * 20
    assert not world.server.running
    assert streams_of(world).kept.size == 0


def test_an_item_after_the_servers_deadline_takes_no_number(make: Worlds, logged: Logged) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            with suppress(CancelledError):
                await Deferred()
            yield text("x")

    world = make(handler, limits=ServerLimits(stream_timeout=1.0))
    reader = world.run()
    world.network.advance(1.1)
    assert reader.items == []
    assert isinstance(reader.ended, DeadlineExceeded)
    assert not world.server.running
    assert streams_of(world).kept.size == 0


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


def test_a_limit_of_silence_reaches_a_stream_that_an_interceptor_holds_back(make: Worlds) -> None:
    held: Deferred[None] = Deferred()

    async def hold(call: ClientCall, proceed: ClientProceed) -> Any:
        await held
        return await proceed(call)

    world = make(Endless(), client_interceptors=[hold])
    reader = Reader(world.open().max_silence(5))
    world.network.advance(60)
    assert not reader.has_ended  # there is no stream yet that could be silent
    held.callback(None)
    world.network.advance(5.1)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert "silent for 5 s" in reader.ended.message


def test_a_limit_of_silence_may_be_changed_while_its_reader_waits(make: Worlds) -> None:
    world = make(Endless())
    stream = world.open().max_silence(5)
    reader = Reader(stream)
    world.network.advance(4)
    stream.max_silence(None)
    world.network.advance(100)
    assert not reader.has_ended
    stream.max_silence(3)
    world.network.advance(2.9)
    assert not reader.has_ended
    world.network.advance(0.2)
    assert isinstance(reader.ended, DeadlineExceeded)


def test_a_stream_that_nobody_waits_for_is_not_silent(make: Worlds) -> None:
    """What counts is how long its reader waits, not how long it takes with an item."""
    endless = Endless()
    world = make(endless)
    stream = world.open().max_silence(5)
    item = following(stream)
    world.network.advance(4)
    endless.give()
    world.network.run()
    assert world.network.result(item).value == "1"
    world.network.advance(100)
    reader = Reader(stream)
    world.network.advance(4.9)
    assert not reader.has_ended
    world.network.advance(0.2)
    assert isinstance(reader.ended, DeadlineExceeded)


@pytest.mark.parametrize("how", ["closed", "no publisher"])
def test_streams_end_whose_socket_is_gone(make: Worlds, how: str) -> None:
    """Of three, so that they have a bundle, too; there is no socket to unsubscribe from."""
    endless = Endless()
    world = make(endless)
    readers = [world.run() for _ in range(3)]
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    (subscriber,) = publisher.subscribers
    if how == "closed":
        subscriber.close()
        subscriber.handler.closed()
    else:
        subscriber.handler.failed("something else listens there")
    for reader in readers:
        reader.stream.cancel()
        world.network.run()
        assert isinstance(reader.ended, CancelledError)
    assert not endless.running


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_a_reader_that_is_gone_leaves_no_limit_of_silence(make: Worlds, how: str) -> None:
    endless = Endless()
    world = make(endless)
    stream = world.open().max_silence(100)
    world.network.run()

    async def read() -> None:
        async for _ in stream:
            pass

    reading = read()
    if how == "cancelled":
        waiting = Deferred.fromCoroutine(reading)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        world.network.run()
        assert not endless.running
        return  # and the world is closed, which looks for what is left
    reading.send(None)
    reading.close()
    world.network.advance(200)
    another = following(stream)
    endless.give()
    assert world.network.result(another).value == "1"


def test_a_stream_that_ends_leaves_the_others_their_patience(make: Worlds) -> None:
    """The connection is lost: one is cancelled, and the other still fails in time."""
    world = make(Endless())
    lost = world.server
    readers = [world.run() for _ in range(2)]
    world.die()
    world.network.advance(1)
    readers[0].stream.cancel()
    world.network.advance(10)
    assert isinstance(readers[1].ended, Unavailable)
    lost.stop(0)
