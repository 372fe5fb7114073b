"""How much a stream of responses may hold: windows, limits and sizes, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import Deaf
from tests.rpc.service import made, text
from tests.rpc.streaming import (
    Endless,
    Reader,
    StreamWorld,
    Worlds,
    following,
    numbers,
    returning,
    streams_of,
)
from txzmq.rpc import Code, Context, ResourceExhausted, ServerLimits
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc._wire.streams import Sender, encode, new_topic
from txzmq.rpc.limits import MESSAGE_SIZE, METADATA_SIZE
from txzmq.rpc.v1 import streams_pb2


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def test_a_handler_is_not_asked_beyond_the_window(make: Worlds) -> None:
    asked: list[int] = []

    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for number in range(1000):
            asked.append(number)
            yield text(str(number))

    world = make(handler, stream_window=10)
    stream = world.open()
    world.network.advance(5)
    assert len(asked) == 10
    reader = Reader(stream)
    assert len(reader.items) == 10
    world.network.run()
    assert reader.items == numbers(1000)


@pytest.mark.parametrize("on_server", [False, True])
def test_the_window_has_bytes_too(make: Worlds, on_server: bool) -> None:
    asked: list[int] = []

    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for number in range(100):
            asked.append(number)
            yield text("x" * 98)  # 100 bytes

    limit = {"limits": ServerLimits(stream_window_bytes=450)}
    world = make(handler, **(limit if on_server else {"stream_window_bytes": 450}))
    stream = world.open()
    world.network.run()
    assert len(asked) == 5
    reader = Reader(stream)
    world.network.run()
    assert len(reader.items) == 100


def test_all_streams_have_a_limit_together(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        for _ in range(10):
            yield text("x" * 98)

    world = make(handler, limits=ServerLimits(streams_bytes=500))
    first, second = world.open(), world.open()
    world.network.run()
    third = world.run()
    assert isinstance(third.ended, ResourceExhausted)
    assert "ServerLimits.streams_bytes" in third.ended.message
    readers = [Reader(first), Reader(second)]
    # Nothing is acknowledged before half a window was read, or a heartbeat asks.
    world.network.advance(30)
    assert [len(reader.items) for reader in readers] == [10, 10]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=1), "ServerLimits.streams)"),
        (ServerLimits(streams_per_peer=1), "ServerLimits.streams_per_peer)"),
    ],
)
def test_the_number_of_streams_is_limited(make: Worlds, limits: ServerLimits, name: str) -> None:
    world = make(Endless(), limits=limits)
    first = world.run()
    second = world.run()
    assert isinstance(second.ended, ResourceExhausted)
    assert name in second.ended.message
    assert world.server.counters["shed stream"] == 1
    first.stream.cancel()
    world.network.run()
    assert not world.run().has_ended


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=3), "ServerLimits.streams)"),
        (ServerLimits(streams_per_peer=3), "ServerLimits.streams_per_peer)"),
    ],
)
def test_streams_count_until_the_client_has_the_end(
    make: Worlds, limits: ServerLimits, name: str
) -> None:
    world = make(limits=limits)
    deaf = Deaf(world)
    world.network.run()
    codes = [deaf.open().code for _ in range(4)]
    assert not streams_of(world).running
    assert codes == [Code.OK] * 3 + [Code.RESOURCE_EXHAUSTED]
    assert name in deaf.open().message
    world.network.advance(30)  # it has stopped answering
    assert deaf.open().code is Code.OK
    deaf.close()
    world.network.advance(30)


def test_a_stream_that_ends_and_is_cancelled_in_one_turn_is_forgotten(make: Worlds) -> None:
    ending: list[Deferred[None]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        ending.append(Deferred())
        await ending[-1]
        for nothing in list[StringValue]():
            yield nothing

    world = make(handler)
    deaf = Deaf(world)
    world.network.run()
    topics = [stream.topic for _ in range(2) if (stream := deaf.open().stream)]
    body = streams_pb2.CancelStreamsRequest(topics=topics[:1]).SerializeToString()
    deaf.raw.request(RequestHead("/txzmq.rpc.v1.Streams/Cancel", None, ()), body)
    body = streams_pb2.AcknowledgeRequest(
        positions=[streams_pb2.Position(topic=topics[1], sequence=2)]
    ).SerializeToString()
    deaf.raw.request(RequestHead("/txzmq.rpc.v1.Streams/Acknowledge", None, ()), body)
    for deferred in ending:
        deferred.callback(None)
    world.network.run()
    assert not streams_of(world)
    deaf.frames.clear()  # the heartbeats that answered its subscriptions
    world.network.advance(60)
    assert deaf.frames == []  # and no others
    assert not world.server.counters["silent subscriber"]
    deaf.close()


def test_an_item_has_a_size_on_the_server(make: Worlds) -> None:
    def handler(request: StringValue, context: Context) -> Iterable[StringValue]:
        yield text("a")
        yield text("x" * 100)

    reader = make(handler, limits=ServerLimits(message_size=100)).run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, ResourceExhausted)
    assert "ServerLimits.message_size" in reader.ended.message


def test_an_item_has_a_size_on_the_client(make: Worlds) -> None:
    world = make(returning([text("a"), text("x" * 100)]), message_size=100)
    reader = world.run()
    assert reader.items == ["a"]
    assert isinstance(reader.ended, ResourceExhausted)
    assert "Channel's message_size" in reader.ended.message


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_small_window_is_acknowledged_as_soon_as_it_is_read(make: Worlds, window: int) -> None:
    """No item waits for a heartbeat that asks."""
    reader = make(stream_window=window).run(10)
    assert (reader.items, reader.ended) == (numbers(10), "well")


@pytest.mark.parametrize(
    "limits", [ServerLimits(stream_window=2), ServerLimits(stream_window_bytes=7)]
)
def test_a_small_window_of_the_server_is_acknowledged_in_time_too(
    make: Worlds, limits: ServerLimits
) -> None:
    reader = make(limits=limits).run(10)
    assert (reader.items, reader.ended) == (numbers(10), "well")


def test_what_is_acknowledged_is_what_was_read(make: Worlds) -> None:
    asked: list[int] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(100):
            asked.append(number)
            yield text(str(number))

    world = make(handler, stream_window=4)
    stream = world.open()
    world.network.run()
    before = len(asked)
    for _ in range(2):
        world.network.result(following(stream))
    world.network.run()
    assert len(asked) == before + 2


def test_an_end_is_acknowledged_at_once(make: Worlds) -> None:
    world = make()
    assert world.run().ended == "well"
    assert not streams_of(world)


def test_the_largest_publication_is_no_larger_than_what_a_client_takes(make: Worlds) -> None:
    world = make()
    allowed: list[int] = []
    subscribe = world.network.subscribe

    def noted(address: str, handler: Any, options: Any) -> Any:
        allowed.append(options["MAXMSGSIZE"])
        return subscribe(address, handler, options)

    world.network.subscribe = noted  # type: ignore[method-assign]  # to see what it is asked for
    assert world.run().ended == "well"
    sender = Sender(1_000, 2 * MESSAGE_SIZE)
    sender.start(bytes(METADATA_SIZE))
    for _ in range(255):
        assert not sender.add(bytes(256))
    assert sender.add(bytes(MESSAGE_SIZE))
    sender.end(bytes(METADATA_SIZE))
    publication = sender.take()
    assert publication is not None
    assert len(encode(new_topic(), publication)) <= allowed[0]
