"""Streams of one client that are published together, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COUNT, PUBLISHER, Reader, StreamWorld
from txzmq.rpc import Channel, Context
from txzmq.rpc._wire.headers import OpenStream, RequestHead, decode_response, encode_request
from txzmq.rpc._wire.streams import SEPARATOR, decode_bundle, topic_of
from txzmq.testing import Faults, assert_all_given_back


class Giving:
    """A stream gives what the test says, to the number that its request is."""

    def __init__(self) -> None:
        self._waiting: dict[int, Deferred[list[str]]] = {}

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            waiting: Deferred[list[str]] = Deferred()
            self._waiting[int(request.value)] = waiting
            for item in await waiting:
                yield text(item)

    def give(self, number: int, *items: str) -> None:
        self._waiting.pop(number).callback(list(items))


class World:
    """A server, a client, and a note of what is published."""

    def __init__(self) -> None:
        self.giving = Giving()
        self.world = StreamWorld(self.giving)
        self.network = self.world.network
        self.frames: list[bytes] = []
        network: Any = self.world.network
        self.publisher = network.publisher(PUBLISHER)
        publish = self.publisher.publish

        def note(frame: bytes) -> None:
            self.frames.append(frame)
            publish(frame)

        self.publisher.publish = note

    def open(self, count: int) -> list[Reader]:
        readers = [self.world.read(number) for number in range(count)]
        self.network.run()
        return readers

    def give(self, count: int, *items: str) -> None:
        for number in range(count):
            self.giving.give(number, *items)
        self.network.run()

    @property
    def tags(self) -> list[bytes]:
        """What is subscribed to, in that order."""
        return [tag for subscriber in self.publisher.subscribers for tag in subscriber.tags]

    def is_bundle(self, tag: bytes) -> bool:
        return self.publisher.handler._find_bundle(tag) is not None

    def take_frames(self) -> list[bytes]:
        frames, self.frames = self.frames, []
        return frames


@pytest.fixture
def world() -> Generator[World]:
    world = World()
    yield world
    world.world.close()
    assert_all_given_back(world.world.channel, world.world.server)


def test_streams_of_one_client_are_published_together(world: World) -> None:
    readers = world.open(10)
    world.give(10, "a")
    world.take_frames()
    world.give(10, "b", "c")
    assert [reader.items for reader in readers] == [["a", "b", "c"]] * 10
    # The first was opened when there was no other.
    alone, together = world.take_frames()
    topics = [topic_of(frame) for frame in (alone, *decode_bundle(together))]
    assert len(set(topics)) == 10
    assert topic_of(together) not in topics


def test_a_stream_alone_travels_alone(world: World) -> None:
    (reader,) = world.open(1)
    world.give(1, "a")
    assert reader.items == ["a"]
    assert {topic_of(frame) + SEPARATOR for frame in world.frames} == set(world.tags)
    assert len(world.tags) == 1


def test_streams_of_two_clients_travel_apart(world: World) -> None:
    readers = world.open(2)
    other = Channel(world.network, ADDRESS)
    more = [Reader(other.unary_stream(COUNT, text(str(number)))) for number in (2, 3)]
    world.network.run()
    world.take_frames()
    world.give(4, "a")
    assert [reader.items for reader in (*readers, *more)] == [["a"]] * 4
    assert len({topic_of(frame) for frame in world.take_frames()}) == 4
    other.close()
    world.network.run()


def test_streams_of_two_clients_behind_one_proxy_travel_apart(world: World) -> None:
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    for client in (b"one", b"other"):
        for number in (1, 2):
            head = RequestHead(COUNT.path, None, (), open_stream=OpenStream())
            # As a proxy would: the client's routing id in front.
            frames = [client, raw.id_of(number), b"", encode_request(head)]
            raw.transport.send_message([*frames, text("1").SerializeToString()])
    world.network.run()
    opened = [(message[0], decode_response(message[3]).stream) for message in raw.messages]
    bundles = {client: stream.bundle for client, stream in opened if stream and stream.bundle}
    assert len(set(bundles.values())) == len(bundles) == 2
    raw.transport.close()
    world.network.advance(6)


def test_what_is_lost_together_is_recovered_stream_by_stream(world: World) -> None:
    readers = world.open(5)
    world.network.faults = Faults(loss=1)
    world.give(5, "a")
    world.network.faults = Faults()
    assert not any(reader.items for reader in readers)
    world.give(5, "b")
    world.network.advance(3)
    assert [reader.items for reader in readers] == [["a", "b"]] * 5


def test_they_go_on_together_after_a_cut(world: World) -> None:
    readers = world.open(5)
    world.network.cut(PUBLISHER)
    world.give(5, "a")
    world.network.advance(3)
    world.take_frames()
    world.give(5, "b")
    assert [reader.items for reader in readers] == [["a", "b"]] * 5
    assert len(world.take_frames()) == 2


def test_a_client_that_does_not_subscribe_to_bundles_gets_none(world: World) -> None:
    take: Callable[..., None] = world.publisher.take_subscription

    def only_streams(subscriber: Any, connection: int, tag: bytes) -> None:
        if not world.is_bundle(tag):
            take(subscriber, connection, tag)

    world.publisher.take_subscription = only_streams
    readers = world.open(2)
    topics = {tag for tag in world.tags if not world.is_bundle(tag)}
    assert len(topics) == 2
    assert len(world.tags) == 3
    world.give(2, "a")
    assert [reader.items for reader in readers] == [["a"]] * 2
    assert {topic_of(frame) + SEPARATOR for frame in world.frames} == topics


def test_a_client_that_gives_up_its_bundle_gets_each_stream_alone(world: World) -> None:
    readers = world.open(3)
    (subscriber,) = world.publisher.subscribers
    (bundle,) = filter(world.is_bundle, world.tags)
    subscriber.unsubscribe(bundle)
    world.network.run()
    world.take_frames()
    world.give(3, "a")
    assert [reader.items for reader in readers] == [["a"]] * 3
    assert len(world.take_frames()) == 3
    subscriber.subscribe(bundle)


def test_they_go_on_together_by_another_connection(world: World) -> None:
    readers = world.open(5)
    (subscriber,) = world.publisher.subscribers
    subscriber.handler.failed("it is no publisher")
    world.network.advance(3)
    world.take_frames()
    world.give(5, "a")
    assert [reader.items for reader in readers] == [["a"]] * 5
    assert len(world.take_frames()) == 2


def add(stream: Any, item: str) -> None:
    """Have a stream publish an item, as if its handler had given it."""
    before = stream.sender.size
    stream.sender.add(text(item).SerializeToString())
    stream._owner.kept.size += stream.sender.size - before


def test_what_is_published_at_once_is_published_with_its_bundle(world: World) -> None:
    world.open(2)
    publisher = world.publisher.handler
    (stream,) = [
        stream
        for tag in world.tags
        if (stream := publisher._streams.find(tag)) is not None and stream.bundle is not None
    ]
    world.take_frames()  # the heartbeats that answered the subscriptions
    add(stream, "a")
    publisher.publish(stream)
    assert [topic_of(frame) for frame in world.take_frames()] == [stream.topic]


def test_what_is_too_large_does_not_overtake_what_is_together(world: World) -> None:
    """Where a stream is published again before its bundle is."""
    readers = world.open(2)
    publisher = world.publisher.handler
    (stream,) = [
        stream
        for tag in world.tags
        if (stream := publisher._streams.find(tag)) is not None and stream.bundle is not None
    ]
    items = ["a", "x" * 33_000, "b"]
    for item in items:
        add(stream, item)
        publisher._publish(stream)
    assert len(publisher._filled) == 1
    publisher.flush()
    world.network.run()
    assert readers[1].items == items
    assert not world.world.server.counters["replay"]


@pytest.mark.parametrize("count", [255, 256, 257])
def test_what_is_published_before_the_turn_ends_does_not_wait_for_others(
    world: World, count: int
) -> None:
    readers = world.open(2)
    world.give(2, *map(str, range(count)))
    assert [len(reader.items) for reader in readers] == [count] * 2


def test_a_bundle_ends_when_it_is_large(world: World) -> None:
    readers = world.open(20)
    world.take_frames()
    world.give(20, "x" * 20_000)
    assert [len(reader.items) for reader in readers] == [1] * 20
    assert max(map(len, world.frames)) < 160 * 1024
    assert 3 <= len(world.frames) <= 5


def test_a_malformed_bundle_is_counted(world: World) -> None:
    readers = world.open(2)
    (bundle,) = filter(world.is_bundle, world.tags)
    world.publisher.publish(bundle + b"\xff")
    world.network.run()
    assert world.world.channel.counters["malformed"] == 1
    world.give(2, "a")
    assert [reader.items for reader in readers] == [["a"]] * 2


def test_a_bundle_ends_with_its_last_stream(world: World) -> None:
    readers = world.open(3)
    assert len(world.tags) == 4
    readers[2].stream.cancel()
    world.network.run()
    assert len(world.tags) == 3
    readers[1].stream.cancel()
    world.network.run()
    assert len(world.tags) == 1
    world.giving.give(0, "a")
    world.network.run()
    assert readers[0].items == ["a"]


@pytest.mark.parametrize("seed", range(10))
def test_many_streams_lose_nothing(seed: int) -> None:
    faults = Faults(seed=seed, loss=0.1, duplication=0.1, delay=0.2)
    world = StreamWorld()
    readers = [world.read(200) for _ in range(70)]
    world.network.run()
    world.network.faults = faults
    world.network.advance(1)
    world.network.faults = Faults()
    world.network.advance(90)
    for reader in readers:
        assert reader.items == [str(number) for number in range(200)], reader.ended
    world.close()
