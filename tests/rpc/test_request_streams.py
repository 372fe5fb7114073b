"""Streams of requests with one response, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import Reader, Source, StreamWorld, Worlds, echo, join, numbers, texts
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Code,
    Context,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    RequestStream,
    ResourceExhausted,
    ResponseMetadata,
    ServerLimits,
    ServerProceed,
    Unavailable,
)
from txzmq.rpc._server.request_stream import ReceivedRequests, Replies
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.v1.streams_pb2 import SendRequest
from txzmq.testing import MessageKind


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.mark.parametrize("count", [0, 1, 2, 300, 5000])
def test_all_requests_arrive_in_order(make: Worlds, count: int) -> None:
    world = make(join)
    assert world.network.result(world.collect(texts(count))).value == ",".join(numbers(count))


def generator() -> Iterable[StringValue]:
    yield from texts(3)


async def asynchronous() -> AsyncIterator[StringValue]:
    for item in texts(3):
        yield item


@pytest.mark.parametrize("source", [list, generator, asynchronous])
def test_requests_may_come_from_anything(make: Worlds, source: Any) -> None:
    world = make(join)
    requests = texts(3) if source is list else source()
    assert world.network.result(world.collect(requests)).value == "0,1,2"


def test_requests_are_sent_as_they_come(make: Worlds) -> None:
    seen: list[str] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        async for request in requests:
            seen.append(request.value)  # noqa: PERF401 - as they come, not when all are there
        return text("done")

    world, source = make(handler), Source()
    result = world.collect(source())
    world.network.run()
    for value in "abc":
        source.give(value)
        world.network.run()
    assert seen == ["a", "b", "c"]
    source.give(None)
    assert world.network.result(result).value == "done"
    assert source.closed


def test_a_source_is_not_asked_beyond_the_window(make: Worlds) -> None:
    asked: list[int] = []
    go: Deferred[None] = Deferred()

    def source() -> Iterable[StringValue]:
        for number in range(3000):
            asked.append(number)
            yield text(str(number))

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        await go
        return await join(requests, context)

    world = make(handler)
    result = world.collect(source())
    world.network.advance(1)
    assert len(asked) == 1024
    go.callback(None)
    assert world.network.result(result).value == ",".join(numbers(3000))


def test_the_handler_may_answer_before_the_last_request(make: Worlds) -> None:
    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        async for request in requests:
            return request
        raise AssertionError("no request")

    world, source = make(handler), Source()
    result = world.collect(source())
    world.network.run()
    source.give("first")
    assert world.network.result(result).value == "first"
    assert source.closed


def test_an_error_ends_the_call_and_the_source(make: Worlds) -> None:
    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        raise NotFound("nothing here", metadata=(("k", "v"),))

    world, source = make(handler), Source()
    with ResponseMetadata() as metadata:
        result = world.collect(source())
    with pytest.raises(NotFound, match="nothing here"):
        world.network.result(result)
    assert metadata.trailing == (("k", "v"),)
    world.network.run()
    assert source.closed


def test_what_the_source_raises_is_what_the_caller_gets(make: Worlds) -> None:
    ended: list[str] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        context.cancelled.addCallback(ended.append)
        return await join(requests, context)

    async def source() -> AsyncIterator[StringValue]:
        yield text("a")
        await world.sleep(1)
        raise ZeroDivisionError

    world = make(handler)
    result = world.collect(source())
    world.network.advance(2)
    with pytest.raises(ZeroDivisionError):
        world.network.result(result)
    assert ended == ["the client cancelled it"]


def test_requests_follow_the_call_where_many_are_made_at_once(make: Worlds) -> None:
    arrived: list[int] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        async for request in requests:
            arrived.append(len(request.value))  # noqa: PERF401 - as they come
        return text("done")

    async def source() -> AsyncIterator[StringValue]:
        yield text("x" * 70_000)  # enough to be sent at once
        await world.sleep(5)

    world = make(handler)
    world.network.result(world.collect([]))
    results = [world.collect(source()) for _ in range(100)]
    world.network.advance(0.1)
    assert len(arrived) == 100
    world.network.advance(6)
    assert all(world.network.result(result).value == "done" for result in results)


def test_items_that_fail_at_once_leave_nothing_to_be_sent(make: Worlds) -> None:
    world = make(join)
    world.network.result(world.collect([]))
    calls = len(world.service.contexts)
    for _ in range(3):
        with pytest.raises(TypeError):
            world.network.result(world.collect([None]))
    assert len(world.service.contexts) == calls


@pytest.mark.parametrize("both", [False, True])
def test_items_may_close_the_channel(make: Worlds, both: bool) -> None:
    def source() -> Iterable[StringValue]:
        yield text("a")
        world.channel.close()
        yield text("b")

    world = make(echo if both else join)
    _ = world.chat([]) if both else world.collect([])  # so that there is a connection
    world.network.run()
    if both:
        reader = Reader(world.chat(source()))
        world.network.run()
        assert isinstance(reader.ended, CancelledError)
    else:
        with pytest.raises(CancelledError):
            world.network.result(world.collect(source()))


def test_items_may_cancel_a_call_that_waits_as_theirs_did(make: Worlds) -> None:
    def source() -> Iterable[StringValue]:
        yield text("a")
        other.cancel()

    world = make(join)
    result = world.collect(source())
    other = world.collect([])
    assert world.network.result(result).value == "a"
    with pytest.raises(CancelledError):
        world.network.result(other)
    assert len(world.service.contexts) == 1


@pytest.mark.parametrize("item", [None, "x", 5])
def test_a_request_of_a_wrong_type_is_told(make: Worlds, item: object) -> None:
    world = make(join)
    with pytest.raises(TypeError):
        world.network.result(world.collect([item]))


def test_what_is_no_iterable_is_told(make: Worlds) -> None:
    world = make(join)
    with pytest.raises(TypeError, match="takes an iterable"):
        world.network.result(world.collect(5))


def test_cancelling_ends_both_sides(make: Worlds) -> None:
    ended: list[str] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        try:
            return await join(requests, context)
        finally:
            ended.append("handler")

    world, source = make(handler), Source()
    result = world.collect(source())
    world.network.run()
    result.cancel()
    with pytest.raises(CancelledError):
        world.network.result(result)
    assert ended == ["handler"]
    assert source.closed
    assert not world.server.running


def test_a_deadline_ends_both_sides(make: Worlds) -> None:
    world, source = make(join), Source()
    result = world.collect(source(), timeout=1)
    world.network.advance(1.1)
    with pytest.raises(DeadlineExceeded):
        world.network.result(result)
    assert source.closed
    assert not world.server.running


def test_requests_are_sent_again_at_a_measured_pace_to_a_server_that_misses_them_all(
    make: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(join)
    asked = 0

    def missing(
        self: ReceivedRequests, replies: Replies, key: CallKey, request: SendRequest
    ) -> None:
        nonlocal asked
        asked += 1
        if request.acknowledge:
            replies.answer(key, ResponseHead(Code.OUT_OF_RANGE, "as if nothing had arrived"))

    monkeypatch.setattr(ReceivedRequests, "receive", missing)
    result = world.collect(texts(3))
    world.network.advance(10)
    assert 10 <= asked <= 40
    monkeypatch.undo()
    world.network.advance(3)
    assert world.network.result(result).value == "0,1,2"


def test_a_lost_connection_ends_both_sides(make: Worlds) -> None:
    world, source = make(join), Source()
    result = world.collect(source())
    world.network.run()
    world.network.cut(ADDRESS)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(result)
    world.network.run()
    assert source.closed
    assert not world.server.running


def test_a_request_has_a_size_on_both_sides(make: Worlds) -> None:
    big = [text("x" * 200)]
    world = make(join, message_size=100)
    with pytest.raises(ResourceExhausted, match="Channel's message_size"):
        world.network.result(world.collect(big))
    world = make(join, limits=ServerLimits(message_size=100))
    with pytest.raises(ResourceExhausted, match=r"ServerLimits\.message_size"):
        world.network.result(world.collect(big))


def test_the_call_waits_for_a_place_like_any_other(make: Worlds) -> None:
    go: Deferred[None] = Deferred()

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        await go
        return await join(requests, context)

    world = make(handler, limits=ServerLimits(running=1))
    results = [world.collect(texts(3)) for _ in range(3)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (1, 2)
    go.callback(None)
    assert [world.network.result(result).value for result in results] == ["0,1,2"] * 3


def test_interceptors_see_the_streams(make: Worlds) -> None:
    async def numbered(call: ClientCall, proceed: ClientProceed) -> Any:
        return await proceed(call.replace(request=[*call.request, text("added")]))

    async def refuse(request: Any, context: Context, proceed: ServerProceed) -> Any:
        if dict(context.metadata).get("user") == "stranger":
            raise PermissionDenied("not you")
        return await proceed(request)

    world = make(join, interceptors=[refuse], client_interceptors=[numbered])
    assert world.network.result(world.collect(texts(2))).value == "0,1,added"
    with pytest.raises(PermissionDenied):
        world.network.result(world.collect(texts(2), metadata={"user": "stranger"}))


def test_what_is_acknowledged_is_not_asked_about_any_more(make: Worlds) -> None:
    world, source = make(join), Source()
    world.collect(source()).addErrback(lambda _: None)
    world.network.run()
    source.give("1")
    world.network.advance(3)
    carry, sent = world.network.carry, 0

    def counted(arrive: Any, kind: MessageKind, parts: Any) -> None:
        nonlocal sent
        sent += kind is MessageKind.REQUEST
        carry(arrive, kind, parts)

    world.network.carry = counted  # type: ignore[method-assign]  # there is no other place to look
    world.network.advance(8)
    assert sent <= 1
