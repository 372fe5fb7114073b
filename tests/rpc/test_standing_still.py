"""A server that was stopped, or whose reactor was blocked, and what lay in its sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, Waiting, World, Worlds, made, text
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Code,
    Context,
    Count,
    DeadlineExceeded,
    Server,
    ServerLimits,
)
from txzmq.rpc._wire.headers import RequestHead
from txzmq.testing import Faults, MemoryNetwork

#: Seconds for which the reactor stands still.
STILL = 3.0
BODY = text("x").SerializeToString()


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    yield from made(World)


def stand_still(network: MemoryNetwork, seconds: float = STILL) -> None:
    """Time passes, and nothing is done: what is due comes late, in order."""
    network.clock.rightNow += seconds


def on_their_way(world: World, count: int, **options: Any) -> list[Any]:
    """Make calls that have left and not arrived; their outcomes, as they come."""
    world.network.run()
    ends: list[Any] = []
    for number in range(count):
        world.call(str(number), **options).addBoth(ends.append)
    world.network.run()
    assert not ends
    return ends


def slow(worlds: Worlds, service: Echo | None = None, **options: Any) -> World:
    """A world in which messages take a moment."""
    return worlds(service, faults=Faults(delay=0.01), **options)


def outcome(failure_or_value: Any) -> object:
    return getattr(failure_or_value, "value", failure_or_value)


def blocks(logged: Logged) -> list[str]:
    """What the log says of a reactor that stood still."""
    return [
        event["log_format"].format(**event)
        for event in logged.warnings()
        if "the reactor" in event["log_format"]
    ]


def test_what_lay_past_its_deadline_is_not_executed(worlds: Worlds) -> None:
    world = slow(worlds)
    world.call("first")
    world.network.advance(1)
    ends = on_their_way(world, 20, timeout=2)  # one batch, so that none overtakes another
    stand_still(world.network)
    world.network.advance(1)
    assert [type(outcome(end)) for end in ends] == [DeadlineExceeded] * 20
    assert world.service.seen == ["first"]
    assert world.server.counters[Count.MAY_BE_LATE] == 20
    assert world.server.counters[Count.REACTOR_BLOCKED] == 1


def test_what_came_just_now_is_made_again_and_executed_once(worlds: Worlds) -> None:
    world = worlds()
    world.network.advance(1)
    stand_still(world.network)
    calls = [world.call(str(number), timeout=2) for number in range(20)]
    world.network.advance(0.5)
    assert [world.network.result(call).value for call in calls] == list(map(str, range(20)))
    assert world.service.seen == list(map(str, range(20)))
    assert world.channel.counters[Count.SENT_AGAIN] == 20
    assert world.server.counters[Count.MAY_BE_LATE] == 20


def test_a_server_that_just_had_nothing_to_do_refuses_nothing(worlds: Worlds) -> None:
    world = worlds()
    world.network.advance(60)
    assert world.network.result(world.call(timeout=0.1)) == text("x")
    assert not world.server.counters
    assert not world.channel.counters[Count.SENT_AGAIN]


@pytest.mark.parametrize("timeout", [10.0, float("inf")])
def test_what_has_more_time_than_it_can_have_lain_is_executed_at_once(
    worlds: Worlds, timeout: float
) -> None:
    world = slow(worlds, Waiting(), limits=ServerLimits(default_timeout=None, max_timeout=None))
    world.network.advance(1)
    on_their_way(world, 1, timeout=timeout)
    stand_still(world.network)
    world.network.advance(0.01)
    (context,) = world.service.contexts
    left = context.time_remaining()
    # All that its header says: it may have come just now.
    assert left is None if timeout == float("inf") else left == pytest.approx(10, abs=0.02)
    assert world.service.seen == ["0"]
    assert not world.server.counters[Count.MAY_BE_LATE]


def test_what_the_io_thread_reads_a_moment_later_has_lain_too(worlds: Worlds) -> None:
    world = worlds()
    raw = RawClient(world.network, ADDRESS)
    world.network.advance(1)
    stand_still(world.network)
    world.network.advance(0.05)  # the timer has noticed it
    head = RequestHead(ECHO.path, 2_000_000, ())
    refused = raw.request(head, BODY)
    world.network.advance(0.04)
    assert not raw.replies()  # it would come again too early
    world.network.advance(0.02)
    reply, _ = raw.replies()[refused]
    assert (reply.code, reply.not_executed) == (Code.UNAVAILABLE, True)
    taken = raw.request(head, BODY)
    world.network.run()
    assert raw.replies()[taken][0].code is Code.OK
    assert world.service.seen == ["x"]
    raw.transport.close()


def test_the_reactor_may_read_before_it_calls_the_timer(worlds: Worlds) -> None:
    """Twisted's reactors do when both are due: here the request is the older one."""
    world = slow(worlds)
    world.network.advance(1.1)
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    late = raw.request(RequestHead(ECHO.path, 2_000_000, ()), BODY)
    stand_still(world.network)
    world.network.advance(0.02)
    assert world.server.counters[Count.MAY_BE_LATE] == 1
    world.network.advance(0.2)
    assert raw.replies()[late][0].not_executed
    assert not world.service.seen
    raw.transport.close()


class Blocking(Echo):
    """Blocks the reactor when it is told so."""

    network: MemoryNetwork

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        if request.value == "block":
            stand_still(self.network)
        return request


@pytest.mark.parametrize("batching", [True, False])
def test_a_handler_that_blocks_is_named_once(
    worlds: Worlds, logged: Logged, batching: bool
) -> None:
    service = Blocking()
    world = worlds(service, batching=batching)
    service.network = world.network
    world.network.result(world.call())  # now both know of batches
    world.network.advance(1)
    calls = [world.call(value, timeout=60) for value in ("a", "block", "b")]
    late = world.call("late", timeout=2)
    world.network.advance(1)
    assert [world.network.result(call).value for call in calls] == ["a", "block", "b"]
    with pytest.raises(DeadlineExceeded):
        world.network.result(late)
    assert service.seen == ["x", "a", "block", "b"]
    assert blocks(logged) == ["the reactor was blocked for 3.0 s by the handler of /test.Echo/Echo"]
    (event,) = [event for event in logged.warnings() if "handler" in event]
    assert (event["method"], event["handler"]) == (ECHO.path, "Blocking.echo")
    assert event["seconds"] == STILL
    assert event["call_id"][16:] == f"{3:016x}"  # of the third call: "block"


def test_the_last_handler_is_not_blamed_for_what_blocks_after_it(
    worlds: Worlds, logged: Logged
) -> None:
    world = worlds()
    world.network.result(world.call())
    world.network.advance(0.2)
    stand_still(world.network)
    world.network.result(world.call())
    world.network.advance(10)
    (line,) = blocks(logged)
    assert line.startswith("the reactor stood still for up to 3.2 s: the process was stopped, or ")


def test_a_reactor_that_stands_still_all_the_time_does_not_fill_the_log(
    worlds: Worlds, logged: Logged
) -> None:
    world = worlds()
    for _ in range(20):
        stand_still(world.network, 1)
        world.network.advance(0.5)
    assert world.server.counters[Count.REACTOR_BLOCKED] == 20
    assert len(blocks(logged)) == 4
    world.network.advance(60)
    stand_still(world.network, 1)
    world.network.advance(0.5)
    assert blocks(logged)[4].endswith(", and 16 more since the last such line")


def test_a_short_pause_is_none(worlds: Worlds, logged: Logged) -> None:
    world = worlds()
    world.network.advance(1)
    stand_still(world.network, 0.24)
    assert world.network.result(world.call(timeout=0.1)) == text("x")
    assert not world.server.counters
    assert not blocks(logged)


def test_a_server_that_does_not_watch(worlds: Worlds, logged: Logged) -> None:
    world = slow(worlds, limits=ServerLimits(blocked_after=None))
    ends = on_their_way(world, 1, timeout=2)
    stand_still(world.network)
    world.network.advance(1)
    assert isinstance(outcome(ends[0]), DeadlineExceeded)
    assert world.service.seen == ["0"]
    assert not blocks(logged)
    with pytest.raises(ValueError, match="blocked_after"):
        ServerLimits(blocked_after=0)


def test_handlers_that_block_all_the_time_do_not_keep_others_out(worlds: Worlds) -> None:
    class Blocking(Echo):
        def other(self, request: StringValue, context: Context) -> StringValue:
            stand_still(world.network, 0.6)
            return text("at last")

    world = slow(worlds, Blocking())
    other = Channel(world.network, ADDRESS)
    busy = True

    def again(_: object = None) -> None:
        if busy:
            world.call(method=OTHER, timeout=60).addBoth(again)

    again()
    again()  # so that there is no pause between two of them
    ends: list[Any] = []
    end = world.network.clock.seconds() + 20
    while world.network.clock.seconds() < end:
        world.call(timeout=8, caller=other).addBoth(ends.append)
        world.network.advance(0.02)
    assert world.server.counters[Count.REACTOR_BLOCKED] > 20
    assert world.server.counters[Count.MAY_BE_LATE] == 0
    busy = False
    world.network.advance(10)
    other.close()
    assert {outcome(each) for each in ends} == {"x"}


def test_control_calls_are_served(worlds: Worlds) -> None:
    world = worlds(Waiting())
    call = world.call(timeout=60)
    world.network.advance(1)
    assert world.server.running == 1
    stand_still(world.network)
    call.cancel()
    call.addErrback(lambda _: None)
    world.network.run()
    assert world.server.running == 0


# -- a call that has to wait for a place -------------------------------------------------------


def queued(worlds: Worlds, timeout: float) -> tuple[World, Waiting, list[Any]]:
    """A call that was read after a pause, and waits for a place."""
    service = Waiting()
    world = slow(worlds, service, limits=ServerLimits(running=1))
    world.call("first", timeout=60)
    world.network.advance(1)
    ends = on_their_way(world, 1, timeout=timeout)
    stand_still(world.network)
    world.network.advance(0.5)
    assert (world.server.running, world.server.queued) == (1, 1)
    return world, service, ends


def test_it_begins_in_time_and_has_all_its_time(worlds: Worlds) -> None:
    world, service, ends = queued(worlds, 10)
    service.results[0].callback(text("first"))
    world.network.advance(6.3)  # so long after its arrival it would not have begun
    assert service.seen == ["first", "0"]
    assert not ends
    service.results[1].callback(text("done"))
    world.network.advance(0.1)
    assert ends == [text("done")]


def test_it_does_not_begin_when_its_caller_may_have_given_up(worlds: Worlds) -> None:
    world, service, ends = queued(worlds, 5)
    world.network.advance(1.6)
    assert isinstance(outcome(ends[0]), DeadlineExceeded)
    service.results[0].callback(text("first"))
    world.network.advance(1)
    assert service.seen == ["first"]


def test_it_is_made_again_where_its_caller_has_not_given_up(worlds: Worlds) -> None:
    service = Waiting()
    world = worlds(service, limits=ServerLimits(running=1))
    first = world.call("first", timeout=60)
    world.network.advance(1)
    stand_still(world.network)
    call = world.call("second", timeout=5)  # which has not lain
    world.network.advance(2)
    assert world.channel.counters[Count.SENT_AGAIN] == 1
    assert world.server.queued == 1
    service.results[0].callback(text("first"))
    world.network.run()
    service.results[1].callback(text("second"))
    assert world.network.result(call) == text("second")
    assert world.network.result(first) == text("first")
    assert service.seen == ["first", "second"]


# -- while refusals wait -----------------------------------------------------------------------


def holding(worlds: Worlds, **options: Any) -> tuple[World, Deferred[StringValue]]:
    """A server that has refused a call, and has not said so yet."""
    world = worlds(**options)
    world.network.advance(1)
    stand_still(world.network)
    call = world.call(timeout=2, wait_for_ready=True)
    world.network.run()
    assert world.server.counters[Count.MAY_BE_LATE] == 1
    assert not call.called
    return world, call


def test_a_server_that_stops_sends_the_call_elsewhere(worlds: Worlds) -> None:
    world, call = holding(worlds)
    stopped = world.server.stop(1)
    world.network.run()
    world.network.advance(0.5)
    assert stopped.called
    assert not world.service.seen
    other = Server(world.network, [world.service])
    other.listen(ADDRESS)
    world.network.advance(0.5)
    assert world.network.result(call) == text("x")
    assert world.service.seen == ["x"]
    other.stop(0)


def test_a_client_that_goes_is_not_answered(worlds: Worlds) -> None:
    world, call = holding(worlds)
    world.network.cut(ADDRESS)
    call.addErrback(lambda _: None)
    world.network.advance(1)
    assert not world.server.counters[Count.REPLY_TO_NOBODY]
    assert not world.service.seen


def test_no_more_refusals_wait_than_calls_may(worlds: Worlds) -> None:
    world, call = holding(worlds, limits=ServerLimits(queued_per_peer=5))
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    for _ in range(8):
        raw.request(RequestHead(ECHO.path, 1_000, ()), BODY)
    world.network.run()
    assert len(raw.replies()) == 3
    world.network.advance(0.2)
    assert len(raw.replies()) == 8
    assert world.network.result(call) == text("x")
    raw.transport.close()
