"""When a server gives up a client that says nothing any more about its streams, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.raw import Deaf, RawClient
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import (
    COUNT,
    PUBLISHER,
    TICKS,
    Endless,
    Reader,
    StreamWorld,
    Worlds,
    streams_of,
)
from txzmq.rpc import Channel, Code, Context, Liveness, Method, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def test_a_subscriber_that_does_not_come_back_is_forgotten(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    world.run()
    # As if the process had died: the channel does nothing any more.
    other = Channel(world.network, ADDRESS)
    reader = Reader(other.unary_stream(COUNT, text("1")))
    world.network.run()
    assert endless.running == 2
    world.vanish(other)
    world.network.advance(4.9)
    assert endless.running == 2
    world.network.advance(0.2)
    assert endless.running == 1
    assert endless.ends == ["nobody subscribes to it"]
    assert world.server.counters["stream without subscriber"] == 1
    assert isinstance(reader.ended, CancelledError)


def test_a_client_that_never_subscribes_is_forgotten(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.read()
    world.network.publisher(PUBLISHER).close()  # type: ignore[union-attr]  # there is one
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)
    assert not world.server.running
    assert not endless.running


def test_one_of_a_clients_idle_streams_asks_for_all(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    for _ in range(50):
        world.read()
    world.network.advance(5)
    frames = world.frames(PUBLISHER)
    world.network.advance(60)
    assert 4 <= len(frames) <= 6
    assert endless.running == 50


def test_an_idle_run_sets_few_timers(make: Worlds) -> None:
    world = make(Endless(), limits=ServerLimits(blocked_after=None))  # the watchdog has one
    readers = [Reader(world.channel.unary_stream(TICKS, text("x"))) for _ in range(50)]
    world.network.advance(10)
    clock: Any = world.network.clock
    call_later, timers = clock.callLater, 0

    def counted(*arguments: Any) -> Any:
        nonlocal timers
        timers += 1
        return call_later(*arguments)

    clock.callLater = counted  # there is no other place to look
    world.network.advance(20)
    assert timers < 60
    assert not any(reader.has_ended for reader in readers)


async def one_and_silence(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    yield text("first")
    await Deferred()


def hold(world: StreamWorld) -> Callable[[], None]:
    """Let nothing arrive, as if a process were stopped; until the result is called."""
    held: list[Callable[[], None]] = []
    carry = world.network.carry

    def keep(arrive: Callable[[], None], kind: object, parts: object) -> None:
        held.append(arrive)

    world.network.carry = keep  # type: ignore[method-assign]  # connections stay as they are

    def release() -> None:
        world.network.carry = carry  # type: ignore[method-assign]  # as it was
        for arrive in held:
            world.network.clock.callLater(0, arrive)

    return release


class Slow(Deaf):
    """Has not come to the streams that it has opened, and says other things meanwhile."""

    def __init__(self, world: StreamWorld) -> None:
        super().__init__(world)
        self.advance = world.network.advance
        self.run()

    def say_things(self, seconds: int) -> None:
        for _ in range(seconds):
            self.raw.request(RequestHead("/txzmq.rpc.v1.Control/Ping", None, ()))
            self.advance(1)


def test_a_client_that_is_slow_and_alive_finds_the_streams_that_it_opens(make: Worlds) -> None:
    """So it is when thousands are opened at once, on a machine that is busy."""
    endless = Endless()
    world = make(endless, limits=ServerLimits(stream_grace=5, stream_silence=20))
    slow = Slow(world)
    replies = [slow.open(subscribes=False) for _ in range(3)]
    slow.say_things(18)
    assert len(streams_of(world)) == 3
    assert endless.running == 0
    opened = replies[1].stream
    assert opened is not None
    slow.transport.subscribe(opened.topic + SEPARATOR)
    world.network.run()
    assert endless.running == 1
    slow.say_things(3)
    assert len(streams_of(world)) == 1  # those that it does not come to are not kept for ever
    slow.close()


def test_a_client_that_says_nothing_after_it_has_opened_a_stream_has_no_longer_grace(
    make: Worlds,
) -> None:
    world = make(limits=ServerLimits(stream_grace=5, stream_silence=20))
    slow = Slow(world)
    slow.say_things(2)
    slow.open(subscribes=False)
    world.network.advance(5.1)
    assert not streams_of(world)
    slow.close()


def test_a_server_that_stood_still_waits_for_those_who_subscribed_meanwhile(make: Worlds) -> None:
    endless = Endless()
    world = make(endless, limits=ServerLimits(stream_grace=5, stream_silence=20))
    slow = Slow(world)
    opened = slow.open(subscribes=False).stream
    assert opened is not None
    release = hold(world)
    slow.transport.subscribe(opened.topic + SEPARATOR)
    world.network.clock.advance(7)  # the timer comes late, and before what has arrived is read
    release()
    world.network.run()
    assert endless.running == 1
    slow.close()


def test_an_acknowledgement_without_a_subscription_keeps_no_stream(make: Worlds) -> None:
    world = make()
    client = RawClient(world.network, ADDRESS)
    world.network.run()
    opening = RequestHead(COUNT.path, None, (), open_stream=OpenStream())
    number = client.request(opening, text("1").SerializeToString())
    world.network.run()
    stream = client.replies()[number][0].stream
    assert stream is not None
    position = streams_pb2.Position(topic=stream.topic, sequence=0)
    acknowledge = streams_pb2.AcknowledgeRequest(positions=[position])
    head = RequestHead("/txzmq.rpc.v1.Streams/Acknowledge", None, ())
    client.request(head, acknowledge.SerializeToString())
    world.network.advance(0.1)
    assert len(streams_of(world)) == 1
    world.network.advance(21)
    assert not streams_of(world)
    client.transport.close()


@pytest.mark.parametrize("method", [COUNT, TICKS], ids=["private", "shared"])
def test_a_client_that_asks_for_replays_is_alive(
    make: Worlds, method: Method[StringValue, StringValue]
) -> None:
    """It gets no heartbeat that it could answer: they are lost, as what it misses was."""
    endless = Endless()
    world = make(endless, limits=ServerLimits(stream_silence=20))
    client = Deaf(world)
    world.network.run()
    opened = client.open(method).stream
    assert opened is not None
    assert endless.running == 1
    position = streams_pb2.Position(topic=opened.topic, sequence=opened.sequence)
    acknowledge = streams_pb2.AcknowledgeRequest(positions=[position])
    head = RequestHead("/txzmq.rpc.v1.Streams/Acknowledge", None, ())
    client.raw.request(head, acknowledge.SerializeToString())
    request = streams_pb2.ReplayRequest(topic=opened.topic, sequence=opened.sequence)
    head = RequestHead("/txzmq.rpc.v1.Streams/Replay", None, ())
    for _ in range(20):
        client.raw.request(head, request.SerializeToString())
        world.network.advance(5)
        assert endless.running == 1
    world.network.advance(40)
    assert not endless.running
    client.close()


def test_a_client_that_stops_answering_is_forgotten(make: Worlds) -> None:
    world = make(limits=ServerLimits(stream_silence=20), stream_window=2)
    stream = world.open(10)
    world.network.run()
    # Heartbeats are answered even when nobody reads ...
    world.network.advance(100)
    assert world.server.running == 1
    # ... but not by a process that is stopped.
    world.network.faults = Faults(loss=1)
    world.network.advance(40)
    world.network.faults = Faults()
    assert not world.server.running
    assert world.server.counters["silent subscriber"] == 1
    stream.cancel()


@pytest.mark.parametrize("count", [1, 5])
def test_s5_an_idle_client_that_says_nothing_is_given_up(make: Worlds, count: int) -> None:
    # Without pings the client does not notice; a stopped one would not either.
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(count)]
    world.network.advance(30)  # everything is acknowledged
    hold(world)
    world.network.advance(9)
    assert world.server.running == count
    world.network.advance(16)
    assert world.server.running == 0
    assert world.server.counters["silent subscriber"] == count
    assert [reader.items for reader in readers] == [["first"]] * count


def test_a_client_that_was_stopped_learns_that_it_was_given_up(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    world.network.advance(30)
    release = hold(world)
    world.network.advance(60)
    release()
    world.network.advance(10)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)
        assert "has given up the stream" in reader.ended.message


def test_a_client_that_was_stopped_learns_of_all_where_timers_are_late(make: Worlds) -> None:
    """It is looked at before three quarters of the time that it may be silent, and after all."""
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    clock: Any = world.network.clock
    call_later = clock.callLater
    # The server looks every 5.1 s, at 30.6 s for instance.

    def late(seconds: float, *rest: Any) -> Any:
        return call_later(seconds + 0.1 if seconds == 5 else seconds, *rest)

    clock.callLater = late
    readers = [world.run() for _ in range(3)]
    world.network.advance(30.6 + 0.35)
    readers.append(world.run())  # a sign of life; it is silent for 14.95 s, and then for 20.05
    release = hold(world)
    world.network.advance(60)
    assert world.server.running == 0
    release()
    world.network.advance(10)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)


@pytest.mark.parametrize("ping_interval", [10, None])
def test_an_idle_client_is_not_given_up(make: Worlds, ping_interval: float | None) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=ping_interval))
    readers = [world.run() for _ in range(100)]
    world.network.advance(30)
    published = world.frames(PUBLISHER)
    world.network.advance(600)
    assert world.server.running == 100
    assert not any(reader.has_ended for reader in readers)
    # One stream speaks for all of them.
    assert len(published) <= 61


def test_a_server_that_stood_still_gives_nobody_up_for_it(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    world.network.advance(30)
    world.network.clock.advance(60)  # all timers come late, and before what has arrived is read
    world.network.advance(60)
    assert world.server.running == 3
    assert not any(reader.has_ended for reader in readers)


def test_a_stopped_client_is_given_up_though_the_server_stood_still(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    for _ in range(3):
        world.run()
    world.network.advance(30)
    hold(world)
    world.network.clock.advance(60)
    world.network.advance(30)
    assert world.server.running == 0
    assert world.server.counters["silent subscriber"] == 3


def test_a_client_that_pings_is_not_given_up(make: Worlds) -> None:
    """Its heartbeats may be lost on their way, while it waits for other calls."""
    world = make(Endless())
    deaf = Deaf(world)
    world.network.run()
    assert deaf.open().code is Code.OK
    for _ in range(10):
        deaf.raw.request(RequestHead("/txzmq.rpc.v1.Control/Ping", None, ()))
        world.network.advance(10)
    assert world.server.running == 1
    world.network.advance(30)
    assert world.server.running == 0
    deaf.close()


def test_a_server_that_stood_still_waits_for_acknowledgements(make: Worlds) -> None:
    world = make(stream_window=2)
    stream = world.open(1000)  # is not read, so that items wait
    world.network.advance(5)
    world.network.clock.advance(60)
    world.network.advance(60)
    assert world.server.running == 1
    assert Reader(stream).ended is None


def test_a_client_that_came_back_speaks_for_its_streams(make: Worlds) -> None:
    world = make(one_and_silence, liveness=Liveness(ping_interval=None))
    readers = [world.run() for _ in range(3)]
    for _ in range(5):
        world.cut()
        world.network.advance(60)
    assert world.server.running == 3
    assert not any(reader.has_ended for reader in readers)
    hold(world)
    world.network.advance(25)
    assert world.server.running == 0


def test_a_sign_of_life_counts_for_all_that_a_stranger_unsubscribed(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    ((tag,),) = publisher.subscribers.values()
    world.network.faults = Faults(loss=1)
    for _ in range(2):
        publisher.take_from_stranger(tag)
        world.network.advance(1)
    world.network.faults = Faults()
    endless.give()  # which a heartbeat follows, and the client answers
    world.network.advance(10)
    assert endless.running == 1
    assert not reader.has_ended
