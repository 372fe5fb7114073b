"""The states of a stream of the server, cell by cell: the table in docs/inside.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rpc.scripted_streams import Scripted, state_of
from tests.rpc.service import made, text
from tests.rpc.streaming import COUNT, TICKS, StreamWorld, streams_of
from txzmq.rpc import (
    ServerLimits,
    Unavailable,
)
from txzmq.rpc._core.stream_state import ENDED, ENDING, OPEN, OPENING, StreamLife, StreamState
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.testing import Faults

Worlds = Callable[..., StreamWorld]
GRACE = 5.0


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


# -- what may follow what --------------------------------------------------------------------


class Life(StreamLife):
    """Goes where it is told to."""

    def go(self, *states: StreamState) -> Life:
        for state in states:
            self._enter(state)
        return self


@pytest.mark.parametrize("path", [(OPEN, ENDING, ENDED), (OPEN, OPENING, OPEN), (ENDED,)])
def test_states_that_follow_each_other(path: tuple[StreamState, ...]) -> None:
    life = Life().go(*path)
    assert state_of(life) is path[-1]
    assert life.is_over is (path[-1] is ENDED)


@pytest.mark.parametrize("path", [(ENDED, OPEN), (ENDING, OPEN), (ENDING, OPENING), (OPEN, OPEN)])
def test_states_that_do_not(path: tuple[StreamState, ...]) -> None:
    with pytest.raises(AssertionError, match="does not follow"):
        Life().go(*path)


# -- the server ------------------------------------------------------------------------------


class Served:
    """One stream of a server, in any state, and its handler."""

    def __init__(self, make: Worlds, *, shared: bool) -> None:
        # No subscription arrives, so that only what is done here has an effect.
        faults = Faults(subscription_loss=1.0)
        self.handler = Scripted()
        limits = ServerLimits(stream_grace=GRACE)
        self.world = make(self.handler, faults=faults, limits=limits)
        method = TICKS if shared else COUNT
        self.reader = self.world.channel.unary_stream(method, text("1"))
        self.world.network.run()
        streams = streams_of(self.world)._streams
        self.stream: ServedStream
        (self.stream,) = streams.values()

    def go(self, state: StreamState) -> ServedStream:
        stream = self.stream
        if state is not OPENING:
            stream.subscribed()
        if state is ENDING:
            self.handler.do(None)
        elif state is ENDED:
            stream.cancel("a test")
        assert state_of(stream) is state
        return stream


def subscribed(served: Served) -> None:
    served.stream.subscribed()


def left(served: Served) -> None:
    served.stream.unsubscribed()
    served.stream.grace_is_over()


def asked_for_a_replay(served: Served) -> None:
    served.stream.replay(1)


def acknowledged(served: Served) -> None:
    stream = served.stream
    stream.acknowledge(stream.sender.sequence, stream.peer)


def heard_nothing(served: Served) -> None:
    served.stream.grace_is_over()


def time_is_up(served: Served) -> None:
    served.stream.time_is_up()


def shut_down(served: Served) -> None:
    served.stream.shut_down()


def cancelled(served: Served) -> None:
    served.stream.cancel("a test")


def silent(served: Served) -> None:
    served.stream.give_up()


def handler_returns(served: Served) -> None:
    served.handler.do(None)


def handler_raises(served: Served) -> None:
    served.handler.do(Unavailable("not now"))


#: What happens in a state, and the state that it leads to, where it is another one.
ON_THE_SERVER = [
    (OPENING, subscribed, OPEN),
    (OPENING, asked_for_a_replay, OPEN),
    (OPENING, acknowledged, OPENING),
    (OPENING, heard_nothing, ENDED),
    (OPENING, time_is_up, ENDING),
    (OPENING, shut_down, ENDING),
    (OPENING, cancelled, ENDED),
    (OPENING, silent, ENDED),
    (OPEN, subscribed, OPEN),
    (OPEN, asked_for_a_replay, OPEN),
    (OPEN, acknowledged, OPEN),
    (OPEN, left, ENDED),
    (OPEN, time_is_up, ENDING),
    (OPEN, shut_down, ENDING),
    (OPEN, handler_returns, ENDING),
    (OPEN, handler_raises, ENDING),
    (OPEN, cancelled, ENDED),
    (OPEN, silent, ENDED),
    (ENDING, subscribed, ENDING),
    (ENDING, asked_for_a_replay, ENDING),
    (ENDING, acknowledged, ENDED),
    (ENDING, left, ENDED),
    (ENDING, time_is_up, ENDING),
    (ENDING, shut_down, ENDING),
    (ENDING, cancelled, ENDED),
    (ENDING, silent, ENDED),
    (ENDED, time_is_up, ENDED),
    (ENDED, cancelled, ENDED),
    (ENDED, silent, ENDED),
]
#: Nobody acknowledges a shared one, and it is kept for who comes late; while its callers are known
#: a grace is no reason to end it.
WHERE_SHARED: dict[tuple[StreamState, Callable[[Served], None]], StreamState] = {
    (OPENING, heard_nothing): OPENING,
    (OPEN, left): OPEN,
    (ENDING, acknowledged): ENDING,
}


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize(
    ("state", "happens", "then"),
    [pytest.param(*cell, id=f"{cell[0].value}-{cell[1].__name__}") for cell in ON_THE_SERVER],
)
def test_a_stream_of_the_server(
    state: StreamState,
    happens: Callable[[Served], None],
    then: StreamState,
    shared: bool,
    make: Worlds,
) -> None:
    served = Served(make, shared=shared)
    stream = served.go(state)
    happens(served)
    if shared:
        then = WHERE_SHARED.get((state, happens), then)
    assert state_of(stream) is then
    assert (streams_of(served.world).find(stream.topic + b"\0") is None) is (then is ENDED)


@pytest.mark.parametrize("ends", [time_is_up, shut_down])
def test_a_stream_that_ends_before_it_is_open_asks_its_handler_for_nothing(
    ends: Callable[[Served], None], make: Worlds
) -> None:
    served = Served(make, shared=False)
    ends(served)
    served.stream.subscribed()
    served.stream.replay(1)
    assert state_of(served.stream) is ENDING
    assert served.handler.waiting is None, "it was asked"
    assert not served.stream.running
