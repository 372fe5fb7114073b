"""Shared streams, in virtual time: one run of the handler for all who ask the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.sharing import Group, Ticker, World, Worlds, numbers
from tests.rpc.streaming import Reader, streams_of
from tests.support import Logged
from txzmq.rpc import (
    Context,
    Count,
    DataLoss,
    Internal,
    NotFound,
    PermissionDenied,
    ServerLimits,
    ServerProceed,
    Unavailable,
)
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc._wire.streams import decode, topic_of
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults


@pytest.fixture(params=[World, Group], ids=["publisher", "group"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    yield from made(request.param)


def test_equal_requests_share_a_run(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(5)]
    readers += [world.subscribe() for _ in range(3)]
    other = world.subscribe("y")
    assert ticker.runs == ["x", "y"]
    for _ in range(10):
        ticker.give()
        world.network.run()
    assert all(reader.items == numbers(0, 10) for reader in [*readers, other])


def test_an_item_is_published_once(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(5)]
    frames = world.frames(world.shared_at)
    ticker.give(3)
    world.network.run()
    assert len(frames) == 1
    assert all(reader.items == numbers(0, 3) for reader in readers)


def test_those_who_join_do_not_make_all_others_answer_each_time(make: Worlds) -> None:
    world = make(Ticker())
    world.subscribe()
    frames = world.frames(world.shared_at)
    readers = [world.subscribe(channel=world.another()) for _ in range(100)]
    world.network.advance(0.5)
    assert 1 <= len(frames) <= 25  # heartbeats, each of which all of them answer
    assert not any(reader.has_ended for reader in readers)


def test_who_subscribes_again_and_again_does_not_make_all_others_answer(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(5)]
    frames = world.frames(world.shared_at)
    ticker.give()
    world.network.advance(20)
    topic = topic_of(frames[0])
    del frames[:]
    stranger = RawClient(world.network, ADDRESS)
    world.network.run()
    head = RequestHead("/txzmq.rpc.v1.Streams/Replay", None, ())
    for _ in range(500):
        request = streams_pb2.ReplayRequest(topic=topic, sequence=0)
        stranger.request(head, request.SerializeToString())
    world.network.advance(1)
    assert 1 <= len(frames) <= 30
    assert not any(reader.has_ended for reader in readers)
    stranger.transport.close()


def test_who_comes_late_gets_the_last_items(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.subscribe()
    for _ in range(30):
        ticker.give()
        world.network.run()
    late = world.subscribe(channel=world.another())
    on_the_same_channel = world.subscribe()
    assert late.items == on_the_same_channel.items == numbers(20, 30)
    ticker.give()
    world.network.run()
    assert late.items == on_the_same_channel.items == numbers(20, 31)


def test_a_busy_handler_leaves_time_for_others(make: Worlds) -> None:
    async def busy(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            yield text("x")

    world = make(busy)
    reader = Reader(world.watch().skip_gaps())
    world.network.advance(0.0001)
    assert len(reader.items) > 1000
    reader.stream.cancel()
    world.network.run()
    assert not world.server.running


def test_the_last_one_that_leaves_ends_the_run(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(2)] + [world.subscribe()]
    for reader in readers:
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.run()
        assert isinstance(reader.ended, CancelledError)
    assert not ticker.running
    world.subscribe()
    assert ticker.runs == ["x", "x"]


def test_a_run_that_has_ended_leaves_the_next_one_to_be_shared(make: Worlds) -> None:
    """It is kept for a while, for those who missed its end, and then removed."""
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(stream_grace=5.0))
    first = world.subscribe()
    ticker.fail()
    world.network.run()
    assert isinstance(first.ended, NotFound)
    world.subscribe()
    world.network.advance(6)
    world.subscribe()
    assert ticker.runs == ["x", "x"]


def test_a_run_ends_when_its_subscribers_have_died(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    channel = world.another()
    world.subscribe(channel=channel)
    world.vanish(channel)
    world.network.advance(4.9)
    assert ticker.running == 1
    world.network.advance(0.2)
    assert not ticker.running


def break_connections(world: World) -> None:
    world.network.cut(world.shared_at)


def lose_messages(world: World) -> None:
    world.network.faults = Faults(loss=1)


HOW = pytest.mark.parametrize("lose", [break_connections, lose_messages])


@HOW
def test_the_end_reaches_all(make: Worlds, lose: Callable[[World], None]) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(3)] + [world.subscribe()]
    ticker.give()
    lose(world)
    ticker.fail()
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(3)
    for reader in readers:
        assert reader.items == ["0"]
        assert isinstance(reader.ended, NotFound)
    again = world.subscribe()
    assert not again.has_ended
    assert len(ticker.runs) == 2
    world.network.advance(10)
    assert len(streams_of(world)) == 1  # the end is not kept for ever


@HOW
def test_a_gap_is_closed_where_the_server_can(make: Worlds, lose: Callable[[World], None]) -> None:
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    ticker.give()
    world.network.run()
    lose(world)
    ticker.give(9)
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(10)
    assert reader.items == numbers(0, 10)


def leave_a_gap(world: World, ticker: Ticker) -> None:
    """Lose 20 items, between one that has arrived and the last ten, which the server keeps."""
    ticker.give()
    world.network.run()
    world.network.cut(world.shared_at)
    ticker.give(30)
    world.network.advance(3)


def test_a_gap_that_cannot_be_closed_is_told(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    told: list[int] = []
    other = Reader(world.watch(channel=world.another()).skip_gaps(told.append))
    world.network.run()
    leave_a_gap(world, ticker)
    assert reader.items == ["0"]
    assert isinstance(reader.ended, DataLoss)
    assert world.channel.counters[Count.STREAM_GAP] == 1
    assert "20 items" in reader.ended.message
    assert other.items == [*numbers(0, 1), *numbers(21, 31)]
    assert told == [20]


def test_what_makes_room_does_not_overtake_what_made_it(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for size in (600, 600, 70_000, 1):
            yield text("x" * size)
        await Deferred()

    world = make(handler, limits=ServerLimits(streams_bytes=1_000, stream_window_bytes=500))
    frames = world.frames(world.shared_at)
    reader = world.subscribe()
    world.network.advance(0.5)
    assert [len(item) for item in reader.items] == [600, 600, 70_000, 1]
    sequences = [decode(frame).sequence for frame in frames]
    assert sequences == sorted(sequences)


def test_who_is_told_of_a_gap_may_fail(make: Worlds, logged: Logged) -> None:
    def told(lost: int) -> None:
        raise ZeroDivisionError

    ticker = Ticker()
    world = make(ticker)
    reader = Reader(world.watch().skip_gaps(told))
    world.network.run()
    leave_a_gap(world, ticker)
    assert reader.items == [*numbers(0, 1), *numbers(21, 31)]
    (error,) = logged.failures()
    assert isinstance(error, ZeroDivisionError)


def test_a_slow_reader_does_not_slow_the_others(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, stream_window=20)
    slow = world.watch()
    fast = world.subscribe(channel=world.another())
    for _ in range(100):
        ticker.give()
        world.network.run()
    assert fast.items == numbers(0, 100)
    reader = Reader(slow.skip_gaps())
    world.network.advance(1)
    assert reader.items[:20] == numbers(0, 20)
    assert reader.items[20:] == numbers(90, 100)


def test_each_subscriber_is_authorised(make: Worlds) -> None:
    async def members_only(request: Any, context: Context, proceed: ServerProceed) -> Any:
        if dict(context.metadata).get("member") != "yes":
            raise PermissionDenied("not you")
        return await proceed(request)

    ticker = Ticker()
    world = make(ticker, interceptors=[members_only])
    member = world.subscribe(metadata={"member": "yes"})
    stranger = world.subscribe(channel=world.another())
    ticker.give()
    world.network.run()
    assert member.items == ["0"]
    assert stranger.items == []
    assert isinstance(stranger.ended, PermissionDenied)


def test_the_handler_knows_of_no_subscriber(make: Worlds) -> None:
    contexts: list[Context] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        contexts.append(context)
        yield text("x")

    world = make(handler)
    reader = world.subscribe(metadata={"user": "a"}, timeout=5)
    assert reader.ended == "well"
    (context,) = contexts
    assert context.metadata == ()
    assert context.time_remaining() is None


def test_an_interceptor_must_not_change_a_shared_stream(make: Worlds, logged: Logged) -> None:
    async def change(request: Any, context: Context, proceed: ServerProceed) -> Any:
        await proceed(request)
        return [text("other")]

    reader = make(Ticker(), interceptors=[change]).subscribe()
    assert isinstance(reader.ended, Internal)
    assert logged


def test_a_restarted_server_is_told_as_such(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(), world.subscribe()]
    world.die()
    world.network.advance(0.1)
    world.serve()
    world.network.advance(2)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)
        assert "was restarted" in reader.ended.message
    world.network.advance(60)
    assert not ticker.running


def test_a_deadline_is_the_subscribers_own(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    short = world.subscribe(timeout=1, channel=world.another())
    long = world.subscribe(timeout=10)
    world.network.advance(2)
    assert short.has_ended
    ticker.give()
    world.network.run()
    assert long.items == ["0"]


@pytest.mark.parametrize("seed", range(5))
def test_loss_doubles_and_delay_lose_nothing_that_is_kept(make: Worlds, seed: int) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(3)]
    world.network.faults = Faults(seed=seed, loss=0.2, duplication=0.2, delay=0.2)
    for _ in range(40):
        ticker.give()
        world.network.advance(3)  # no more than the server keeps meanwhile
    world.network.faults = Faults()
    world.network.advance(60)
    for reader in readers:
        assert reader.items == numbers(0, 40)


def test_the_run_begins_when_somebody_listens(make: Worlds) -> None:
    async def at_once(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(100):
            yield text(str(number))
        await Deferred()

    world = make(at_once)
    assert world.subscribe().items == numbers(0, 100)


def test_a_run_that_nobody_listens_to_ends_with_its_call(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.network.run()
    stream = world.watch()
    stream.cancel()
    world.network.run()
    assert not ticker.runs
    assert not world.server.running


def test_a_client_that_comes_back_is_in_the_run_again(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(), world.subscribe()]
    for _ in range(3):
        world.cut()
        world.network.advance(20)
    ticker.give()
    world.network.run()
    assert ticker.runs == ["x"]
    for reader in readers:
        assert reader.items == ["0"]
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.advance(6)
    assert not ticker.running


def test_a_server_that_dies_is_told(make: Worlds) -> None:
    world = make(Ticker())
    reader = world.subscribe()
    world.die()
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)


def test_an_idle_stream_costs_few_control_calls(make: Worlds) -> None:
    world = make(Ticker())
    world.subscribe()
    sent: list[list[bytes]] = []
    listener = world.network.listener(ADDRESS)
    assert listener is not None
    send = listener.send_message

    def noted(message: list[bytes]) -> Any:
        sent.append(message)
        return send(message)

    listener.send_message = noted  # type: ignore[method-assign]  # there is no other place to look
    world.network.advance(60)
    assert len(sent) <= 10  # one sign of life each 10 s, and what opening it takes


def test_who_answers_at_the_second_time_of_asking_is_kept(make: Worlds) -> None:
    """Every other heartbeat is lost; the one after three quarters of the time is answered."""
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    world.network.advance(30)
    publisher = world.network.publisher(world.shared_at)
    assert publisher is not None
    publish, asked = publisher.publish, list[bytes]()

    def publish_half(frame: bytes) -> None:
        asked.append(frame)
        if len(asked) % 2 == 0:
            publish(frame)

    publisher.publish = publish_half  # type: ignore[method-assign]  # it loses what is asked first
    world.network.advance(300)
    assert len(asked) > 10
    assert ticker.running == 1
    assert not reader.has_ended
    assert not world.server.counters["silent subscriber"]
