"""The value of a message is taken when it is given, whatever becomes of the object afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.retried_streams import idempotent
from tests.rpc.service import ADDRESS, ECHO, Echo, made, text
from tests.rpc.streaming import RESUME, Reader, StreamWorld, Worlds, echo, join, numbers
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    RpcError,
    Server,
    Unavailable,
)
from txzmq.testing import MemoryNetwork


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


async def look_on(call: ClientCall, proceed: ClientProceed) -> Any:
    return await proceed(call)


class Waiting:
    """Goes on when the test says so, as one that fetches a token does."""

    def __init__(self, *, replaces: bool) -> None:
        self.replaces = replaces
        self.go: Deferred[None] = Deferred()

    async def __call__(self, call: ClientCall, proceed: ClientProceed) -> Any:
        if self.replaces:
            call = call.replace(metadata={"token": "t"})
        await self.go
        return await proceed(call)


async def again(call: ClientCall, proceed: ClientProceed) -> Any:
    """Goes on once more after an error."""
    try:
        return await proceed(call)
    except RpcError:
        return await proceed(call)


class Repeating:
    """Its first call fails; it is a handler with one response, and with a stream."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, request: StringValue, context: Context) -> Any:
        self.seen.append(request.value)
        if len(self.seen) == 1:
            raise Unavailable("not now")
        return [text(request.value)]


@pytest.mark.parametrize("interceptors", [[], [look_on]])
def test_a_request_is_taken_at_the_call(make: Worlds, interceptors: Any) -> None:
    seen: list[str] = []

    def handler(request: StringValue, context: Context) -> list[StringValue]:
        seen.append(request.value)
        return []

    world = make(handler, client_interceptors=interceptors)
    request = text("given")
    reader = Reader(world.channel.unary_stream(RESUME, request))
    request.value = "changed"
    world.network.run()
    assert reader.ended == "well"
    assert seen == ["given"]


@pytest.mark.parametrize("replaces", [False, True])
def test_a_request_is_taken_before_an_interceptor_waits(make: Worlds, replaces: bool) -> None:
    waiting = Waiting(replaces=replaces)
    repeating = Repeating()
    repeating.seen.append("an earlier one")
    world = make(repeating, client_interceptors=[waiting])
    request = text("given")
    reader = Reader(world.channel.unary_stream(RESUME, request))
    request.value = "changed"
    waiting.go.callback(None)
    world.network.run()
    assert reader.items == ["given"]
    assert request.value == "changed"


def test_an_interceptor_that_goes_on_again_has_the_same_value(make: Worlds) -> None:
    repeating = Repeating()
    world = make(repeating, client_interceptors=[again])
    request = text("given")
    reader = Reader(world.channel.unary_stream(RESUME, request))
    world.network.run()
    request.value = "changed"
    world.network.run()
    assert reader.items == ["given"]
    assert repeating.seen == ["given"] * 2


def test_each_attempt_of_a_policy_has_the_same_value(make: Worlds) -> None:
    repeating = Repeating()
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config: dict[str, Any] = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    world = make(repeating, service_config=config)
    request = text("given")
    reader = Reader(world.channel.unary_stream(idempotent(RESUME), request))
    world.network.run()
    request.value = "changed"
    world.network.advance(3)
    assert reader.items == ["given"]
    assert repeating.seen == ["given"] * 2


@pytest.mark.parametrize("style", ["iterable", "generator"])
@pytest.mark.parametrize("interceptors", [[], [look_on]])
def test_a_source_may_give_one_object_many_times(
    make: Worlds, style: str, interceptors: Any
) -> None:
    def plain() -> Iterator[StringValue]:
        item = text("")
        for number in numbers(4):
            item.value = number
            yield item

    async def generator() -> AsyncIterator[StringValue]:
        for item in plain():
            yield item

    source = plain if style == "iterable" else generator
    world = make(join, client_interceptors=interceptors)
    assert world.network.result(world.collect(source())).value == "0,1,2,3"
    world.service.handler = echo
    reader = Reader(world.chat(source()))
    world.network.run()
    assert reader.items == numbers(4)


@pytest.mark.parametrize("style", ["iterable", "generator"])
def test_a_handler_may_give_one_object_many_times(make: Worlds, style: str) -> None:
    def plain(request: StringValue, context: Context) -> Iterator[StringValue]:
        item = text("")
        for number in numbers(4):
            item.value = number
            yield item

    async def generator(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for item in plain(request, context):
            yield item

    world = make(plain if style == "iterable" else generator)
    assert world.run().items == numbers(4)


class FailingOnce(Echo):
    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        if len(self.seen) == 1:
            raise Unavailable("not now")
        return text(request.value)


@pytest.mark.parametrize("interceptor", ["waiting", "again"])
def test_a_call_with_one_response_has_the_value_that_was_given(interceptor: str) -> None:
    network = MemoryNetwork()
    service, waiting = FailingOnce(), Waiting(replaces=True)
    server = Server(network, [service])
    server.listen(ADDRESS)
    if interceptor == "waiting":
        service.seen.append("an earlier one")
    channel = Channel(
        network, ADDRESS, interceptors=[waiting if interceptor == "waiting" else again]
    )
    request = text("given")
    answer = channel.unary_unary(ECHO, request)
    request.value = "changed"
    waiting.go.callback(None)
    assert network.result(answer).value == "given"
    assert service.seen[1:] == ["given"]
    channel.close()
    server.stop(0)
    network.advance(1)
