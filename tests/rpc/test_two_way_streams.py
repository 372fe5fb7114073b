"""Streams of requests and of responses at once, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import PUBLISHER, Reader, Source, StreamWorld, Worlds, echo, numbers, texts
from tests.support import Logged
from txzmq.rpc import ClientCall, ClientProceed, Context, NotFound, RequestStream, Unavailable
from txzmq.testing import Faults


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.mark.parametrize("count", [0, 1, 300, 5000])
def test_both_ways_at_once(make: Worlds, count: int) -> None:
    world = make(echo)
    reader = Reader(world.chat(texts(count)))
    world.network.run()
    assert reader.items == numbers(count)
    assert reader.ended == "well"


def test_ping_and_pong(make: Worlds) -> None:
    world, source = make(echo), Source()
    reader = Reader(world.chat(source()))
    world.network.run()
    for number in range(20):
        source.give(str(number))
        world.network.run()
        assert reader.items == numbers(number + 1)
    source.give(None)
    world.network.run()
    assert reader.ended == "well"
    assert source.closed


def test_the_server_may_end_first(make: Worlds) -> None:
    async def handler(
        requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield request
            if request.value == "bye":
                return

    world, source = make(handler), Source()
    reader = Reader(world.chat(source()))
    world.network.run()
    source.give("bye")
    world.network.run()
    assert reader.items == ["bye"]
    assert reader.ended == "well"
    assert source.closed


def test_cancelling_ends_all(make: Worlds) -> None:
    world, source = make(echo), Source()
    reader = Reader(world.chat(source()))
    world.network.run()
    source.give("a")
    world.network.run()
    reader.stream.cancel()
    world.network.run()
    assert source.closed
    assert not world.server.running


def test_a_source_that_fails_ends_all(make: Worlds) -> None:
    async def source() -> AsyncIterator[StringValue]:
        yield text("a")
        await world.sleep(1)
        raise ZeroDivisionError

    world = make(echo)
    reader = Reader(world.chat(source()))
    world.network.advance(2)
    assert isinstance(reader.ended, ZeroDivisionError)
    assert not world.server.running


def test_both_ways_survive_broken_connections(make: Worlds) -> None:
    world, source = make(echo), Source()
    reader = Reader(world.chat(source()))
    world.network.run()
    for number in range(30):
        if number % 3 == 0:
            world.network.cut(ADDRESS)
        if number % 2 == 0:
            world.network.cut(PUBLISHER)
        source.give(str(number))
        world.network.advance(0.05 if number % 5 else 2)
    source.give(None)
    world.network.advance(5)
    assert reader.items == numbers(30)
    assert reader.ended == "well"


@pytest.mark.parametrize("seed", range(5))
def test_loss_doubles_and_delay_change_nothing(make: Worlds, seed: int) -> None:
    faults = Faults(seed=seed, loss=0.1, duplication=0.2, delay=0.1)
    world = make(echo, faults=faults, stream_window=16)
    reader = Reader(world.chat(texts(200)))
    while reader.ended != "well":
        world.network.advance(2000)
        if isinstance(reader.ended, Exception):
            reader = Reader(world.chat(texts(200)))  # the call that opens it was lost
    assert reader.items == numbers(200)


def test_an_interceptor_may_answer_by_itself(make: Worlds) -> None:
    async def refuse(call: ClientCall, proceed: ClientProceed) -> Any:
        raise NotFound("not even asked")

    world = make(echo, client_interceptors=[refuse])
    reader = Reader(world.chat(texts(2)))
    assert isinstance(reader.ended, NotFound)


def test_a_client_interceptor_goes_around_opening(make: Worlds) -> None:
    calls: list[str] = []

    async def again(call: ClientCall, proceed: ClientProceed) -> Any:
        calls.append("first")
        try:
            return await proceed(call)
        except NotFound:
            calls.append("second")
            return await proceed(call)

    async def handler(requests: RequestStream[StringValue], context: Context) -> Any:
        if len(calls) == 1:
            raise NotFound("once")
        return echo(requests, context)

    world = make(handler, client_interceptors=[again])
    reader = Reader(world.chat(texts(2)).max_silence(5))
    world.network.run()
    assert calls == ["first", "second"]
    assert reader.items == numbers(2)
    assert reader.ended == "well"


def test_an_interceptor_hears_at_once_that_no_server_can_be_reached(make: Worlds) -> None:
    heard: list[BaseException] = []

    async def listen(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            return await proceed(call)
        except Unavailable as error:
            heard.append(error)
            raise

    world = make(echo, client_interceptors=[listen])
    world.network.run()
    world.die()
    world.network.advance(1)
    reader = Reader(world.chat(texts(2), wait_for_ready=False))
    assert isinstance(reader.ended, Unavailable)
    assert heard == [reader.ended]


def test_an_interceptor_that_returns_no_stream_is_told(make: Worlds, logged: Logged) -> None:
    async def wrong(call: ClientCall, proceed: ClientProceed) -> Any:
        return text("x")

    world = make(echo, client_interceptors=[wrong])
    reader = Reader(world.chat(texts(2)))
    assert isinstance(reader.ended, TypeError)
