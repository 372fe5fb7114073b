"""How a stream of responses ends: errors, cancelling and shutdown, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred, fail

from tests.rpc.service import made, text
from tests.rpc.streaming import (
    COUNT,
    Endless,
    Handler,
    Reader,
    StreamWorld,
    Worlds,
    following,
    numbers,
    raising,
    returning,
)
from tests.support import Logged
from txzmq.rpc import (
    Context,
    Internal,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServerLimits,
    Unavailable,
    Unknown,
    current_context,
)
from txzmq.testing import Faults, assert_all_given_back


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


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
    assert isinstance(reader.ended, Internal)
    assert not logged.failures()


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


def test_cancelling_what_is_not_read_yet_is_told_after_the_end_has_arrived(make: Worlds) -> None:
    world = make()
    stream = world.open(3)
    world.network.run()
    following(stream)
    assert stream.ended().called
    stream.cancel()
    reader = Reader(stream)
    assert reader.items == []
    assert isinstance(reader.ended, CancelledError)


def test_cancelling_drops_what_is_not_read_yet(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    stream = world.open()
    world.network.run()
    endless.give()
    world.network.run()
    stream.cancel()
    reader = Reader(stream)
    assert reader.items == []
    assert isinstance(reader.ended, CancelledError)


def test_an_item_that_cannot_be_parsed_ends_the_stream_on_both_sides(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    another: Any = ListValue
    method = replace(COUNT, response_type=another)
    reader = Reader(world.channel.unary_stream(method, text("x")))
    world.network.run()
    endless.give()
    world.network.run()
    assert isinstance(reader.ended, Internal)
    assert "an item of /test.Streaming/Count cannot be parsed" in reader.ended.message
    assert endless.ends == ["the client cancelled it"]
    assert not endless.running


def test_a_channel_that_closes_while_it_acknowledges_keeps_nothing(make: Worlds) -> None:
    world = make(stream_window=4)
    streams = [world.open(100), world.open(100)]
    world.network.run()
    world.network.faults = Faults(loss=1)
    readers = [Reader(stream) for stream in streams]
    world.network.run()  # the acknowledgement is lost
    assert [reader.items for reader in readers] == [numbers(4)] * 2
    world.channel.close()
    assert_all_given_back(world.channel)


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
