"""Deadlines over several hops, and clocks that somebody sets."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.rpc.service import ECHO, OTHER, Echo, Waiting, World, text
from txzmq._reactor import MonotonicClock, monotonic
from txzmq.rpc import Channel, Context, DeadlineExceeded, Server, ServerLimits, detached
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.testing import MemoryNetwork


class Hop(Echo):
    """Takes a second, then asks the next server; the last one never answers."""

    def __init__(self, network: MemoryNetwork, following: Channel | None) -> None:
        super().__init__()
        self._network = network
        self._following = following
        #: Seconds that were left when the call arrived, and what ended it.
        self.left: list[float | None] = []
        self.ended: list[str] = []

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        self.left.append(context.time_remaining())
        context.cancelled.addCallback(self.ended.append)
        later: Deferred[None] = Deferred()
        if self._following is None:
            await later
            return request
        self._network.clock.callLater(1, later.callback, None)
        await later
        return await self._following.unary_unary(ECHO, request, timeout=60)


def test_c6_what_is_left_travels_from_hop_to_hop() -> None:
    network = MemoryNetwork()
    hops: list[Hop] = []
    servers: list[Server] = []
    channels: list[Channel] = []
    for number in range(4):
        hop = Hop(network, channels[-1] if channels else None)
        server = Server(network, [hop])
        channels.append(Channel(network, server.listen(f"inproc://hop-{number}")))
        hops.append(hop)
        servers.append(server)
    hops.reverse()  # in the order in which the call comes by
    errors: list[Any] = []
    call = channels[-1].unary_unary(ECHO, StringValue(value="x"), timeout=5)
    call.addErrback(errors.append)
    network.advance(4.5)
    assert [hop.left for hop in hops] == [[pytest.approx(left)] for left in (5, 4, 3, 2)]
    assert not errors
    network.advance(0.6)
    assert [error.type for error in errors] == [DeadlineExceeded]
    assert all(len(hop.ended) == 1 for hop in hops)
    for channel in channels:
        channel.close()
    stopped = [server.stop(0) for server in servers]
    network.advance(1)
    assert all(deferred.called for deferred in stopped)
    assert not network.clock.getDelayedCalls()


def test_a_detached_call_has_its_own_time() -> None:
    network = MemoryNetwork()
    last = Hop(network, None)
    inner = Server(network, [last])
    inner_channel = Channel(network, inner.listen("inproc://inner"))

    class Detaching(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            with detached():
                call = inner_channel.unary_unary(ECHO, request, timeout=60)
            return await call

    outer = Server(network, [Detaching()])
    channel = Channel(network, outer.listen("inproc://outer"))
    call = channel.unary_unary(ECHO, StringValue(value="x"), timeout=1)
    errors: list[Any] = []
    call.addErrback(errors.append)
    network.advance(2)
    assert [error.type for error in errors] == [DeadlineExceeded]
    assert last.left == [60]
    channel.close()
    inner_channel.close()
    stopped = [outer.stop(0), inner.stop(0)]
    network.advance(1)
    assert all(deferred.called for deferred in stopped)


class SettableClock:
    """Timers go by a time of day that somebody sets, as a reactor's do."""

    def __init__(self) -> None:
        self.day = Clock()
        self.now = 0.0

    def seconds(self) -> float:
        return self.now

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
        return self.day.callLater(delay, callable, *args, **kw)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.day.advance(seconds)


def test_c6_a_clock_that_is_set_forward_ends_no_call_too_early() -> None:
    clock, fired = SettableClock(), list[str]()
    deadlines: Deadlines[str] = Deadlines(clock, fired.append)
    deadlines.set("call", 5.0)
    clock.advance(1)
    clock.day.advance(3_600)
    assert fired == []
    clock.advance(3.9)
    assert fired == []
    clock.advance(0.2)
    assert fired == ["call"]
    assert not clock.day.getDelayedCalls()


def test_the_time_of_day_is_not_what_deadlines_are_counted_by() -> None:
    class Reactor:
        seconds = staticmethod(time.time)

        def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
            return (delay, callable, args, kw)

    clock = monotonic(Reactor())
    assert isinstance(clock, MonotonicClock)
    assert abs(clock.seconds() - time.monotonic()) < 60
    assert clock.callLater(1, print, 2, end="") == (1, print, (2,), {"end": ""})
    virtual = Clock()
    assert monotonic(virtual) is virtual


@pytest.mark.parametrize("batching", [True, False])
def test_thousands_of_deadlines_are_one_timer_on_each_side(batching: bool) -> None:
    world = World(Waiting(), batching=batching, limits=ServerLimits(running=1_000))
    # Channel and server each have others, a constant number of them.
    calls = [world.call(timeout=1)]
    world.network.run()
    few = len(world.network.clock.getDelayedCalls())
    calls += [world.call(timeout=1 + number / 1_000) for number in range(2_000)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (1_000, 1_001)
    assert len(world.network.clock.getDelayedCalls()) == few <= 5
    errors: list[Any] = []
    for call in calls:
        call.addErrback(errors.append)
    world.network.advance(4)
    assert [error.type for error in errors] == [DeadlineExceeded] * len(calls)
    assert (world.server.running, world.server.queued) == (0, 0)
    world.close()


class Computing(Echo):
    """Keeps the reactor for as many seconds as the request says, before it answers or after."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.results: list[Deferred[StringValue]] = []

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        self.compute(float(request.value))
        return request

    def compute(self, seconds: float) -> None:
        self.clock.rightNow += seconds  # and no timer has run

    async def other(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        result: Deferred[StringValue] = Deferred()
        self.results.append(result)
        await result
        self.compute(float(request.value))
        return request


def test_what_waits_while_the_reactor_is_kept_busy_is_dropped_when_it_is_late() -> None:
    service = Computing(Clock())
    world = World(service, limits=ServerLimits(running=1))
    service.clock = world.network.clock
    first = world.call("2", method=OTHER)
    world.network.run()
    second, third = world.call("0", timeout=1), world.call("0.0", timeout=3)
    world.network.run()
    assert world.server.queued == 2
    service.results[0].callback(text(""))
    with pytest.raises(DeadlineExceeded):
        world.network.result(second)
    assert world.network.result(first).value == "2"
    assert world.network.result(third).value == "0.0"
    assert service.seen == ["2", "0.0"]
    assert world.server.counters["late request"] == 1
    world.close()


def test_requests_that_came_together_have_their_time_from_then() -> None:
    service = Computing(Clock())
    world = World(service)
    service.clock = world.network.clock
    world.network.result(world.call("0"))
    calls = [world.call(seconds, timeout=3) for seconds in ("2", "1.5", "1", "0")]
    outcomes: list[object] = []
    for call in calls:
        call.addBoth(outcomes.append)
    world.network.advance(10)
    assert service.seen == ["0", "2", "1.5"], "late work was done"
    left = [context.time_remaining() for context in service.contexts[1:]]
    assert left == [0, 0]
    assert world.server.counters["late request"] == 2
    assert len(outcomes) == 4
    world.close()
