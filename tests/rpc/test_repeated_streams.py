"""Retry policies and streams of responses, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.retried_streams import Failing, World, Worlds, config, idempotent, not_now
from tests.rpc.service import made, text
from tests.rpc.streaming import COUNT, TICKS, Reader, Streaming
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    ResourceExhausted,
    ResponseMetadata,
    Server,
    ServerLimits,
    Unavailable,
)
from txzmq.rpc.balancing import ConsistentHash


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(World)


class AtOnce(Failing):
    """Before the stream is open."""

    def __call__(self, request: StringValue, context: Context) -> list[StringValue]:
        if self.fails:
            raise self.error()
        return [text(value) for value in "abc"]


class Later(Failing):
    """When it is asked for the first item."""

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        if self.fails:
            raise self.error()
        for value in "abc":
            yield text(value)


MOMENTS = pytest.mark.parametrize("moment", [AtOnce, Later])


@MOMENTS
def test_a_stream_is_opened_until_it_gives_something(make: Worlds, moment: type[Failing]) -> None:
    world = make(moment(2))
    reader = world.run(metadata={"k": "v"})
    assert len(world.service.contexts) == 1
    assert not reader.has_ended
    world.network.advance(1)
    assert (reader.items, reader.ended) == (["a", "b", "c"], "well")
    assert world.attempts == ["", "1", "2"]
    assert all(("k", "v") in context.metadata for context in world.service.contexts)
    assert world.channel.counters["retry"] == 2


@MOMENTS
def test_attempts_end_with_the_last_error(make: Worlds, moment: type[Failing]) -> None:
    handler = moment(99)
    handler.error = lambda: not_now(metadata={"n": str(handler.calls)})
    world = make(handler)
    wanted = ResponseMetadata()
    with wanted:
        reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert reader.ended.metadata == (("n", "4"),)
    if moment is Later:
        assert wanted.trailing == (("n", "4"),)


@MOMENTS
def test_a_server_that_always_fails_gets_few_attempts_more(
    make: Worlds, moment: type[Failing]
) -> None:
    world = make(moment(10**9))
    for _ in range(100):
        world.read()
        world.network.advance(1)
    assert len(world.service.contexts) <= 120


def test_streams_that_give_something_bring_tokens(make: Worlds) -> None:
    handler = Later(5)
    throttling = {"maxTokens": 4, "tokenRatio": 1}
    world = make(handler, config(retryThrottling=throttling))
    world.read()
    world.network.advance(5)
    assert handler.calls == 2  # two tokens are left, and none is used any more
    handler.failures = 0
    for _ in range(2):
        world.read()
    world.network.run()
    handler.failures, handler.calls = 1, 0
    reader = world.read()
    world.network.advance(1)
    assert reader.ended == "well"


def test_a_stream_that_gave_an_item_is_not_opened_again(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        raise not_now()

    world = make(handler)
    reader = world.read()
    world.network.advance(5)
    assert reader.items == ["a"]
    assert isinstance(reader.ended, Unavailable)
    assert world.attempts == [""]


def test_a_stream_that_gave_initial_metadata_is_not_opened_again(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"a": "b"})
        if context:
            raise not_now()
        yield text("")

    world = make(handler)
    reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert reader.stream.initial_metadata == (("a", "b"),)
    assert world.attempts == [""]


def test_a_stream_whose_opening_brings_initial_metadata_goes_on(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> list[StringValue]:
        context.send_initial_metadata({"a": "b"})
        return [text("a")]

    reader = make(handler).run()
    assert reader.stream.initial_metadata == (("a", "b"),)
    assert (reader.items, reader.ended) == (["a"], "well")


@MOMENTS
def test_what_may_have_been_executed_is_not_repeated(make: Worlds, moment: type[Failing]) -> None:
    world = make(moment(1))
    reader = Reader(world.channel.unary_stream(COUNT, text("x")))
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert world.attempts == [""]


def test_what_was_not_executed_is_repeated(make: Worlds) -> None:
    world = make(AtOnce(0))
    world.network.run()
    world.die()
    world.network.advance(0.1)
    reader = Reader(world.channel.unary_stream(COUNT, text("x"), wait_for_ready=False))
    world.network.advance(0.01)
    assert not reader.has_ended
    world.serve()
    world.network.advance(5)
    assert reader.ended == "well"


def test_another_code_is_final(make: Worlds) -> None:
    world = make(Later(1, lambda: ResourceExhausted("full")))
    reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, ResourceExhausted)


def test_the_limit_of_streams_is_a_reason_to_come_back(make: Worlds) -> None:
    async def endless(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        await Deferred()
        yield text("")

    world = make(endless, config(["RESOURCE_EXHAUSTED"]), limits=ServerLimits(streams=1))
    first = world.run()
    second = world.run()
    assert not second.has_ended
    first.stream.cancel()
    world.network.advance(1)
    assert not second.has_ended
    assert world.server.running == 1


@pytest.mark.parametrize(
    ("pushback", "after", "attempts"), [("2000", 1.9, 1), ("2000", 2.1, 2), ("-1", 60, 1)]
)
@MOMENTS
def test_a_server_says_when_to_come_back(
    make: Worlds, moment: type[Failing], pushback: str, after: float, attempts: int
) -> None:
    metadata = {"grpc-retry-pushback-ms": pushback}
    world = make(moment(9, lambda: not_now(metadata=metadata)))
    world.read()
    world.network.advance(after)
    assert len(world.attempts) == attempts


@MOMENTS
def test_an_attempt_that_would_be_too_late_is_not_waited_for(
    make: Worlds, moment: type[Failing]
) -> None:
    metadata = {"grpc-retry-pushback-ms": "5000"}
    world = make(moment(9, lambda: not_now(metadata=metadata)))
    assert isinstance(world.run(timeout=3).ended, Unavailable)


def test_the_deadline_is_that_of_the_whole_stream(make: Worlds) -> None:
    left: list[float | None] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        left.append(context.time_remaining())
        if len(left) == 1:
            await world.sleep(1)
            raise not_now()
        await Deferred()
        yield text("")

    world = make(handler)
    reader = world.read(timeout=3)
    world.network.advance(2)
    assert left[0] == pytest.approx(3, abs=0.01)
    assert left[1] == pytest.approx(1.9, abs=0.03)
    world.network.advance(1.1)
    assert isinstance(reader.ended, DeadlineExceeded)


def test_the_time_for_opening_is_that_of_all_attempts(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> list[StringValue]:
        await world.sleep(0.9)
        raise not_now()

    world = make(handler, config(["UNAVAILABLE", "DEADLINE_EXCEEDED"]), timeout=2)
    reader = world.read()
    world.network.advance(1.9)
    assert not reader.has_ended
    world.network.advance(0.2)
    assert isinstance(reader.ended, (DeadlineExceeded, Unavailable))
    assert len(world.attempts) == 2


@MOMENTS
@pytest.mark.parametrize("closing", [False, True])
def test_a_stream_that_is_cancelled_is_not_opened_again(
    make: Worlds, moment: type[Failing], closing: bool
) -> None:
    world = make(moment(99))
    reader = world.run()
    if closing:
        world.channel.close()
    else:
        reader.stream.cancel()
    world.network.advance(5)
    assert isinstance(reader.ended, CancelledError)
    assert world.attempts == [""]


def test_a_lost_server_is_a_reason_to_open_on_another_one(make: Worlds) -> None:
    class Waiting(Streaming):
        async def count(self, request: StringValue, context: Context) -> Any:
            self.contexts.append(context)
            await Deferred()
            yield text("")

    world = make(AtOnce(0))
    services = [Waiting(), Waiting()]
    addresses = [f"inproc://{number}" for number in range(2)]
    servers = [Server(world.network, [service]) for service in services]
    for server, address in zip(servers, addresses, strict=True):
        server.listen(address)
    channel = Channel(world.network, addresses, service_config=config())
    world.network.run()
    reader = Reader(channel.unary_stream(idempotent(COUNT), text("x")))
    world.network.advance(1)
    first = next(number for number in range(2) if services[number].contexts)
    world.network.die(addresses[first])
    world.network.die(f"{addresses[first]}.streams")
    world.network.advance(7)
    assert not reader.has_ended
    assert [len(service.contexts) for service in services] == [1, 1]
    channel.close()
    for server in servers:
        server.stop(0)


@pytest.mark.parametrize("moment", [AtOnce, Later])
def test_an_attempt_goes_to_a_server_that_has_not_failed(
    make: Worlds, moment: Callable[[float], Any]
) -> None:
    world = make(AtOnce(0))
    services = [Streaming(moment(99)) for _ in range(3)]
    addresses = [f"inproc://{number}" for number in range(3)]
    servers = [Server(world.network, [service]) for service in services]
    for server, address in zip(servers, addresses, strict=True):
        server.listen(address)
    throttling = {"maxTokens": 1000, "tokenRatio": 1}
    channel = Channel(
        world.network,
        addresses,
        service_config=config(retryThrottling=throttling),
        policy=ConsistentHash("k"),
    )
    world.network.run()
    for _ in range(5):  # four attempts each
        stream = channel.unary_stream(idempotent(COUNT), text("x"), metadata={"k": "same"})
        reader = Reader(stream)
        world.network.advance(10)
        assert isinstance(reader.ended, Unavailable)
        assert sorted(len(service.contexts) for service in services) == [1, 1, 2]
        for service in services:
            service.contexts.clear()
    channel.close()
    for server in servers:
        server.stop(0)


def test_the_first_run_of_a_shared_stream_may_fail(make: Worlds) -> None:
    world = make(Later(1))
    readers = [world.read(method=TICKS) for _ in range(3)]
    world.network.advance(1)
    assert [reader.items for reader in readers] == [["a", "b", "c"]] * 3
    assert all(reader.ended == "well" for reader in readers)


def test_a_stream_is_not_hedged(make: Worlds) -> None:
    policy = {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
    service_config = {
        "methodConfig": [{"name": [{"service": "test.Streaming"}], "hedgingPolicy": policy}]
    }
    world = make(AtOnce(1), service_config)
    assert isinstance(world.run().ended, Unavailable)
    world.network.advance(5)
    assert world.attempts == [""]


def test_interceptors_see_one_call(make: Worlds) -> None:
    seen: list[str] = []

    async def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        seen.append(call.method.path)
        return await proceed(call)

    world = make(AtOnce(2), client_interceptors=[interceptor])
    reader = world.read()
    world.network.advance(1)
    assert reader.ended == "well"
    assert seen == ["/test.Streaming/Count"]
