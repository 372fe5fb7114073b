"""The states of a stream of a client, cell by cell: the table in docs/inside.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.retried_streams import World as RetriedWorld
from tests.rpc.scripted_streams import Scripted, state_of
from tests.rpc.service import made, text
from tests.rpc.streaming import RESUME, Reader, StreamWorld, following
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Internal,
    ResponseStream,
    Unavailable,
)
from txzmq.rpc._client.response_stream import ClientStream
from txzmq.rpc._core.stream_state import ENDED, ENDING, OPEN, OPENING, StreamState
from txzmq.rpc._wire.streams import Publication

Worlds = Callable[..., StreamWorld]
GRACE = 5.0


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


#: What a handler does so that its client's stream comes to a state.
EVENTS: dict[StreamState, tuple[str | None, ...]] = {ENDING: ("a", "b", None), ENDED: (None,)}


class Reading:
    """One stream of a client, in any state."""

    def __init__(self, make: Worlds, *, timeout: float | None = 60) -> None:
        self.handler = Scripted()
        self.world = make(self.handler)
        self.stream = self.world.open(1, timeout=timeout)
        self.core = core_of(self.stream)

    def go(self, state: StreamState) -> ClientStream:
        if state is not OPENING:
            self.run()
            self.handler.do(*EVENTS.get(state, ()))
            self.run()
        assert state_of(self.core) is state
        return self.core

    def run(self) -> None:
        self.world.network.run()


def core_of(stream: ResponseStream[StringValue]) -> ClientStream:
    core = getattr(stream, "_core", None)
    assert isinstance(core, ClientStream)
    return core


def answered(reading: Reading) -> None:
    reading.run()


def server_lost(reading: Reading) -> None:
    reading.world.die()
    reading.world.network.advance(3 * GRACE)  # for so long it may come back


def item(reading: Reading) -> None:
    reading.handler.do("c")
    reading.run()


def item_and_end(reading: Reading) -> None:
    reading.handler.do("c", None)
    reading.run()


def item_and_error(reading: Reading) -> None:
    reading.handler.do("c", Unavailable("not now"))
    reading.run()


def item_and_loss(reading: Reading) -> None:
    reading.handler.do("c")
    reading.run()
    server_lost(reading)


def end(reading: Reading) -> None:
    reading.handler.do(None)
    reading.run()


def unreadable_metadata(reading: Reading) -> None:
    reading.core.arrived(Publication(1, [], end=b"", start=b"\xff"))


def unreadable_end(reading: Reading) -> None:
    reading.core.arrived(Publication(1, [], end=b"\xff"))


def gap(reading: Reading) -> None:
    reading.core.arrived(Publication(1, [b""]))
    reading.core.gap(5)


def one_read(reading: Reading) -> None:
    assert following(reading.stream).called


def all_read(reading: Reading) -> None:
    reader = Reader(reading.stream)
    assert reader.has_ended


def caller_cancels(reading: Reading) -> None:
    reading.stream.cancel()


def too_late(reading: Reading) -> None:
    reading.world.network.advance(61)


def closed(reading: Reading) -> None:
    reading.world.channel.close()


ON_THE_CLIENT = [
    (OPENING, answered, OPEN),
    (OPENING, server_lost, ENDED),
    (OPENING, caller_cancels, ENDED),
    (OPENING, too_late, ENDED),
    (OPENING, closed, ENDED),
    (OPEN, item, OPEN),
    (OPEN, item_and_end, ENDING),
    (OPEN, item_and_error, ENDING),
    (OPEN, item_and_loss, ENDING),
    (OPEN, end, ENDED),
    (OPEN, unreadable_metadata, ENDED),
    (OPEN, unreadable_end, ENDED),
    (OPEN, gap, ENDING),
    (OPEN, server_lost, ENDED),
    (OPEN, caller_cancels, ENDED),
    (OPEN, too_late, ENDED),
    (OPEN, closed, ENDED),
    (ENDING, one_read, ENDING),
    (ENDING, all_read, ENDED),
    (ENDING, server_lost, ENDING),
    (ENDING, caller_cancels, ENDED),
    (ENDING, too_late, ENDED),
    (ENDING, closed, ENDING),
    (ENDED, all_read, ENDED),
    (ENDED, caller_cancels, ENDED),
    (ENDED, too_late, ENDED),
    (ENDED, closed, ENDED),
]


@pytest.mark.parametrize(
    ("state", "happens", "then"),
    [pytest.param(*cell, id=f"{cell[0].value}-{cell[1].__name__}") for cell in ON_THE_CLIENT],
)
def test_a_stream_of_a_client(
    state: StreamState, happens: Callable[[Reading], None], then: StreamState, make: Worlds
) -> None:
    reading = Reading(make)
    core = reading.go(state)
    happens(reading)
    assert state_of(core) is then
    assert (core.outcome is None) is not core.is_over
    if then is ENDED:
        assert not core.is_registered
        assert not core.items


def test_a_stream_that_goes_on_at_another_server_is_opening_again(make: Worlds) -> None:
    world = make(Scripted())
    stream = world.channel.unary_stream(RESUME, text("1"))
    core = core_of(stream)
    world.network.run()
    assert state_of(core) is OPEN
    world.die()
    world.network.advance(3 * GRACE)
    assert state_of(core) is OPENING
    world.serve()
    world.network.advance(5)
    assert state_of(core) is OPEN


def test_an_error_that_a_policy_repeats_opens_a_stream_again() -> None:
    for make in made(RetriedWorld):
        handler = Scripted()
        world = make(handler)
        stream = world.open()
        core = core_of(stream)
        world.network.run()
        assert state_of(core) is OPEN
        handler.do(Unavailable("not now"))
        world.network.run()
        assert state_of(core) is OPENING
        world.network.advance(2)
        assert state_of(core) is OPEN


# -- found by drawing the table --------------------------------------------------------------


def test_a_stream_whose_metadata_cannot_be_read_does_not_end_well(make: Worlds) -> None:
    """The end that came in the same message took the place of the error."""
    reading = Reading(make)
    reading.go(OPEN)
    unreadable_metadata(reading)
    reader = Reader(reading.stream)
    assert isinstance(reader.ended, Internal)


@pytest.mark.parametrize("timeout", [60, None])
def test_an_item_that_cannot_be_parsed_is_the_end_of_a_stream_that_has_ended(
    timeout: float | None, make: Worlds
) -> None:
    """The reader could go on behind it, and was told that all was well."""
    reading = Reading(make, timeout=timeout)
    core = reading.go(OPEN)
    core.arrived(Publication(1, [b"\xff", text("b").SerializeToString()], end=b""))
    assert state_of(core) is ENDING
    for _ in range(2):
        reader = Reader(reading.stream)
        assert reader.items == []
        assert isinstance(reader.ended, Internal)
    assert state_of(core) is ENDED


def test_an_interceptor_gets_a_stream_when_it_is_open_not_between_two_attempts() -> None:
    opened: list[StreamState] = []

    async def look_on(call: ClientCall, proceed: ClientProceed) -> Any:
        stream = await proceed(call)
        opened.append(core_of(stream).state)
        return stream

    for make in made(RetriedWorld):
        world = make(Scripted(), client_interceptors=[look_on])
        world.network.run()
        world.die()
        world.network.run()
        world.open()
        world.network.advance(20)  # the channel finds that nobody listens
        stream = world.open()
        world.network.run()
        assert opened == []
        world.serve()
        world.network.advance(5)
        assert opened == [OPEN]
        stream.cancel()
