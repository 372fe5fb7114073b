"""The timer that is moved, and the set that remembers its order."""

from __future__ import annotations

from twisted.internet.task import Clock

from txzmq._ordered_set import OrderedSet
from txzmq._timer import ResettableTimer


def test_a_timer_calls_once_for_each_start() -> None:
    clock = Clock()
    calls: list[float] = []
    timer = ResettableTimer(clock, lambda: calls.append(clock.seconds()))
    timer.start(2)
    clock.pump([1, 1, 1])
    assert calls == [2]
    assert not timer.is_running
    timer.start(1)
    clock.pump([1, 1])
    assert calls == [2, 4]


def test_a_timer_is_moved_both_ways() -> None:
    clock = Clock()
    calls: list[float] = []
    timer = ResettableTimer(clock, lambda: calls.append(clock.seconds()))
    timer.start(2)
    clock.advance(1)
    timer.start(5)
    clock.advance(4)
    assert calls == []
    timer.start(0.5)
    clock.advance(0.5)
    assert calls == [5.5]
    assert clock.getDelayedCalls() == []


def test_a_timer_that_is_stopped_leaves_nothing() -> None:
    clock = Clock()
    calls: list[float] = []
    timer = ResettableTimer(clock, lambda: calls.append(clock.seconds()))
    timer.stop()
    timer.start(1)
    timer.stop()
    timer.stop()
    assert clock.getDelayedCalls() == []
    timer.start(1)
    clock.advance(1)
    assert calls == [1]


def test_a_timer_may_be_started_and_stopped_by_what_it_calls() -> None:
    clock = Clock()
    calls: list[float] = []

    def again() -> None:
        calls.append(clock.seconds())
        timer.start(1)
        if len(calls) == 3:
            timer.stop()

    timer = ResettableTimer(clock, again)
    timer.start(1)
    clock.pump([1] * 5)
    assert calls == [1, 2, 3]


def test_a_set_remembers_the_order_of_addition() -> None:
    names: OrderedSet[str] = OrderedSet()
    for name in "bac":
        names.add(name)
    names.add("b")  # where it was
    assert list(names) == ["b", "a", "c"]
    assert names.first() == "b"
    assert names.pop_first() == "b"
    names.discard("c")
    names.discard("c")
    assert list(names) == ["a"]
    assert "a" in names
    assert len(names) == 1
