"""Channels that leave out endpoints whose calls fail: ``outlierDetection`` in a service config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.rpc.service import ECHO, WATCH, Echo, text
from tests.rpc.streaming import Network
from txzmq.rpc import (
    Channel,
    ConnectivityState,
    Context,
    Count,
    Internal,
    NotFound,
    RoundRobin,
    RpcError,
    Server,
    ServiceConfig,
    UnaryResult,
    Unavailable,
    Unknown,
)
from txzmq.rpc._client.outlier_detector import OutlierDetector
from txzmq.rpc.outlier_detection import (
    FailurePercentageEjection,
    OutlierDetection,
    SuccessRateEjection,
)
from txzmq.rpc.resolvers import ResolvedAddress

READY, FAILED = ConnectivityState.READY, ConnectivityState.TRANSIENT_FAILURE


class Failing(Echo):
    """Fails as the test says."""

    error: Callable[[], BaseException] | None = None
    #: The same, behind the first item of a stream.
    during: Callable[[], BaseException] | None = None

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        if self.error is not None:
            raise self.error()
        return text(request.value)

    def watch(self, request: StringValue, context: Context) -> Any:
        self.note(request, context)
        if self.error is not None:
            raise self.error()
        return self.items(request)

    def items(self, request: StringValue) -> Iterator[StringValue]:
        yield request
        if self.during is not None:
            raise self.during()


class Endpoints:
    """A resolver that a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.listener: Any = None

    def start(self, clock: object, listener: Any) -> None:
        self.listener = listener
        self.tell(*self.addresses)

    def tell(self, *addresses: str) -> None:
        self.listener.resolved([ResolvedAddress(address) for address in addresses])

    def resolve_now(self) -> None:
        pass

    def close(self) -> None:
        pass


def expected(failure: Failure) -> None:
    failure.trap(RpcError, CancelledError)  # type: ignore[no-untyped-call]  # Twisted's


class World:
    """Servers, and a channel that makes calls to each in turn."""

    def __init__(self, count: int, **detection: Any) -> None:
        self.network = Network()
        self.addresses = [f"inproc://{number}" for number in range(count)]
        self.services = [Failing() for _ in self.addresses]
        self.servers: list[Server] = []
        for address, service in zip(self.addresses, self.services, strict=True):
            self.servers.append(Server(self.network, [service]))
            self.servers[-1].listen(address)
        self.resolver = Endpoints(*self.addresses)
        self.channel = Channel(
            self.network,
            self.resolver,
            policy=RoundRobin(random=self.network.random),
            service_config=ServiceConfig(outlier_detection=OutlierDetection(**detection)),
        )
        self.network.run()

    def call(self) -> bool:
        """Make a call; whether it succeeded."""
        try:
            self.network.result(self.channel.unary_unary(ECHO, text("x")))
        except RpcError:
            return False
        return True

    def calls(self, rounds: int) -> None:
        """So many calls for each endpoint that is ready."""
        for _ in range(rounds * self.ready.count(True)):
            self.call()

    @property
    def ready(self) -> list[bool]:
        return [status.state is READY for status in self.channel.endpoints]

    @property
    def reasons(self) -> list[str]:
        return [status.reason.partition(": ")[2] for status in self.channel.endpoints]

    @property
    def ejected(self) -> int:
        return self.channel.counters[Count.EJECTED]

    def close(self) -> None:
        self.channel.close()
        for server in self.servers:
            server.stop(0)
        self.network.advance(1)
        assert not self.network.clock.getDelayedCalls()


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        world.close()


@pytest.fixture
def make(worlds: list[World]) -> Callable[..., World]:
    def make(count: int, **detection: Any) -> World:
        worlds.append(World(count, **detection))
        return worlds[-1]

    return make


# -- errors in a row ------------------------------------------------------------------------------


def test_five_errors_in_a_row_eject_an_endpoint(make: Callable[..., World]) -> None:
    world = make(3)
    world.services[1].error = lambda: Unavailable("out of order")
    world.calls(4)
    assert world.ready == [True, True, True]
    world.calls(1)
    assert world.ready == [True, False, True]
    assert world.channel.endpoints[1].state is FAILED
    assert world.reasons[1] == ("it gets no calls for 30 s or more, since 5 calls in a row failed")
    assert world.ejected == 1
    assert all(world.call() for _ in range(100))
    assert len(world.services[1].seen) == 5


def test_a_success_between_begins_anew(make: Callable[..., World]) -> None:
    world = make(2)
    for _ in range(5):
        world.services[0].error = lambda: Internal("broken")
        world.calls(4)
        world.services[0].error = None
        world.calls(1)
    assert world.ready == [True, True]


def test_another_number_of_errors_or_no_such_rule(make: Callable[..., World]) -> None:
    world = make(2, consecutive_errors=2)
    world.services[0].error = lambda: Unknown("nobody knows")
    world.calls(2)
    assert world.ready == [False, True]
    world = make(2, consecutive_errors=0)
    world.services[0].error = lambda: Unavailable("out of order")
    world.calls(50)
    world.network.advance(100)
    assert world.ready == [True, True]


def test_errors_that_speak_of_the_request_do_not_count(make: Callable[..., World]) -> None:
    world = make(2)
    world.services[0].error = lambda: NotFound("no such thing")
    world.calls(100)
    assert world.ready == [True, True]


def test_calls_that_are_cancelled_do_not_count_and_late_ones_do(
    make: Callable[..., World],
) -> None:
    world = make(2)
    waiting: list[Deferred[StringValue]] = []

    def never(request: StringValue, context: Context) -> Deferred[StringValue]:
        waiting.append(Deferred())
        return waiting[-1]

    setattr(world.services[0], "echo", never)
    world.servers[0].stop(0)
    world.network.run()
    world.servers[0] = Server(world.network, [world.services[0]])
    world.servers[0].listen(world.addresses[0])
    world.network.advance(5)
    assert world.ready == [True, True]

    def make_calls(**options: Any) -> list[Deferred[StringValue]]:
        calls = [world.channel.unary_unary(ECHO, text("x"), **options) for _ in range(20)]
        world.network.run()
        return calls

    for call in make_calls():
        call.addErrback(expected)
        call.cancel()
    world.network.advance(1)
    assert world.ready == [True, True]
    for call in make_calls(timeout=1):
        call.addErrback(expected)
    world.network.advance(3)
    assert "calls in a row failed" in world.reasons[0]


def test_streams_count_when_they_have_ended(make: Callable[..., World]) -> None:
    world = make(2, consecutive_errors=2)

    def watch(rounds: int) -> None:
        for _ in range(2 * rounds):
            stream = world.channel.unary_stream(WATCH, text("x"))
            stream.each(lambda _: None).addErrback(expected)
            world.network.run()

    watch(5)
    assert world.ready == [True, True]
    failing = world.services[0]
    failing.during = lambda: Unavailable("out of order")
    watch(1)
    failing.during = None
    watch(1)
    failing.during = lambda: Unavailable("out of order")
    watch(1)
    assert world.ready == [True, True], "two failures, and not in a row"
    watch(1)
    assert world.ready == [False, True]


def test_streams_that_are_refused_count(make: Callable[..., World]) -> None:
    world = make(2, consecutive_errors=2)
    world.services[0].error = lambda: Unavailable("out of order")
    for _ in range(4):
        stream = world.channel.unary_stream(WATCH, text("x"))
        stream.each(lambda _: None).addErrback(expected)
        world.network.run()
    assert world.ready == [False, True]


# -- how many, and for how long -------------------------------------------------------------------


def test_at_most_half_of_the_endpoints_are_ejected(make: Callable[..., World]) -> None:
    for count, most in ((1, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
        world = make(count)
        for service in world.services:
            service.error = lambda: Unavailable("out of order")
        world.calls(100)
        assert world.ready.count(False) == most, count


@pytest.mark.parametrize(("percent", "most"), [(0, 0), (10, 1), (30, 1), (75, 3), (100, 4)])
def test_another_share_may_be_ejected(make: Callable[..., World], percent: int, most: int) -> None:
    world = make(4, max_ejection_percent=percent)
    for service in world.services:
        service.error = lambda: Unavailable("out of order")
    for _ in range(200):
        world.call()
    assert world.ready.count(False) == most


def test_an_ejection_ends_and_each_further_one_is_longer(make: Callable[..., World]) -> None:
    world = make(2, max_ejection_time=70)
    world.services[0].error = lambda: Unavailable("out of order")
    for seconds in (30, 60, 70, 70):
        world.calls(5)
        assert world.ready == [False, True]
        ejected_at = world.network.clock.seconds()
        assert f"for {seconds} s or more" in world.reasons[0]
        world.network.advance(seconds - 0.001)
        assert world.ready == [False, True]
        while not all(world.ready):  # at the end of an interval
            world.network.advance(1)
        assert world.network.clock.seconds() <= ejected_at + seconds + 10
    assert world.ejected == 4


def test_an_endpoint_that_does_well_is_ejected_for_less_again(make: Callable[..., World]) -> None:
    world = make(2)
    for _ in range(2):
        world.services[0].error = lambda: Unavailable("out of order")
        world.calls(5)
        assert "for 30 s or more" in world.reasons[0]
        world.network.advance(40)
        world.services[0].error = None
        for _ in range(5):
            world.calls(1)
            world.network.advance(10)
        assert world.ready == [True, True]


def test_nothing_is_left_in_the_reactor_while_nothing_happens() -> None:
    class Nothing:
        def eject(self, why: str) -> None:
            pass

        def readmit(self) -> None:
            pass

    class Call:
        def __init__(self) -> None:
            self.deferred: Deferred[None] = Deferred()

    clock = Clock()
    counts: Counter[str] = Counter()
    detector = OutlierDetector(
        OutlierDetection(consecutive_errors=1),
        clock,
        Random(),
        lambda event: counts.update([event]),
    )
    endpoints = [Nothing(), Nothing()]
    detector.endpoints(endpoints)
    assert not clock.getDelayedCalls()
    call: Any = Call()
    detector.picked(call, endpoints[0])
    detector.picked(call, endpoints[1])  # it went elsewhere
    assert not clock.getDelayedCalls()
    call.deferred.addErrback(expected)
    call.deferred.errback(Unavailable("out of order"))
    assert counts == {Count.EJECTED: 1}
    clock.pump([10] * 3)
    assert clock.getDelayedCalls()
    clock.pump([10] * 5)
    assert not clock.getDelayedCalls()


def test_an_ejected_endpoint_that_reconnects_stays_ejected(make: Callable[..., World]) -> None:
    world = make(2)
    world.services[0].error = lambda: Unavailable("out of order")
    world.calls(5)
    world.network.cut(world.addresses[0])
    world.network.advance(9)
    assert world.ready == [False, True]
    assert "calls in a row failed" in world.reasons[0]
    world.network.advance(31)
    assert world.ready == [True, True]


def test_an_endpoint_that_leaves_and_comes_back_begins_anew(make: Callable[..., World]) -> None:
    world = make(3)
    world.services[0].error = lambda: Unavailable("out of order")
    world.calls(5)
    assert world.ready == [False, True, True]
    world.resolver.tell(*world.addresses[1:])
    world.network.run()
    world.resolver.tell(*world.addresses)
    world.network.run()
    assert world.ready == [True, True, True]


# -- by rates -------------------------------------------------------------------------------------


def test_the_one_that_succeeds_less_often_than_the_others_is_ejected(
    make: Callable[..., World],
) -> None:
    rule = SuccessRateEjection(request_volume=10)
    world = make(6, consecutive_errors=0, success_rate=rule)
    world.services[2].error = lambda: Unavailable("out of order")
    world.calls(9)
    world.network.advance(10)
    assert all(world.ready), "too few calls"
    world.calls(20)
    assert all(world.ready), "at the end of the interval"
    world.network.advance(10)
    assert world.ready == [True, True, False, True, True, True]
    assert "since 0% of its calls succeeded, where 83% do on average" in world.reasons[2]


def test_where_all_do_badly_none_stands_out(make: Callable[..., World]) -> None:
    rule = SuccessRateEjection(request_volume=10)
    world = make(6, consecutive_errors=0, success_rate=rule)
    for service in world.services:
        service.error = lambda: Unavailable("out of order")
    world.calls(20)
    world.network.advance(10)
    assert all(world.ready)


@pytest.mark.parametrize(
    "rule",
    [
        SuccessRateEjection(request_volume=10, minimum_hosts=7),
        SuccessRateEjection(request_volume=10, enforcement_percentage=0),
        SuccessRateEjection(request_volume=10, stdev_factor=10_000),
    ],
)
def test_a_rate_that_the_rule_lets_pass(
    make: Callable[..., World], rule: SuccessRateEjection
) -> None:
    world = make(6, consecutive_errors=0, success_rate=rule)
    world.services[2].error = lambda: Unavailable("out of order")
    world.calls(20)
    world.network.advance(10)
    assert all(world.ready)


def test_one_of_which_too_many_calls_fail_is_ejected(make: Callable[..., World]) -> None:
    rule = FailurePercentageEjection(threshold=50, request_volume=10, minimum_hosts=2)
    world = make(4, consecutive_errors=0, failure_percentage=rule)
    for bad in (0, 1, 2):
        world.services[bad].error = lambda: Unavailable("out of order")
    world.calls(10)
    world.network.advance(10)
    assert world.ready.count(False) == 2  # of the three, half of all
    assert "since 10 of its 10 calls failed" in world.reasons[world.ready.index(False)]


def test_counts_begin_anew_with_each_interval(make: Callable[..., World]) -> None:
    rule = FailurePercentageEjection(threshold=50, request_volume=1, minimum_hosts=1)
    world = make(2, consecutive_errors=0, failure_percentage=rule)
    world.services[0].error = lambda: Unavailable("out of order")
    world.calls(2)
    world.services[0].error = None
    world.calls(3)
    world.network.advance(10)
    assert all(world.ready)
    world.services[0].error = lambda: Unavailable("out of order")
    world.calls(1)
    world.network.advance(10)
    assert world.ready == [False, True]


def test_without_detection_no_call_is_counted() -> None:
    seen: Counter[str] = Counter()
    network = Network()
    service = Failing()
    service.error = lambda: Unavailable("out of order")
    server = Server(network, [service])
    address = server.listen("inproc://x")
    channel = Channel(network, [address], service_config={})
    for _ in range(20):
        failed = channel.unary_unary(ECHO, text("x"))
        with pytest.raises(Unavailable):
            network.result(failed)
        seen += channel.counters
    assert Count.EJECTED not in seen
    channel.close()
    server.stop(0)
    network.advance(1)


class Connection:
    """In the detector's eyes."""

    def __init__(self) -> None:
        self.ejected = ""

    def eject(self, why: str) -> None:
        self.ejected = why

    def readmit(self) -> None:
        self.ejected = ""


def test_a_connection_that_takes_anothers_place_is_judged_as_it_was() -> None:
    clock = Clock()
    detection = OutlierDetection(consecutive_errors=3, base_ejection_time=5, interval=1)
    detector = OutlierDetector(detection, clock, Random(1), lambda _: None)
    first, second, third, other = (Connection() for _ in range(4))
    detector.endpoints([first, other])
    for _ in range(2):
        detector.stream_ended(first, Unavailable("down"))
    detector.replaced(first, second)
    detector.stream_ended(first, Unavailable("down"))  # of the connection that was
    assert not second.ejected
    detector.stream_ended(second, Unavailable("down"))
    assert "3 calls in a row failed" in second.ejected
    detector.replaced(second, third)
    assert third.ejected == second.ejected
    clock.pump([1] * 6)
    assert not third.ejected
    detector.close()
    assert not clock.getDelayedCalls()
