"""Streams behind an interceptor that has not gone on yet: what is asked of them meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import made, text
from tests.rpc.streaming import Reader, StreamWorld, following
from txzmq.rpc import ClientCall, ClientProceed, DeadlineExceeded, Unauthenticated


class Later(StreamWorld):
    """Its interceptor goes on when the test says so."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.go: Deferred[None] = Deferred()
        super().__init__(*arguments, client_interceptors=[self._intercept], **options)

    async def _intercept(self, call: ClientCall, proceed: ClientProceed) -> Any:
        await self.go
        return await proceed(call)

    def proceed(self) -> None:
        self.go.callback(None)
        self.network.run()


@pytest.fixture
def world() -> Iterator[Later]:
    for make in made(Later):
        yield make()


def test_a_stream_that_is_asked_before_it_comes_answers_when_it_is_there(world: Later) -> None:
    stream = world.open()
    asked: list[Deferred[Any]] = [
        stream.opened(),
        stream.received_initial_metadata(),
        stream.ended(),
    ]
    assert (stream.initial_metadata, stream.trailing_metadata) == ((), ())
    reader = Reader(stream)
    world.network.run()
    assert not any(deferred.called for deferred in asked)
    world.proceed()
    assert [world.network.result(deferred) for deferred in asked] == [None, (), None]
    assert (reader.items, reader.ended) == (["0", "1", "2"], "well")


def test_a_stream_that_never_comes_tells_all_who_ask(world: Later) -> None:
    stream = world.open()
    asked: list[Deferred[Any]] = [stream.opened(), stream.ended()]
    reader = Reader(stream)
    world.go.errback(Unauthenticated("no token"))
    world.network.run()
    for deferred in (*asked, stream.received_initial_metadata()):
        with pytest.raises(Unauthenticated, match="no token"):
            world.network.result(deferred)
    assert isinstance(reader.ended, Unauthenticated)
    assert isinstance(Reader(stream).ended, Unauthenticated), "and who reads it later"


def test_whoever_asked_may_stop_waiting_and_the_stream_comes_all_the_same(world: Later) -> None:
    stream = world.open()
    asked = stream.opened()
    reader = Reader(stream)
    asked.cancel()
    with pytest.raises(CancelledError):
        world.network.result(asked)
    world.proceed()
    assert reader.ended == "well"


def test_it_has_one_reader_at_a_time(world: Later) -> None:
    stream = world.open()
    reader = Reader(stream)
    with pytest.raises(RuntimeError, match="one reader at a time"):
        world.network.result(following(stream))
    world.proceed()
    assert reader.ended == "well"


@pytest.mark.parametrize("reading", [True, False])
def test_cancelled_before_it_comes_it_never_begins(world: Later, reading: bool) -> None:
    stream = world.open()
    reader = Reader(stream) if reading else None
    stream.cancel()
    world.network.run()
    assert not world.service.contexts
    if reader is not None:
        assert isinstance(reader.ended, CancelledError)
    stream.cancel()
    ended = stream.ended()
    with pytest.raises(CancelledError):
        world.network.result(ended)


def test_a_reader_that_is_cancelled_cancels_the_stream(world: Later) -> None:
    stream = world.open()
    reading = following(stream)
    reading.cancel()
    with pytest.raises(CancelledError):
        world.network.result(reading)
    world.network.run()
    assert not world.service.contexts


def test_a_reader_that_is_closed_leaves_the_stream_to_the_next(world: Later) -> None:
    stream = world.open()
    reading: Any = stream.__anext__()
    reading.send(None)
    reading.close()
    reader = Reader(stream)
    world.proceed()
    assert reader.items == ["0", "1", "2"]


@pytest.mark.parametrize("before", [True, False])
def test_a_limit_of_silence_holds_whenever_it_is_set(world: Later, before: bool) -> None:
    async def silent(request: object, context: object) -> AsyncIterator[StringValue]:
        await world.sleep(20)
        yield text("too late")

    def limit() -> None:
        assert stream.max_silence(2) is stream
        assert stream.skip_gaps() is stream

    world.service.handler = silent
    stream = world.open()
    if before:
        limit()
    reader = Reader(stream)
    world.proceed()
    if not before:
        limit()
    world.network.advance(3)
    assert isinstance(reader.ended, DeadlineExceeded)
