"""When a gateway begins with calls: together, where many come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from txzmq.rpc._gateway.pace import Pace


class Time:
    """A loop's, and how much of it its thread has used; a test says how it goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = 100.0
        self.used = 0.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.create_future = loop.create_future

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, function: Callable[[], None]) -> None:
        self.waiting.append((self.now + delay, function))

    def advance(self, seconds: float, *, busy: bool = True) -> None:
        """Let time go on, with or without work for the thread."""
        self.now += seconds
        self.used += seconds if busy else 0.0
        due = [entry for entry in self.waiting if entry[0] <= self.now]
        for entry in due:
            self.waiting.remove(entry)
            entry[1]()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    """What the pace takes for the running loop."""
    loop = asyncio.new_event_loop()
    time = Time(loop)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: time)
    yield time
    loop.close()


@pytest.fixture
def pace(time: Time) -> Pace:
    """One in that time."""
    return Pace(lambda: time.used)


def begin(pace: Pace, count: int) -> list[Any]:
    """So many calls; what each has to await, or None."""
    return [pace.begin()[1] for _ in range(count)]


def begun(awaited: list[Any]) -> list[bool]:
    """Which of them may be made."""
    return [future is None or future.done() for future in awaited]


def test_one_call_at_a_time_never_waits(pace: Pace, time: Time) -> None:
    for _ in range(1_000):
        number, awaited = pace.begin()
        assert awaited is None
        time.advance(0.0001)
        pace.end(number)
    assert time.waiting == []


def test_many_begin_together(pace: Pace, time: Time) -> None:
    calls = begin(pace, 5)
    assert begun(calls) == [True, False, False, False, False]
    time.advance(0.003)
    assert begun(calls) == [True] * 5
    # While it pays, the first one waits as well.
    time.advance(1)
    calls = begin(pace, 3)
    assert begun(calls) == [False] * 3
    time.advance(0.003)
    assert begun(calls) == [True] * 3


@pytest.mark.parametrize(("count", "busy"), [(3, True), (10, False)])
def test_where_it_does_not_pay_calls_begin_at_once(
    pace: Pace, time: Time, count: int, busy: bool
) -> None:
    """Too few come, or the thread has nothing else to do: then it is tried once in a while."""
    begin(pace, count)
    time.advance(0.003, busy=busy)
    assert begun(begin(pace, 64)) == [True] * 64
    assert begun(begin(pace, 1)) == [False]


def test_slow_calls_make_no_other_wait(pace: Pace, time: Time) -> None:
    begin(pace, 1)
    time.advance(0.02)
    number, awaited = pace.begin()
    assert awaited is None
    pace.end(number)
    assert begun(begin(pace, 1)) == [True]


def test_a_call_that_is_cancelled_while_it_waits(pace: Pace, time: Time) -> None:
    calls = begin(pace, 5)
    calls[2].cancel()
    time.advance(0.003)
    assert begun(calls) == [True] * 5
    assert [future.cancelled() for future in calls[1:]] == [False, True, False, False]
