"""Streams from code that is made of callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface.verify import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    verifyObject,  # pyright: ignore[reportUnknownVariableType]
)

from tests.rpc.service import made, text
from tests.rpc.streaming import Handler, Reader, StreamWorld, Worlds, echo, join, numbers
from tests.support import Logged, error_of
from txzmq.rpc import Context, NotFound, ResponseStream, StreamWriter, Unknown


@pytest.fixture
def writer() -> StreamWriter[StringValue]:
    return StreamWriter(enough=4, limit=8)


@pytest.fixture
def make(writer: StreamWriter[StringValue]) -> Iterator[Worlds]:
    def handler(request: StringValue, context: Context) -> StreamWriter[StringValue]:
        return writer

    def build(handler: Handler = handler, **options: Any) -> StreamWorld:
        return StreamWorld(handler, **options)

    yield from made(build)


class Producer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_items_and_the_end(make: Worlds, writer: StreamWriter[StringValue]) -> None:
    world = make()
    reader = world.run()
    for value in "abc":
        writer.write(text(value))
        world.network.run()
    writer.finish()
    world.network.run()
    assert reader.items == ["a", "b", "c"]
    assert reader.ended == "well"


def test_an_error_ends_it(make: Worlds, writer: StreamWriter[StringValue]) -> None:
    world = make()
    reader = world.run()
    writer.fail(NotFound("gone"))
    world.network.run()
    assert isinstance(reader.ended, NotFound)


def test_a_producer_is_paused_and_stopped(make: Worlds, writer: StreamWriter[StringValue]) -> None:
    world = make(stream_window=2)
    producer = Producer()
    writer.registerProducer(producer, True)
    with pytest.raises(RuntimeError):
        writer.registerProducer(producer, True)
    stream = world.open()
    world.network.run()
    more = [writer.write(text(str(number))) for number in range(10)]
    assert not all(more)
    assert producer.told == ["pause"]
    reader = Reader(stream)
    world.network.advance(2)
    assert producer.told == ["pause", "resume"]
    assert len(reader.items) == 10
    reader.stream.cancel()
    world.network.run()
    assert producer.told == ["pause", "resume", "stop"]
    assert not writer.write(text("x"))


def test_a_pull_producer_is_asked_for_each_item(
    make: Worlds, writer: StreamWriter[StringValue]
) -> None:
    class Pulled(Producer):
        def resumeProducing(self) -> None:
            if len(self.told) < 3:
                self.told.append("pulled")
                writer.write(text(str(len(self.told))))
            else:
                writer.unregisterProducer()
                writer.finish()

    writer.registerProducer(Pulled(), False)
    reader = make().run()
    assert reader.items == ["1", "2", "3"]
    assert reader.ended == "well"


def test_whoever_does_not_stop_is_refused(writer: StreamWriter[StringValue]) -> None:
    for _ in range(8):
        writer.write(text("x"))
    with pytest.raises(BufferError, match="limit"):
        writer.write(text("x"))


def test_whoever_asks_is_told_when_there_is_room(
    make: Worlds, writer: StreamWriter[StringValue]
) -> None:
    world = make()
    assert writer.ready().called
    while writer.write(text("x")):
        pass
    told: list[None] = []
    writer.ready().addCallback(told.append)
    assert told == []
    reader = world.run()
    assert told == [None]
    writer.finish()
    world.network.run()
    assert reader.ended == "well"
    with pytest.raises(CancelledError):
        world.network.result(writer.ready())


def test_a_client_may_write_requests(make: Worlds, writer: StreamWriter[StringValue]) -> None:
    world = make(join)
    result: Deferred[StringValue] = world.collect(writer)
    for value in "abc":
        writer.write(text(value))
    writer.finish()
    assert world.network.result(result).value == "a,b,c"


def test_it_is_a_consumer(writer: StreamWriter[StringValue]) -> None:
    assert verifyObject(IConsumer, writer)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_messages_value_is_taken_when_it_is_written(
    make: Worlds, writer: StreamWriter[StringValue], side: str
) -> None:
    """One message object may be changed and written again."""
    world = make() if side == "server" else make(echo)
    item = StringValue()
    for number in range(4):
        item.value = str(number)
        writer.write(item)
    item.value = "later"
    writer.finish()
    reader = world.read() if side == "server" else Reader(world.chat(writer))
    world.network.run()
    assert reader.items == numbers(4)


def test_items_that_are_no_messages_are_taken_as_they_are() -> None:
    writer: StreamWriter[list[int]] = StreamWriter()
    item = [1]
    writer.write(item)
    taken: list[list[int]] = []
    Deferred.fromCoroutine(writer.__anext__()).addCallback(taken.append)
    assert taken[0] is item


def test_a_second_producer_is_refused(writer: StreamWriter[StringValue]) -> None:
    writer.registerProducer(Producer(), True)
    with pytest.raises(RuntimeError, match="registered already"):
        writer.registerProducer(Producer(), True)
    writer.unregisterProducer()
    writer.registerProducer(Producer(), True)


def test_a_producer_that_comes_after_the_end_is_stopped_at_once(
    make: Worlds, writer: StreamWriter[StringValue]
) -> None:
    world = make()
    world.run().stream.cancel()
    world.network.run()
    late = Producer()
    writer.registerProducer(late, True)
    assert late.told == ["stop"]


def test_a_producer_that_ends_an_iterator_by_hand_has_failed(
    make: Worlds, writer: StreamWriter[StringValue], logged: Logged
) -> None:
    """StopAsyncIteration would be taken for the end: a part for the whole."""

    class Ending(Producer):
        def resumeProducing(self) -> None:
            if "resume" in self.told:
                raise StopAsyncIteration
            super().resumeProducing()

    writer.registerProducer(Ending(), False)
    reader = make().run()
    assert isinstance(reader.ended, Unknown)
    assert [type(error) for error in logged.failures()] == [RuntimeError]


class Plain(ResponseStream[str]):
    """A stream of an application's own, as of a fake: it has what it must have."""

    def __init__(self) -> None:
        self.items = ["a", "b"]
        self.cancelled = False

    async def __anext__(self) -> str:
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop(0)

    def cancel(self) -> None:
        self.cancelled = True


def test_a_stream_of_ones_own_needs_no_more_than_items_and_an_end() -> None:
    stream = Plain()
    got: list[str] = []
    done = stream.max_silence(1).skip_gaps().each(got.append)
    assert (done.called, got) == (True, ["a", "b"])
    assert (stream.initial_metadata, stream.trailing_metadata) == ((), ())
    for ask in (stream.opened, stream.received_initial_metadata, stream.ended):
        with pytest.raises(NotImplementedError, match="Plain does not tell"):
            ask()


def test_a_callback_that_fails_cancels_the_stream() -> None:
    stream = Plain()
    failed: list[BaseException] = []

    def fail(item: str) -> None:
        raise KeyError(item)

    stream.each(fail).addErrback(lambda failure: failed.append(error_of(failure)))
    assert stream.cancelled
    assert [repr(error) for error in failed] == ["KeyError('a')"]
