"""Shared streams, in virtual time: one run of the handler for all who ask the same."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, ClassVar

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.leftovers import leftovers
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import PUBLISHER, TICKS, Reader, StreamWorld
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Context,
    DataLoss,
    DeadlineExceeded,
    Internal,
    Kind,
    Method,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ResponseStream,
    Server,
    ServerLimits,
    ServerProceed,
    Service,
    StreamWriter,
    Unavailable,
    current_context,
)
from txzmq.rpc._wire.streams import decode
from txzmq.rpc.method import Sharing, StreamOptions
from txzmq.testing import Faults, MemoryNetwork


class Ticker:
    """Gives items when the test says so, and notes its runs."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.running = 0
        self.waiting: list[Deferred[int]] = []
        self.given = 0

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.runs.append(request.value)
        assert current_context() is context
        self.running += 1
        try:
            while True:
                self.waiting.append(Deferred(self.waiting.remove))
                for number in range(await self.waiting[-1]):
                    yield text(str(self.given + number))
                if self.given < 0:
                    raise NotFound("no more")
        finally:
            self.running -= 1

    def give(self, count: int = 1) -> None:
        """To each run."""
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(count)
        self.given += count

    def fail(self) -> None:
        self.given = -1
        self.give(0)


class World(StreamWorld):
    """As many channels as there are subscribers."""

    def __init__(self, ticker: Any, **options: Any) -> None:
        super().__init__(ticker, **options)
        self.channels = [self.channel]

    def another(self) -> Channel:
        self.channels.append(Channel(self.network, ADDRESS))
        return self.channels[-1]

    def watch(
        self, request: str = "x", *, channel: Channel | None = None, **options: Any
    ) -> ResponseStream[StringValue]:
        return (channel or self.channel).unary_stream(TICKS, text(request), **options)

    def subscribe(self, request: str = "x", **options: Any) -> Reader:
        reader = Reader(self.watch(request, **options))
        self.network.run()
        return reader

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        super().close()


Worlds = Callable[..., World]
SNAPSHOT = Method("/test.State/Snapshot", "snapshot", StringValue, StringValue)
UPDATES = Method(
    "/test.State/Updates",
    "updates",
    StringValue,
    StringValue,
    kind=Kind.UNARY_STREAM,
    stream=StreamOptions(sharing=Sharing.SHARED, replay=50),
)


@pytest.fixture
def make() -> Generator[Worlds]:
    worlds: list[World] = []

    def build(*arguments: Any, **options: Any) -> World:
        worlds.append(World(*arguments, **options))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()
        assert leftovers(world.channel, world.server) == []


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


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
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    frames: list[bytes] = []
    publish = publisher.publish

    def noted(frame: bytes) -> None:
        frames.append(frame)
        publish(frame)

    publisher.publish = noted  # type: ignore[method-assign]  # there is no other place to look
    ticker.give(3)
    world.network.run()
    assert len(frames) == 1
    assert all(reader.items == numbers(0, 3) for reader in readers)


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


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=3), "3 streams are open on the server (ServerLimits.streams)"),
        (
            ServerLimits(streams_per_peer=3),
            "3 streams of this client are open on the server (ServerLimits.streams_per_peer)",
        ),
        (
            ServerLimits(subscribers=3),
            "3 calls share streams on the server (ServerLimits.subscribers)",
        ),
    ],
)
def test_a_client_cannot_open_without_end(make: Worlds, limits: ServerLimits, name: str) -> None:
    world = make(Ticker(), limits=limits)
    readers = [world.subscribe(str(number)) for number in range(3)]
    refused = world.subscribe("3")
    assert isinstance(refused.ended, ResourceExhausted)
    assert refused.ended.message == name
    assert world.server.counters["shed stream"] == 1
    readers[0].stream.cancel()
    world.network.run()
    readers.append(world.subscribe("3"))
    assert not any(reader.has_ended for reader in readers[1:])


def test_calls_that_share_a_run_count_each(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=3, subscribers=5))
    mine = [world.subscribe() for _ in range(4)]
    assert [reader.has_ended for reader in mine] == [False, False, False, True]
    others = [world.subscribe(channel=world.another()) for _ in range(3)]
    assert [reader.has_ended for reader in others] == [False, False, True]
    assert ticker.runs == ["x"]


def test_private_and_shared_streams_of_a_client_count_together(make: Worlds) -> None:
    world = make(Ticker(), limits=ServerLimits(streams_per_peer=2))
    world.subscribe()
    private = world.read()
    world.network.run()
    assert not private.has_ended
    for refused in (world.subscribe(), world.subscribe("y"), world.run()):
        assert isinstance(refused.ended, ResourceExhausted)
    private.stream.cancel()
    world.network.run()
    assert not world.subscribe("y").has_ended


def test_the_end_of_a_run_makes_room(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=2, subscribers=2))
    readers = [world.subscribe() for _ in range(2)]
    ticker.fail()
    world.network.run()
    assert all(isinstance(reader.ended, NotFound) for reader in readers)
    ticker.given = 0
    assert not any(world.subscribe().has_ended for _ in range(2))


def test_a_lost_connection_makes_room(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(subscribers=2))
    first = world.subscribe()
    gone = world.another()
    world.subscribe(channel=gone)
    world.network.faults = Faults(loss=1)  # so that nobody hears that it says goodbye
    gone.close()
    world.network.run()
    world.network.faults = Faults()
    second = world.subscribe(channel=world.another())
    assert not second.has_ended
    # Those who come back after a cut are still in the run, which ends with them.
    world.cut()
    world.network.advance(3)
    ticker.give()
    world.network.run()
    assert first.items == second.items == ["0"]
    for reader in (first, second):
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.advance(6)
    assert not ticker.running


def test_an_opening_call_that_is_cancelled_holds_no_place(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=2))
    world.subscribe()
    world.network.faults = Faults(delay=1, seed=3)  # the answer and the Cancel cross
    for _ in range(20):
        stream = world.watch()
        world.network.advance(1)
        stream.cancel()
        world.network.advance(4)
    world.network.faults = Faults()
    world.network.advance(5)
    assert not world.subscribe().has_ended


def test_an_opening_call_that_comes_too_late_holds_no_place(make: Worlds) -> None:
    world = make(Ticker(), limits=ServerLimits(streams_per_peer=2), timeout=0.5)
    world.subscribe()
    send = world.network.carry
    held: list[Callable[[], None]] = []

    def hold(arrive: Callable[[], None]) -> None:
        held.append(arrive)

    world.network.carry = hold  # type: ignore[method-assign]  # to hold back the answer
    late = world.subscribe("y")
    held.pop()()
    world.network.advance(1)
    assert isinstance(late.ended, DeadlineExceeded)
    world.network.carry = send  # type: ignore[method-assign]  # as it was
    for arrive in held:
        arrive()
    world.network.run()
    assert not world.subscribe().has_ended


def test_a_run_ends_when_its_subscribers_have_died(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    channel = world.another()
    world.subscribe(channel=channel)
    world.network.faults = Faults(loss=1)
    channel.close()
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(4.9)
    assert ticker.running == 1
    world.network.advance(0.2)
    assert not ticker.running


def test_the_end_reaches_all(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(3)]
    ticker.give()
    world.network.cut(PUBLISHER)
    ticker.fail()
    world.network.advance(3)
    for reader in readers:
        assert reader.items == ["0"]
        assert isinstance(reader.ended, NotFound)
    again = world.subscribe()
    assert not again.has_ended
    assert len(ticker.runs) == 2


def test_a_gap_is_closed_where_the_server_can(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    ticker.give()
    world.network.run()
    world.network.cut(PUBLISHER)
    ticker.give(9)
    world.network.advance(3)
    assert reader.items == numbers(0, 10)


def test_a_gap_that_cannot_be_closed_is_told(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    told: list[int] = []
    other = Reader(world.watch(channel=world.another()).skip_gaps(told.append))
    world.network.run()
    ticker.give()
    world.network.run()
    world.network.cut(PUBLISHER)
    ticker.give(30)
    world.network.advance(3)
    assert reader.items == ["0"]
    assert isinstance(reader.ended, DataLoss)
    assert "20 items" in reader.ended.message
    assert other.items == [*numbers(0, 1), *numbers(21, 31)]
    assert told == [20]


def test_what_makes_room_does_not_overtake_what_made_it(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for size in (600, 600, 70_000, 1):
            yield text("x" * size)
        await Deferred()

    world = make(handler, limits=ServerLimits(streams_bytes=1_000, stream_window_bytes=500))
    publisher = world.network.publisher(PUBLISHER)
    assert publisher is not None
    publish, sequences = publisher.publish, list[int]()

    def noted(frame: bytes) -> None:
        sequences.append(decode(frame).sequence)
        publish(frame)

    publisher.publish = noted  # type: ignore[method-assign]  # there is no other place to look
    reader = world.subscribe()
    world.network.advance(0.5)
    assert [len(item) for item in reader.items] == [600, 600, 70_000, 1]
    assert sequences == sorted(sequences)


def test_who_is_told_of_a_gap_may_fail(make: Worlds, logged: Logged) -> None:
    def told(lost: int) -> None:
        raise ZeroDivisionError

    ticker = Ticker()
    world = make(ticker)
    reader = Reader(world.watch().skip_gaps(told))
    world.network.run()
    ticker.give()
    world.network.run()
    world.network.cut(PUBLISHER)
    ticker.give(30)
    world.network.advance(3)
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
    world.network.run()
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


class State:
    """A list that grows; its updates are shared, and a snapshot is a call of its own."""

    __txzmq_service__: ClassVar[Service] = Service("test.State", (SNAPSHOT, UPDATES))

    def __init__(self) -> None:
        self.values: list[int] = []
        self.writers: list[StreamWriter[StringValue]] = []

    def snapshot(self, request: StringValue, context: Context) -> StringValue:
        return text(",".join(map(str, self.values)))

    def updates(self, request: StringValue, context: Context) -> StreamWriter[StringValue]:
        writer: StreamWriter[StringValue] = StreamWriter()
        writer.write(text(str(len(self.values))))
        self.writers.append(writer)
        return writer

    def change(self) -> None:
        self.values.append(len(self.values) + 1)
        for writer in self.writers:
            writer.write(text(str(len(self.values))))


async def follow(channel: Channel, state: list[int]) -> None:
    """The guide's recipe; the values are their own versions."""
    async with channel.unary_stream(UPDATES, text("x")) as updates:
        await anext(updates)
        snapshot = await channel.unary_unary(SNAPSHOT, text("x"))
        state.extend(int(value) for value in snapshot.value.split(",") if value)
        version = len(state)
        async for update in updates:
            if int(update.value) > version:
                state.append(int(update.value))  # noqa: PERF401 - as they come


@pytest.mark.parametrize("seed", range(30))
def test_a_snapshot_and_then_updates_miss_nothing(seed: int) -> None:
    chance = random.Random(seed)
    network = MemoryNetwork()
    service = State()
    server = Server(network, [service])
    channels = [Channel(network, server.listen("inproc://state"))]
    states: list[list[int]] = []
    ended: list[Deferred[None]] = []
    for _ in range(60):
        if chance.random() < 0.1:
            channels.append(Channel(network, "inproc://state"))
            states.append([])
            ended.append(Deferred.fromCoroutine(follow(channels[-1], states[-1])))
        if chance.random() < 0.7:
            service.change()
        if chance.random() < 0.05:
            network.cut("inproc://state.streams")
        if chance.random() < 0.3:
            network.advance(chance.choice([0, 0.01, 0.1, 0.5]))
        else:
            network.clock.advance(0)
    network.advance(10)
    assert all(state == service.values for state in states)
    for channel in channels:
        channel.close()
    for end in ended:
        end.addErrback(lambda _: None)
    server.stop(0)
    network.advance(3)
