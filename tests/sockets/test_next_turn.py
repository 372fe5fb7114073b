"""What is to be done in the reactor's next turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.task import Clock

from txzmq._next_turn import NextTurn


class OnAsyncio(Clock):
    """A reactor on asyncio's loop, whose timers nobody has a use for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._asyncioEventloop = loop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(params=["callLater", "asyncio"])
def turns(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop
) -> tuple[Clock, Callable[[], object]]:
    """A reactor, and what has it take a turn."""
    if request.param == "callLater":
        clock = Clock()
        return clock, lambda: clock.advance(0)
    return OnAsyncio(loop), lambda: loop.run_until_complete(asyncio.sleep(0))


Turns = tuple[Clock, Callable[[], object]]


def test_it_is_called_once_in_the_next_turn(turns: Turns) -> None:
    clock, turn = turns
    calls: list[bool] = []
    soon = NextTurn(clock, lambda: calls.append(soon.is_due))
    assert not soon.is_due
    soon.start()
    soon.start()
    assert calls == []
    turn()
    turn()
    assert calls == [False], "it may be started again from within"
    assert not soon.is_due


def test_it_may_be_started_again_from_within(turns: Turns) -> None:
    clock, turn = turns
    calls: list[int] = []

    def called() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            soon.start()  # a Clock does it in the same turn

    soon = NextTurn(clock, called)
    soon.start()
    turn()
    turn()
    assert calls == [0, 1]
    assert not soon.is_due


def test_nothing_is_called_that_was_stopped(turns: Turns) -> None:
    clock, turn = turns
    calls: list[int] = []
    soon = NextTurn(clock, lambda: calls.append(1))
    soon.stop()  # nothing is due
    soon.start()
    soon.stop()
    assert not soon.is_due
    turn()
    assert calls == []
    assert clock.getDelayedCalls() == []
    soon.start()
    turn()
    assert calls == [1]


def test_on_asyncio_no_timer_is_set(loop: asyncio.AbstractEventLoop) -> None:
    clock = OnAsyncio(loop)
    soon = NextTurn(clock, lambda: None)
    soon.start()
    assert clock.getDelayedCalls() == []
    soon.stop()
