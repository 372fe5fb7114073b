"""Streams of responses, in virtual time: how they run, and what they carry."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogLevel, formatEvent

from tests.rpc.service import made, text
from tests.rpc.streaming import PUBLISHER, TICKS, Endless, Reader, StreamWorld, Worlds, numbers
from tests.support import Logged
from txzmq.rpc import (
    Context,
    Internal,
    PermissionDenied,
    ResourceExhausted,
    ResponseMetadata,
    ServerProceed,
)


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


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


def test_a_callback_may_be_a_coroutine(make: Worlds) -> None:
    world = make()
    waiting: list[Deferred[None]] = []

    async def take(item: StringValue) -> None:
        waiting.append(Deferred())
        await waiting[-1]
        assert item.value == "0"

    ended = world.open(2).each(take)
    world.network.run()
    assert len(waiting) == 1
    waiting[0].callback(None)
    assert len(waiting) == 2
    waiting[1].callback(None)
    with pytest.raises(AssertionError):
        world.network.result(ended)


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


def test_trailing_metadata_over_the_limit_is_an_error_of_the_server(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        context.set_trailing_metadata({"much": "x" * 20_000})

    reader = make(handler).run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, ResourceExhausted)
    assert "metadata" in reader.ended.message


def test_a_shared_run_of_nothing_that_can_be_iterated_is_told_to_its_callers(
    make: Worlds, logged: Logged
) -> None:
    async def handler(request: StringValue, context: Context) -> StringValue:
        return text("not a stream")

    world = make(handler)
    readers = [Reader(world.channel.unary_stream(TICKS, text("x"))) for _ in range(2)]
    world.network.run()
    assert [type(reader.ended) for reader in readers] == [Internal, Internal]
    assert not logged.failures()
    lines = [formatEvent(event) for event in logged if event["log_level"] is LogLevel.error]
    assert len(lines) == 1
    assert "returned StringValue, not an iterable of StringValue" in lines[0]
