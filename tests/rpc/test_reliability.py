"""Rows of the failure catalogue that no other test shows, between one client and one server."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.rpc.service import ADDRESS, Echo, Waiting, World, text
from tests.support import Logged, error_of
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    ServerLimits,
    UnaryResult,
    Unknown,
)
from txzmq.testing import assert_all_given_back


def test_c10_a_callback_of_a_reply_that_raises_ends_nothing(logged: Logged) -> None:
    world = World()
    spoilt = world.call("spoilt")
    spoilt.addCallback(lambda _: 1 // 0)
    others = [world.call(str(number)) for number in range(10)]
    assert [world.network.result(other).value for other in others] == list(map(str, range(10)))
    outcome: list[Failure] = []
    spoilt.addErrback(outcome.append)
    assert isinstance(error_of(outcome[0]), ZeroDivisionError)
    world.close()
    assert not logged.failures()


def test_c11_closing_in_a_callback_in_the_middle_of_a_burst_of_replies() -> None:
    world = World()
    outcomes: list[object] = []

    def ended(result: object, number: int) -> None:
        outcomes.append(result)
        if number == 500:
            world.channel.close()
            world.server.stop(0)

    for number in range(1_000):
        world.call(str(number)).addBoth(ended, number)
    world.network.advance(1)
    replies = [outcome for outcome in outcomes if isinstance(outcome, StringValue)]
    assert [reply.value for reply in replies] == [str(number) for number in range(501)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert len(failures) == 499
    assert all(isinstance(error_of(failure), CancelledError) for failure in failures)
    world.close()
    assert_all_given_back(world.channel, world.server)


def test_c11_calls_in_callbacks_do_not_nest() -> None:
    world = World()
    ended: list[str] = []

    def next_call(reply: StringValue) -> None:
        ended.append(reply.value)
        if len(ended) < 5_000:  # more than Python's stack has room for
            world.call(str(len(ended))).addCallback(next_call)

    world.call("0").addCallback(next_call)
    world.network.advance(0)
    assert ended == [str(number) for number in range(5_000)]
    world.close()


def test_c14_requests_of_one_client_begin_in_order_and_replies_come_in_any() -> None:
    service = Waiting()
    world = World(service, limits=ServerLimits(running=3))
    ended: list[str] = []

    def note(reply: StringValue) -> None:
        ended.append(reply.value)

    for number in range(9):
        world.call(str(number)).addCallback(note)
    world.network.run()
    # The latest of those that run is answered first, which makes room for one that waits.
    while len(ended) < 9:
        waiting = [index for index, result in enumerate(service.results) if not result.called]
        service.results[waiting[-1]].callback(text(service.seen[waiting[-1]]))
        world.network.run()
    assert service.seen == [str(number) for number in range(9)]
    assert ended == ["2", "3", "4", "5", "6", "7", "8", "1", "0"]
    world.close()


def test_c15_a_request_that_breaks_its_handler_is_tried_once_and_harms_no_other(
    logged: Logged,
) -> None:
    class Fragile(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            self.note(request, context)
            if request.value == "poison":
                raise MemoryError
            return text(request.value)

    world = World(Fragile())
    calls: list[Deferred[StringValue]] = [world.call(value) for value in ("a", "poison", "b")]
    outcomes: list[object] = []
    for call in calls:
        call.addBoth(outcomes.append)
    world.network.advance(60)
    assert [outcomes[0], outcomes[2]] == [text("a"), text("b")]
    assert isinstance(outcomes[1], Failure)
    assert isinstance(error_of(outcomes[1]), Unknown)
    assert world.service.seen == ["a", "poison", "b"]
    assert len(logged.failures()) == 1
    world.close()


class Uncancellable(Waiting):
    """Returns Deferreds whose cancellers raise."""

    def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
        self.note(request, context)

        def canceller(_: object) -> None:
            raise ZeroDivisionError(request.value)

        self.results.append(Deferred(canceller))
        return self.results[-1]


@pytest.mark.parametrize("how", ["deadline", "cancel", "lost", "stop"])
def test_c7_a_canceller_that_raises_keeps_up_no_other_call(how: str, logged: Logged) -> None:
    service = Uncancellable()
    world = World(service)
    calls = [world.call(str(number), timeout=1) for number in range(3)]
    calls.append(world.call("later", timeout=2))
    outcomes: list[Any] = []
    for call in calls:
        call.addErrback(outcomes.append)
    world.network.run()
    assert world.server.running == 4
    if how == "cancel":
        for call in calls:
            call.cancel()
    elif how == "lost":
        world.network.cut(ADDRESS)
    elif how == "stop":
        world.server.stop(0)
    world.network.advance(3)
    assert len(outcomes) == 4
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError] * 4
    assert world.server.running == 4
    for result in service.results:
        result.callback(text("after all"))
    assert world.server.running == 0
    world.close()


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_c7_an_interceptor_whose_canceller_raises_keeps_up_no_other_call(
    how: str, logged: Logged
) -> None:
    def hang(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        def canceller(_: object) -> None:
            raise ZeroDivisionError

        return Deferred(canceller)

    world = World()
    channel = Channel(world.network, ADDRESS, interceptors=[hang])
    calls = [world.call(timeout=1, caller=channel) for _ in range(3)]
    outcomes: list[Any] = []
    for call in calls:
        call.addErrback(outcomes.append)
    world.network.run()
    if how == "cancel":
        for call in calls:
            call.cancel()
    world.network.advance(1.1)
    expected = DeadlineExceeded if how == "deadline" else CancelledError
    assert [error.type for error in outcomes] == [expected] * 3
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError] * 3
    channel.close()
    world.close()
