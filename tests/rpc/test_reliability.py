"""Rows of the failure catalogue that no other test shows, between one client and one server."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.rpc.leftovers import leftovers
from tests.rpc.service import Echo, Waiting, World, text
from tests.support import Logged, error_of
from txzmq.rpc import Context, ServerLimits, UnaryResult, Unknown


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
    assert leftovers(world.channel, world.server) == []


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
