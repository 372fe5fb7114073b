"""Streams of a server that was stopped, or whose reactor was blocked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.task import Clock

from tests.rpc.service import made, text
from tests.rpc.streaming import Endless, StreamWorld, Worlds
from txzmq.rpc import Context, Count, RequestStream
from txzmq.rpc._server.watchdog import Watchdog

#: Seconds for which the reactor stands still.
STILL = 3.0


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def stand_still(world: StreamWorld) -> None:
    """Time passes, and nothing is done: what is due comes late, in order."""
    world.network.clock.rightNow += STILL


@pytest.mark.parametrize("timeout", [None, 2])
def test_a_stream_is_opened_once_and_read_to_its_end(worlds: Worlds, timeout: float | None) -> None:
    world = worlds()
    world.network.advance(1)
    stand_still(world)
    reader = world.read(3, timeout=timeout)
    world.network.advance(0.5)
    assert (reader.items, reader.ended) == (["0", "1", "2"], "well")
    assert len(world.service.contexts) == 1
    assert world.channel.counters[Count.SENT_AGAIN] == (0 if timeout is None else 1)


def test_a_stream_whose_time_is_up_is_not_opened(worlds: Worlds) -> None:
    world = worlds()
    world.network.advance(1)
    stand_still(world)
    reader = world.read(3, timeout=0.05)
    world.network.advance(0.5)
    assert not world.service.contexts
    assert "DEADLINE_EXCEEDED" in str(reader.ended)


def test_what_is_open_goes_on(worlds: Worlds) -> None:
    source = Endless()
    world = worlds(source)
    reader = world.run(timeout=60)
    for _ in range(3):
        stand_still(world)
        source.give()
        world.network.advance(0.05)
    world.network.advance(1)
    assert reader.items == ["1", "2", "3"]
    assert reader.ended is None
    assert not world.server.counters[Count.MAY_BE_LATE]
    reader.stream.cancel()
    world.network.run()
    assert source.running == 0


def test_streamed_requests_arrive_all_the_same(worlds: Worlds) -> None:
    async def joined(requests: RequestStream[StringValue], context: Context) -> StringValue:
        return text("".join([request.value async for request in requests]))

    async def letters() -> AsyncIterator[StringValue]:
        for letter in "abc":
            yield text(letter)
            await world.sleep(1)
            stand_still(world)

    world = worlds(joined)
    result = world.collect(letters(), timeout=60)
    world.network.advance(20)
    assert world.network.result(result) == text("abc")
    assert not world.server.counters[Count.MAY_BE_LATE]


def test_streamed_requests_whose_call_is_made_again_arrive_once(worlds: Worlds) -> None:
    async def joined(requests: RequestStream[StringValue], context: Context) -> StringValue:
        return text("".join([request.value async for request in requests]))

    world = worlds(joined)
    world.network.advance(1)
    stand_still(world)
    result = world.collect(list(map(text, "abc")), timeout=2)
    world.network.advance(0.5)
    assert world.network.result(result) == text("abc")
    assert world.channel.counters[Count.SENT_AGAIN] == 1
    assert len(world.service.contexts) == 1


# -- how long what is read may have lain -------------------------------------------------------


class Socket:
    """What a watchdog is told of sockets."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.has_input = False
        self.caught_up = 0
        self.stood_still: list[float] = []
        self.watchdog = Watchdog(
            self.clock, 0.5, self.late, lambda: self.has_input, self.has_caught_up
        )
        self.watchdog.start()

    def late(self, now: float) -> None:
        self.stood_still.append(self.watchdog.noticed(now))

    def has_caught_up(self) -> None:
        self.caught_up += 1

    @property
    def lain(self) -> float:
        return self.watchdog.lain_us / 1_000_000

    def turn(self, seconds: float) -> None:
        """The reactor works for so long."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)


def test_it_lasts_until_the_sockets_are_empty() -> None:
    socket = Socket()
    socket.turn(1)
    assert socket.lain == 0
    socket.has_input = True
    socket.clock.advance(3)
    assert socket.stood_still == [pytest.approx(3.0, abs=0.3)]
    assert 3 < socket.lain <= 3.4
    socket.turn(1)
    assert 4 < socket.lain <= 4.4
    assert not socket.caught_up
    socket.has_input = False
    socket.turn(0.2)
    assert (socket.lain, socket.caught_up) == (0, 1)
    socket.watchdog.stop()
    assert not socket.clock.getDelayedCalls()


def test_a_server_that_is_overloaded_takes_all_calls_on_again_after_a_while() -> None:
    socket = Socket()
    socket.has_input = True
    socket.clock.advance(3)
    socket.turn(2.2)
    assert (socket.lain, socket.caught_up) == (0, 1)
    socket.watchdog.stop()


def test_two_pauses_one_after_the_other_are_one_for_what_lay() -> None:
    socket = Socket()
    socket.turn(1)
    socket.clock.advance(3)
    socket.turn(0.05)
    socket.clock.advance(2)
    assert len(socket.stood_still) == 2
    assert socket.lain > 5
    socket.turn(0.2)
    assert (socket.lain, socket.caught_up) == (0, 1)
    socket.watchdog.catch_up_now()
    assert socket.caught_up == 1
    socket.watchdog.stop()
    assert not socket.clock.getDelayedCalls()


def test_one_pause_after_the_other_is_overload_after_a_while() -> None:
    socket = Socket()
    socket.turn(1)
    for _ in range(20):
        socket.clock.advance(0.7)
        socket.turn(0.05)
    assert len(socket.stood_still) == 20
    assert 0.7 < socket.lain < 4
    assert socket.caught_up >= 3  # what is held does not wait for the end of it
    socket.turn(0.2)
    assert socket.lain == 0
    socket.watchdog.stop()
    assert not socket.clock.getDelayedCalls()


def test_it_is_watched_once() -> None:
    socket = Socket()
    socket.watchdog.start()
    assert len(socket.clock.getDelayedCalls()) == 1
    socket.watchdog.stop()
