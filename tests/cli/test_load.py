"""Open and closed load, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock

from txzmq._cli.load import Load, Plan
from txzmq.rpc.errors import Code, Unavailable


class Server:
    """Answers each call after a while, on as many at once as it can."""

    def __init__(self, seconds: float = 0.1, at_once: int = 1_000_000) -> None:
        self.clock = Clock()
        self.seconds = seconds
        self.at_once = at_once
        self.calls: list[Deferred[Any]] = []
        self.waiting: list[Deferred[Any]] = []
        self.running = 0
        self.begun = 0
        self.most = 0
        self.moments: list[float] = []

    def call(self) -> Deferred[Any]:
        call: Deferred[Any] = Deferred()
        self.begun += 1
        self.moments.append(self.clock.seconds())
        self.calls.append(call)
        self.most = max(self.most, len(self.calls))
        self.waiting.append(call)
        self._serve()
        return call

    def _serve(self) -> None:
        while self.waiting and self.running < self.at_once:
            self.running += 1
            self.clock.callLater(self.seconds, self._answer, self.waiting.pop(0))

    def _answer(self, call: Deferred[Any]) -> None:
        self.running -= 1
        self._serve()
        if call in self.calls:
            self.calls.remove(call)
            call.callback(None)

    def close(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call.errback(CancelledError())


class Run:
    """A load until now."""

    def __init__(
        self, server: Server, call: Callable[[], Deferred[Any]] | None = None, **plan: Any
    ) -> None:
        self.server = server
        self.load = Load(server.clock, Plan(**plan), call or server.call)
        self.results: list[Any] = []
        self.load.start().addBoth(self.results.append)

    def advance(self, seconds: float, step: float = 0.001) -> None:
        for _ in range(round(seconds / step)):
            self.server.clock.advance(step)

    def end(self) -> None:
        """It is done, and leaves nothing."""
        assert self.results == [None]
        assert self.load.in_flight == 0
        self.advance(1)
        assert self.server.clock.getDelayedCalls() == []


def test_closed_load_has_so_many_in_flight() -> None:
    run = Run(Server(), concurrency=3, seconds=1.05)
    run.advance(2)
    run.end()
    tally = run.load.tally
    assert run.server.most == 3
    assert (tally.begun, tally.succeeded, tally.failed) == (33, 33, 0)
    assert tally.seconds == pytest.approx(1.1, abs=0.01)  # the last ones are waited for
    assert tally.latencies.mean == pytest.approx(0.1, abs=0.002)


def test_so_many_calls_and_no_more() -> None:
    run = Run(Server(), concurrency=3, total=7)
    run.advance(2)
    run.end()
    assert (run.server.begun, run.load.tally.succeeded) == (7, 7)


def test_what_comes_first_ends_it() -> None:
    run = Run(Server(), concurrency=1, total=1000, seconds=0.25)
    run.advance(1)
    run.end()
    assert run.load.tally.succeeded == 3


def test_open_load_begins_at_its_rate_whatever_the_answers_do() -> None:
    run = Run(Server(seconds=50), concurrency=None, rate=100.0, seconds=1.0)
    run.advance(1.5)
    assert run.server.begun == 100
    assert run.results == []
    gaps = {
        round(b - a, 3) for a, b in zip(run.server.moments, run.server.moments[1:], strict=False)
    }
    assert gaps <= {0.009, 0.01, 0.011}
    run.advance(50, step=0.1)
    run.end()
    assert run.load.tally.late < 0.01


def test_open_load_counts_from_when_a_call_was_due() -> None:
    """A server that can do 50 calls a second gets 100: the last one waits as long as it takes."""
    run = Run(Server(seconds=0.02, at_once=1), concurrency=1, rate=100.0, total=100)
    run.advance(2.2)
    run.end()
    tally = run.load.tally
    assert tally.latencies.most == pytest.approx(1.01, abs=0.05)
    assert tally.latencies.percentile(Fraction(1, 2)) == pytest.approx(0.51, abs=0.05)
    assert tally.waited > 40
    assert tally.late < 0.01  # it was not the generator that was late


def test_calls_that_did_not_begin_in_time_are_told() -> None:
    run = Run(Server(seconds=0.02, at_once=1), concurrency=1, rate=100.0, seconds=1.0)
    run.advance(2)
    run.end()
    assert run.load.tally.begun + run.load.tally.not_begun == 100
    assert run.load.tally.not_begun == pytest.approx(50, abs=2)


def test_a_generator_that_stands_still_says_so_and_counts_its_own_delay() -> None:
    run = Run(Server(seconds=0.0), concurrency=None, rate=100.0, total=100)
    run.advance(0.2)
    run.server.clock.advance(0.5)  # nothing runs meanwhile
    run.advance(1)
    run.end()
    assert run.load.tally.late == pytest.approx(0.5, abs=0.02)
    assert run.load.tally.latencies.most == pytest.approx(0.5, abs=0.02)
    assert run.load.tally.succeeded == 100


def test_a_rate_above_what_a_turn_begins_is_reached_over_several() -> None:
    run = Run(Server(seconds=0.001), concurrency=None, rate=2e5, seconds=0.01)
    run.advance(0.1)
    run.end()
    assert run.load.tally.begun + run.load.tally.not_begun == 2_000
    assert run.load.tally.begun > 500


@pytest.mark.parametrize("plan", [{"concurrency": 2}, {"concurrency": None, "rate": 20.0}])
def test_a_warm_up_is_not_counted(plan: dict[str, Any]) -> None:
    counting: list[float] = []
    server = Server()
    load = Load(
        server.clock,
        Plan(**plan, seconds=1.0, warm_up=0.5),
        server.call,
        lambda: counting.append(server.clock.seconds()),
    )
    done = load.start()
    for _ in range(2000):
        server.clock.advance(0.001)
    assert done.called
    assert counting == [pytest.approx(0.5)]
    assert server.begun - load.tally.succeeded == pytest.approx(10, abs=2)
    assert load.tally.succeeded == load.tally.begun == pytest.approx(20, abs=2)
    assert load.tally.seconds == pytest.approx(1.0, abs=0.11)


def test_calls_that_were_due_in_the_warm_up_take_nothing_from_the_total() -> None:
    server = Server(seconds=0.02, at_once=1)
    run = Run(server, concurrency=1, rate=100.0, total=10, warm_up=0.5)
    run.advance(2)
    run.end()
    assert run.load.tally.succeeded == run.load.tally.begun == 10
    assert server.begun == 50 + 10


def test_a_warm_up_may_be_longer_than_what_follows() -> None:
    run = Run(Server(), concurrency=None, rate=10.0, seconds=1.0, warm_up=3.0)
    run.advance(5)
    run.end()
    assert (run.server.begun, run.load.tally.succeeded) == (40, 10)


@pytest.mark.parametrize("rate", [None, 1000.0])
def test_calls_that_cannot_be_sent_neither_stop_nor_block_it(rate: float | None) -> None:
    run = Run(
        Server(), lambda: fail(Unavailable("nobody there")), concurrency=5, rate=rate, seconds=1.0
    )
    run.advance(1.5)
    run.end()
    assert run.load.tally.errors == {Code.UNAVAILABLE: (run.load.tally.failed, "nobody there")}
    # Closed load asks a hundred times a second whether there is somebody again.
    assert run.load.tally.failed == pytest.approx(1000 if rate else 100, rel=0.1)


@pytest.mark.parametrize("plan", [{"concurrency": 3}, {"concurrency": None, "rate": 100.0}])
def test_cancelling_counts_what_is_in_flight(plan: dict[str, Any]) -> None:
    run = Run(Server(seconds=1000), **plan, seconds=60.0)
    run.advance(0.1)
    run.load.cancel()
    assert run.results == []
    run.server.close()
    tally = run.load.tally
    assert run.results == [None]
    assert (tally.cancelled, tally.failed, tally.succeeded) == (run.server.begun, 0, 0)
    assert tally.seconds == pytest.approx(0.1, abs=0.01)


def test_cancelling_in_the_warm_up_counts_nothing() -> None:
    run = Run(Server(seconds=1000), concurrency=3, seconds=60.0, warm_up=10.0)
    run.advance(0.1)
    run.load.cancel()
    run.server.close()
    assert run.results == [None]
    assert (run.load.tally.cancelled, run.load.tally.seconds) == (0, 0.0)


def test_what_is_no_rpc_error_ends_it() -> None:
    run = Run(Server(), lambda: fail(TypeError("a mistake")), concurrency=2, seconds=1.0)
    (failure,) = run.results
    assert failure.check(TypeError)
    run.advance(0.1)
    assert run.server.clock.getDelayedCalls() == []


def test_a_call_that_cannot_be_made_at_all_ends_it() -> None:
    def call() -> Deferred[Any]:
        raise ValueError("a mistake")

    run = Run(Server(), call, concurrency=None, rate=10.0, seconds=1.0, warm_up=0.5)
    run.advance(0.1)
    (failure,) = run.results
    assert failure.check(ValueError)
    assert run.server.clock.getDelayedCalls() == []
