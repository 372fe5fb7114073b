"""A clock of the machine that is set back while requests wait; in virtual time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.selectreactor import SelectReactor

from tests.sockets.support import connect
from txzmq import ZmqFactory, ZmqREQConnection
from txzmq._reactor import MonotonicClock, monotonic


class Machine:
    """Two clocks: what time it is, which somebody may set, and how long it has run."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.up = 1_000.0

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def reactor() -> Iterator[Any]:
    """Twisted's own, which the test turns by hand."""
    reactor: Any = SelectReactor()
    yield reactor
    reactor.disconnectAll()


def ask(reactor: Any) -> tuple[ZmqFactory, list[Any]]:
    """A request that has one second."""
    factory = ZmqFactory(reactor)
    results: list[Any] = []
    client = ZmqREQConnection(factory, connect("inproc://nobody"))
    client.sendMsg(b"x", timeout=1).addBoth(results.append)
    return factory, results


def test_twisteds_timers_are_late_by_what_the_clock_was_set_back(
    machine: Machine, reactor: Any
) -> None:
    """If this fails, Twisted has mended it, and the guide on deadlines may say so."""
    reactor.seconds = lambda: machine.wall
    factory, results = ask(reactor)
    machine.wall -= 20
    machine.wait(20.5)
    reactor.runUntilCurrent()
    assert results == []
    machine.wait(0.5)
    reactor.runUntilCurrent()
    assert len(results) == 1
    factory.shutdown()


def test_a_reactor_that_is_given_monotonic_time_keeps_time(machine: Machine, reactor: Any) -> None:
    """As the guide on deadlines says: ``reactor.seconds = time.monotonic``."""
    reactor.seconds = lambda: machine.up
    factory, results = ask(reactor)
    machine.wall -= 20
    machine.wait(1)
    reactor.runUntilCurrent()
    assert len(results) == 1
    factory.shutdown()


def test_such_a_reactor_is_taken_as_it_is(reactor: Any) -> None:
    assert isinstance(monotonic(reactor), MonotonicClock)
    reactor.seconds = time.monotonic
    assert monotonic(reactor) is reactor
