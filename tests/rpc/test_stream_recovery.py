"""Streams of responses over connections and servers that break, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import (
    PUBLISHER,
    RESUME,
    Endless,
    Reader,
    StreamWorld,
    Worlds,
    following,
    numbers,
)
from txzmq.rpc import (
    Context,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    RpcError,
    Server,
    ServerLimits,
    Unavailable,
)
from txzmq.rpc._wire.streams import Publication, Sender
from txzmq.testing import Faults, MessageKind


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def test_a_stream_survives_a_broken_connection(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    for _ in range(20):
        world.cut()
        endless.give()
        world.network.advance(0.05)
        endless.give()
        world.network.advance(2)
    assert reader.items == [str(number) for number in range(1, 41)]
    assert world.server.counters["replay"]
    reader.stream.cancel()


def test_a_server_whose_replays_bring_nothing_new_is_asked_at_a_measured_pace(
    make: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    endless.give()
    world.network.run()
    assert reader.items == ["1"]

    def stale(self: Sender, sequence: int) -> Publication:
        return Publication(1, [text("1").SerializeToString()])

    monkeypatch.setattr(Sender, "replay", stale)
    world.cut()
    endless.give()
    world.network.advance(10)
    assert 1 <= world.server.counters["replay"] <= 20
    monkeypatch.undo()
    world.network.advance(2)
    assert reader.items == ["1", "2"]
    reader.stream.cancel()


def test_the_end_survives_a_broken_connection(make: Worlds) -> None:
    release: Deferred[None] = Deferred()

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        await release
        context.set_trailing_metadata({"k": "v"})
        raise NotFound("gone")

    world = make(handler)
    reader = world.run()
    world.cut()
    release.callback(None)
    world.network.advance(3)
    assert isinstance(reader.ended, NotFound)
    assert reader.stream.trailing_metadata == (("k", "v"),)
    world.network.advance(1)


def test_a_restarted_server_is_told_as_such(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    world.die()
    world.network.advance(0.1)
    assert not reader.has_ended
    world.serve()
    world.network.advance(2)
    assert isinstance(reader.ended, Unavailable)
    assert "was restarted" in reader.ended.message
    assert not world.run(timeout=1).has_ended


def test_a_restart_is_told_where_the_question_for_the_streams_is_lost(make: Worlds) -> None:
    world = make(Endless())
    reader = world.run()
    world.die()
    world.network.advance(0.1)
    world.serve()
    world.network.faults = Faults(loss=1)
    world.network.advance(2)  # connected, and asked in vain
    world.network.faults = Faults()
    world.network.advance(60)
    assert isinstance(reader.ended, Unavailable)
    assert "was restarted" in reader.ended.message


def test_a_server_that_is_gone_is_told(make: Worlds) -> None:
    world = make(Endless())
    reader = world.run()
    world.die()
    world.network.advance(4.9)
    assert not reader.has_ended  # it could come back
    world.network.advance(0.2)
    assert isinstance(reader.ended, Unavailable)
    assert "connection" in reader.ended.message


def test_connecting_in_vain_gives_a_lost_server_no_more_time(make: Worlds) -> None:
    world = make(Endless())
    reader = world.run()
    connect, tried = world.network.connect, 0

    def failing(address: str, handler: Any, options: Any) -> Any:
        nonlocal tried
        tried += 1
        world.network.clock.callLater(0.1, handler.failed, "it speaks HTTP")
        return connect(address, handler, options)

    world.network.connect = failing  # type: ignore[method-assign]  # another listens there
    world.die()
    world.network.advance(4.9)
    assert not reader.has_ended
    assert tried > 1
    world.network.advance(0.2)
    assert isinstance(reader.ended, Unavailable)


def test_a_publisher_that_is_gone_is_told(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    world.network.die(PUBLISHER)
    world.network.advance(4)
    assert not reader.has_ended
    world.network.advance(4)
    assert isinstance(reader.ended, Unavailable)
    assert f"the publisher at {PUBLISHER} was not reached" in reader.ended.message
    assert not endless.running


@pytest.mark.parametrize("seed", range(10))
def test_loss_doubles_and_delay_change_nothing(make: Worlds, seed: int) -> None:
    faults = Faults(seed=seed, loss=0.2, duplication=0.2, delay=0.3)
    world = make(faults=faults, stream_window=8)
    reader = world.read(100)
    while reader.ended != "well":
        world.network.advance(200)
        if isinstance(reader.ended, RpcError):
            reader = world.read(100)  # the call that opens it was lost
    assert reader.items == numbers(100)
    assert reader.ended == "well"


async def count_on(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Count slowly, from wherever another one left off."""
    for number in range(context.first_item - 1, int(request.value)):
        yield text(str(number))
        if number % 3 == 2:
            await sleep_of[context.method](0.2)


sleep_of: dict[str, Callable[[float], Deferred[None]]] = {}


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_stream_goes_on_elsewhere_where_its_method_may(make: Worlds, how: str) -> None:
    world = make(count_on)
    sleep_of[RESUME.path] = world.sleep
    reader = Reader(world.channel.unary_stream(RESUME, text("60")))
    for _ in range(3):
        world.network.advance(0.7)
        assert not reader.has_ended
        if how == "dies":
            world.die()
        else:
            world.server.stop(0)
        world.network.advance(0.1)
        world.serve()
        world.network.advance(1)
    world.network.advance(30)
    assert reader.items == numbers(60)
    assert reader.ended == "well"
    assert world.channel.counters["stream resumed"] == 3

    # What the dead servers still run has lost its clients, too.


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_stream_goes_on_though_the_server_that_was_to_go_on_with_it_is_lost(
    make: Worlds, how: str
) -> None:
    world = make(count_on)
    sleep_of[RESUME.path] = world.sleep
    reader = Reader(world.channel.unary_stream(RESUME, text("60")))
    world.network.advance(0.7)
    world.die()
    world.network.advance(0.1)
    servers = [world.serve()]
    carry = world.network.carry
    openings = 0

    def lose(arrive: Callable[[], None], kind: Any, parts: Sequence[bytes]) -> None:
        """The server ends just when it gets the call that goes on with the stream."""
        nonlocal openings
        is_opening = kind is MessageKind.REQUEST and any(RESUME.path.encode() in p for p in parts)
        openings += is_opening
        if not is_opening or openings > 3:
            carry(arrive, kind, parts)
        elif how == "dies":
            world.network.clock.callLater(0, world.die)
        else:
            servers[-1].stop(1)  # which refuses what comes from then on
            carry(arrive, kind, parts)

    world.network.carry = lose  # type: ignore[method-assign]  # connections stay as they are
    for number in range(3):
        world.network.advance(2)
        assert openings == number + 1
        assert not reader.has_ended
        servers.append(world.serve())
    world.network.advance(30)
    assert reader.items == numbers(60)
    assert reader.ended == "well"


def test_a_stream_that_no_server_wants_to_go_on_with_ends(make: Worlds) -> None:
    def refuse(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        if context.first_item > 1:
            raise Unavailable("not from there")
        return count_on(request, context)

    world = make(refuse)
    sleep_of[RESUME.path] = world.sleep
    reader = Reader(world.channel.unary_stream(RESUME, text("60")))
    world.network.advance(0.7)
    world.die()
    world.network.advance(0.1)
    world.serve()
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)
    assert reader.ended.message == "not from there"


def test_a_method_that_is_not_resumable_begins_at_the_beginning(make: Worlds) -> None:
    world = make()
    calls: Any = world.channel._calls  # pyright: ignore[reportPrivateUsage]  # another client may
    calls._window = calls._window._replace(sequence=5)
    assert isinstance(world.run().ended, FailedPrecondition)


def test_a_stream_whose_time_is_up_before_it_was_begun_is_told(make: Worlds) -> None:
    endless = Endless()
    limits = ServerLimits(stream_timeout=0.5)
    world = make(endless, limits=limits, faults=Faults(subscription_loss=1))
    reader = world.run()
    world.network.advance(3)  # the server hears of the reader by its first replay
    assert isinstance(reader.ended, DeadlineExceeded)
    assert "the stream's time was up on the server" in reader.ended.message
    assert not endless.running


def test_a_publisher_that_has_moved_is_the_only_one_that_is_heard(make: Worlds) -> None:
    world = make(publishers=["inproc://elsewhere"])
    sockets: list[Any] = []
    subscribe = world.network.subscribe

    def noted(address: str, handler: Any, options: Any) -> Any:
        sockets.append(subscribe(address, handler, options))
        return sockets[-1]

    world.network.subscribe = noted  # type: ignore[method-assign]  # to look at the sockets
    assert world.run().ended == "well"
    world.die()
    lost, world.server = world.server, Server(world.network, [world.service])
    world.server.listen(ADDRESS, publisher="inproc://elsewhere")
    world.network.advance(1)
    assert world.run().ended == "well"
    assert [socket._open for socket in sockets] == [False, True]
    lost.stop(0)


def test_a_subscription_that_is_lost_with_the_connection_is_made_again(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    reader = world.run()
    world.network.faults = Faults(subscription_loss=1)
    world.network.cut(PUBLISHER)
    world.network.advance(0.5)
    world.network.faults = Faults()
    endless.give()
    world.network.advance(2)
    endless.give()
    world.network.run()
    assert reader.items == ["1", "2"]


def test_leaving_a_stream_delays_no_replay_for_another(make: Worlds) -> None:
    endless = Endless()
    world = make(endless)
    left = world.open()
    following(left).addCallback(lambda _: left.cancel())
    world.network.run()
    reader = world.run()
    world.network.faults = Faults(loss=1)
    endless.waiting.pop().callback(None)
    world.network.run()
    world.network.faults = Faults()
    # In one turn the one is left, and the other one misses something.
    endless.give()
    world.network.run()
    assert endless.running == 1
    assert reader.items == ["0", "1"]
