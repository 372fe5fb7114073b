"""What interceptors are told of a call's true end, on both sides, for all four kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError

from tests.rpc.retried_streams import config, idempotent
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.sharing import Ticker
from tests.rpc.sharing import World as SharingWorld
from tests.rpc.streaming import COLLECT, COUNT, Reader, StreamWorld
from txzmq.rpc import (
    CallRecord,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    Kind,
    NotFound,
    ResponseStream,
    RpcError,
    Server,
    ServerLimits,
    ServerProceed,
    Unavailable,
)


class Ends:
    """Interceptors of both sides that note how calls ended."""

    def __init__(self) -> None:
        self.client: list[CallRecord] = []
        self.server: list[CallRecord] = []

    def of_client(self, call: ClientCall, proceed: ClientProceed) -> Any:
        call.ended().addCallback(self.client.append)
        return proceed(call)

    def of_server(self, request: Any, context: Context, proceed: ServerProceed) -> Any:
        context.ended().addCallback(self.server.append)
        return proceed(request)

    def take(self) -> tuple[CallRecord, CallRecord]:
        """The one record of each side."""
        (client,), (server,) = self.client, self.server
        self.client.clear()
        self.server.clear()
        return client, server


class World(StreamWorld):
    def __init__(self, handler: Any, *, asks: Any = None, **options: Any) -> None:
        self.ends = Ends()
        super().__init__(
            handler,
            interceptors=[asks or self.ends.of_server],
            client_interceptors=[self.ends.of_client],
            **options,
        )


@pytest.fixture
def make() -> Iterator[Any]:
    yield from made(World)


def outline(record: CallRecord) -> tuple[Any, ...]:
    return record.code, record.seconds, record.requests, record.responses


# -- what each kind of call can be called with, and how it is answered ---------------------------


async def answer(request: Any, context: Context) -> StringValue:
    if not isinstance(request, StringValue):
        async for _ in request:
            pass
    return text("done")


async def two_items(request: Any, context: Context) -> AsyncIterator[StringValue]:
    if not isinstance(request, StringValue):
        async for _ in request:
            pass
    yield text("1")
    yield text("2")


def slowly(world: StreamWorld, seconds: float, handler: Any, error: Exception | None = None) -> Any:
    """A handler that takes its time behind its last item, or before its one response."""

    async def one(request: Any, context: Context) -> StringValue:
        result: StringValue = await handler(request, context)
        await world.sleep(seconds)
        if error is not None:
            raise error
        return result

    async def many(request: Any, context: Context) -> AsyncIterator[StringValue]:
        async for item in handler(request, context):
            yield item
        await world.sleep(seconds)
        if error is not None:
            raise error

    return many if handler is two_items else one


def sent() -> Iterator[StringValue]:
    return iter([text("a"), text("b"), text("c")])


def open_it(world: StreamWorld) -> Any:
    return world.open("x")


def collect(world: StreamWorld) -> Any:
    return world.collect(sent())


def chat(world: StreamWorld) -> Any:
    return world.chat(sent())


#: A handler, a call of it, and how many requests and responses that has.
KINDS: dict[Kind, tuple[Any, Any, int, int]] = {
    Kind.UNARY_STREAM: (two_items, open_it, 1, 2),
    Kind.STREAM_UNARY: (answer, collect, 3, 1),
    Kind.STREAM_STREAM: (two_items, chat, 3, 2),
}
CASES = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())


def ignore_all(failure: Any) -> None:
    """Whatever it is."""


def begin(make: Any, kind: Kind, error: Exception | None = None) -> tuple[World, Any]:
    """Make a call whose handler takes a quarter of a second, and read what comes."""
    handler, call, _, _ = KINDS[kind]
    world: World = make(answer)
    world.service.handler = slowly(world, 0.25, handler, error)
    outcome: Any = call(world)
    if kind.response_streaming:
        outcome = Reader(outcome).done
    else:
        outcome.addErrback(ignore_all)
    world.network.run()
    assert (world.ends.client, world.ends.server) == ([], [])
    return world, outcome


@CASES
def test_the_end_is_that_of_the_call_and_not_of_its_opening(make: Any, kind: Kind) -> None:
    world, _ = begin(make, kind)
    world.network.advance(0.25)
    _, _, requests, responses = KINDS[kind]
    for record in world.ends.take():
        assert record.method.startswith("/test.Streaming/")
        assert record.kind is kind
        assert outline(record) == (Code.OK, 0.25, requests, responses)
        assert record.message == ""


@CASES
def test_errors_are_told_with_what_came_before_them(make: Any, kind: Kind) -> None:
    world, _ = begin(make, kind, NotFound("nobody"))
    world.network.advance(0.25)
    _, _, requests, responses = KINDS[kind]
    for record in world.ends.take():
        expected = responses if kind.response_streaming else 0
        assert outline(record) == (Code.NOT_FOUND, 0.25, requests, expected)
        assert record.message == "nobody"


@CASES
def test_an_end_by_the_caller_is_one(make: Any, kind: Kind) -> None:
    world, outcome = begin(make, kind)
    world.network.advance(0.125)
    outcome.cancel()
    world.network.run()
    _, _, requests, responses = KINDS[kind]
    for record in world.ends.take():
        expected = responses if kind.response_streaming else 0
        assert outline(record) == (Code.CANCELLED, 0.125, requests, expected)


@CASES
def test_a_channel_that_is_closed_ends_the_call_on_both_sides(make: Any, kind: Kind) -> None:
    world, _ = begin(make, kind)
    world.channel.close()
    world.network.run()
    client, server = world.ends.client, world.ends.server
    assert [record.code for record in client] == [Code.CANCELLED]
    world.network.advance(0.1)
    assert [record.code for record in server] == [Code.CANCELLED]


def test_the_deadline_is_an_end(make: Any) -> None:
    world: World = make(answer)
    world.service.handler = slowly(world, 9, two_items)
    reader = world.run(timeout=1.0)
    world.network.advance(1.1)
    assert reader.has_ended
    client, server = world.ends.take()
    assert (client.code, server.code) == (Code.DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED)
    assert (client.responses, server.responses) == (2, 2)


def test_a_stream_that_nobody_reads_has_its_end_told(make: Any) -> None:
    world: World = make(two_items)
    stream = world.open("x")
    world.network.run()
    client, server = world.ends.take()
    assert outline(client) == outline(server) == (Code.OK, 0.0, 1, 2)
    del stream


def test_a_stream_that_cannot_be_opened_has_ended(make: Any) -> None:
    world: World = make(answer, limits=ServerLimits(streams=0))
    world.service.handler = two_items
    world.run()
    client, server = world.ends.take()
    assert outline(client) == outline(server) == (Code.RESOURCE_EXHAUSTED, 0.0, 1, 0)


def test_who_shares_a_run_has_an_end_of_its_own() -> None:
    ticker, ends = Ticker(), Ends()
    for world in made(SharingWorld):
        shared = world(ticker, interceptors=[ends.of_server], client_interceptors=[ends.of_client])
        first, second = shared.watch(), shared.watch()
        readers = [Reader(first), Reader(second)]
        shared.network.run()
        ticker.give(3)
        shared.network.advance(0.5)
        second.cancel()
        shared.network.run()
        for record in ends.take():
            assert outline(record) == (Code.CANCELLED, 0.5, 1, 3)
        third = Reader(shared.watch())  # which gets the last three, too
        shared.network.run()
        ticker.give(2)
        shared.network.advance(0.25)
        ticker.fail()
        shared.network.advance(0.25)
        assert readers[0].has_ended
        assert third.has_ended
        for records in (ends.client, ends.server):
            assert sorted(outline(record) for record in records) == [
                (Code.NOT_FOUND, 0.25, 1, 5),
                (Code.NOT_FOUND, 0.75, 1, 5),
            ]


def test_a_subscriber_that_comes_back_has_not_ended() -> None:
    ticker, ends = Ticker(), Ends()
    for world in made(SharingWorld):
        shared = world(ticker, interceptors=[ends.of_server], client_interceptors=[ends.of_client])
        shared.subscribe()
        ticker.give(2)
        shared.network.run()
        shared.network.cut(ADDRESS)
        shared.network.advance(ServerLimits().stream_grace)
        assert (ends.client, ends.server) == ([], [])
        ticker.give(2)
        ticker.fail()
        shared.network.run()
        for record in ends.take():
            assert (record.code, record.responses) == (Code.NOT_FOUND, 4)


def test_the_end_of_a_lost_subscriber_is_told_when_it_does_not_come_back() -> None:
    ticker, ends = Ticker(), Ends()
    for world in made(SharingWorld):
        shared = world(ticker, interceptors=[ends.of_server])
        reader = shared.subscribe()
        ticker.give()
        shared.network.run()
        shared.network.cut(ADDRESS)
        shared.channel.close()
        shared.network.advance(0.5)
        assert reader.has_ended
        assert ends.server == []  # it may come back
        shared.network.advance(ServerLimits().stream_grace)
        (record,) = ends.server
        assert (record.code, record.responses) == (Code.CANCELLED, 1)


# -- what interceptors do with it ----------------------------------------------------------------


def ignore(failure: Any) -> None:
    failure.trap(CancelledError)


def test_several_may_ask_and_to_cancel_it_disturbs_nobody(make: Any) -> None:
    told: list[Code] = []

    def ask(request: Any, context: Context, proceed: ServerProceed) -> Any:
        given_up = context.ended()
        given_up.addErrback(ignore)
        given_up.cancel()
        context.ended().addCallback(lambda record: told.append(record.code))
        context.ended().addCallback(lambda record: told.append(record.code))
        return proceed(request)

    world = make(answer, asks=ask)
    done = world.collect(sent())
    assert world.network.result(done).value == "done"
    assert told == [Code.OK, Code.OK]


def test_it_is_asked_before_the_call_has_ended(make: Any) -> None:
    world: World = make(answer)
    calls: list[Any] = []

    def keep(call: ClientCall, proceed: ClientProceed) -> Any:
        calls.append(call)
        return proceed(call)

    channel = type(world.channel)(world.network, ADDRESS, interceptors=[keep])
    done = channel.stream_unary(COLLECT, [text("a")])
    assert world.network.result(done).value == "done"
    world.ends.server.clear()
    with pytest.raises(RuntimeError, match="ask for its end before going on"):
        calls[0].ended()
    channel.close()


def test_a_handler_that_asks_too_late_is_told_so(make: Any) -> None:
    world: World = make(answer)
    plain = Server(world.network, [world.service])
    plain.listen(f"{ADDRESS}.plain")
    channel = type(world.channel)(world.network, f"{ADDRESS}.plain")
    world.network.result(channel.stream_unary(COLLECT, [text("a")]))
    with pytest.raises(RuntimeError, match="ask for its end before going on"):
        world.service.contexts[0].ended()
    channel.close()
    plain.stop()
    world.network.run()


class Shouting(ResponseStream[Any]):
    """An interceptor's own stream, which knows of no end."""

    def __init__(self, stream: ResponseStream[Any]) -> None:
        self.stream = stream

    async def __anext__(self) -> Any:
        item = await self.stream.__anext__()
        return text(item.value + "!")

    def cancel(self) -> None:
        self.stream.cancel()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_stream_of_an_interceptors_own_making_has_an_end(make: Any, cancelled: bool) -> None:
    world: World = make(two_items)

    async def shout(call: ClientCall, proceed: ClientProceed) -> Any:
        return Shouting(await proceed(call))

    channel = type(world.channel)(
        world.network, ADDRESS, interceptors=[world.ends.of_client, shout]
    )
    stream = channel.unary_stream(COUNT, text("x"))
    world.network.run()
    assert world.ends.client == []
    if cancelled:
        stream.cancel()
    else:
        reader = Reader(stream)
        world.network.run()
        assert reader.items == ["1!", "2!"]
    (record,) = world.ends.client
    expected = (Code.CANCELLED, 0) if cancelled else (Code.OK, 2)
    assert (record.code, record.responses) == expected
    channel.close()


def test_an_interceptor_that_goes_on_again_has_one_end(make: Any) -> None:
    """The one that its caller gets."""
    world: World = make(answer)
    failures = [NotFound("once"), NotFound("twice")]

    async def fail_twice(request: Any, context: Context) -> StringValue:
        async for _ in request:
            pass
        if failures:
            raise failures.pop(0)
        return text("done")

    async def persist(call: ClientCall, proceed: ClientProceed) -> Any:
        while True:
            try:
                return await proceed(call)
            except RpcError:
                await world.sleep(1)

    world.service.handler = fail_twice
    channel = type(world.channel)(
        world.network, ADDRESS, interceptors=[world.ends.of_client, persist]
    )
    done = channel.stream_unary(COLLECT, [text("a"), text("b")])
    world.network.advance(2)
    assert world.network.result(done).value == "done"
    (record,) = world.ends.client
    assert outline(record) == (Code.OK, 2.0, 2, 1)
    assert [record.code for record in world.ends.server] == [
        Code.NOT_FOUND,
        Code.NOT_FOUND,
        Code.OK,
    ]
    channel.close()


def test_what_a_stream_lost_and_what_came_anew_is_counted_once(make: Any) -> None:
    """By a retry policy the stream begins again from its beginning."""
    attempts: list[Context] = []

    async def second_time(request: Any, context: Context) -> AsyncIterator[StringValue]:
        attempts.append(context)
        if len(attempts) == 1:
            raise Unavailable("not yet")
        yield text("1")

    world: World = make(second_time, service_config=config())
    reader = Reader(world.channel.unary_stream(idempotent(COUNT), text("x")))
    world.network.advance(1)
    assert reader.items == ["1"]
    (record,) = world.ends.client
    assert (record.code, record.responses) == (Code.OK, 1)
    assert [record.code for record in world.ends.server] == [Code.UNAVAILABLE, Code.OK]
