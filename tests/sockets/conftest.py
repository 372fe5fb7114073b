"""Fixtures for the socket layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from txzmq import ZmqFactory


class Turns:
    """A reactor that does nothing by itself: the test says when time passes."""

    def __init__(self) -> None:
        # Any: its methods are typed with zope interfaces.
        self.reactor: Any = MemoryReactorClock()  # type: ignore[no-untyped-call]  # Twisted's
        self.factory = ZmqFactory(self.reactor)
        self.factory.lingerPeriod = 0

    def turn(self, times: int = 1) -> None:
        """Run what is scheduled for now; what that schedules waits for the next turn."""
        for _ in range(times):
            self.reactor.advance(0)

    def scheduled(self) -> int:
        """How many calls wait."""
        return len([call for call in self.reactor.getDelayedCalls() if call.active()])


@pytest.fixture
def turns() -> Iterator[Turns]:
    """A factory on a reactor without a life of its own; for inproc sockets."""
    turns = Turns()
    yield turns
    turns.factory.shutdown()
    assert not turns.scheduled(), "something was left in the reactor"
    assert not turns.reactor.getReaders()
