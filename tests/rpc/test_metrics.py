"""What ``Metrics`` adds up of calls, events and what channels and servers have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from tests.rpc.service import ADDRESS, ECHO, MISSING, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.rpc.sharing import Ticker
from tests.rpc.sharing import World as SharingWorld
from tests.rpc.streaming import Endless, Reader, StreamWorld
from tests.support import error_of
from txzmq.rpc import (
    Channel,
    ChannelStats,
    Code,
    ConnectivityState,
    Count,
    Kind,
    ServerLimits,
    ServerStats,
    Side,
    StartedCall,
)
from txzmq.rpc.metrics import BUCKETS, LAG_BUCKETS, UNKNOWN, Histogram, MethodMetrics, Metrics
from txzmq.testing import MemoryNetwork

SIZE = len(text("x").SerializeToString())


@pytest.fixture
def make() -> Iterator[Any]:
    yield from made(EchoWorld)


@pytest.fixture
def streams() -> Iterator[Any]:
    yield from made(StreamWorld)


def of(metrics: Metrics, side: Side, path: str = ECHO.path) -> MethodMetrics:
    (found,) = [m for m in metrics.methods if (m.side, m.method) == (side, path)]
    return found


def test_calls_are_counted_by_side_method_and_code(make: Any) -> None:
    metrics = Metrics()
    world = make(Waiting(), observer=metrics)
    calls = [world.call("x", timeout=1).addErrback(error_of) for _ in range(3)]
    world.network.run()
    for side in Side:
        method = of(metrics, side)
        assert (method.started, method.ended, method.in_flight) == (3, 0, 3)
    world.network.advance(0.25)
    world.service.results[0].callback(text("y"))
    calls[1].cancel()
    world.network.advance(1)
    assert all(call.called for call in calls)
    for side in Side:
        method = of(metrics, side)
        assert (method.kind, method.started, method.in_flight) == (Kind.UNARY_UNARY, 3, 0)
        codes = {code: histogram.count for code, histogram in method.by_code.items()}
        assert codes == {Code.OK: 1, Code.CANCELLED: 1, Code.DEADLINE_EXCEEDED: 1}
        assert method.by_code[Code.OK].sum == 0.25
        assert method.seconds.count == 3
        assert method.seconds.sum == pytest.approx(1.5, abs=0.01)
        assert (method.requests, method.request_bytes) == (3, 3 * SIZE)
        assert (method.responses, method.response_bytes) == (1, SIZE)
        assert method.attempts == 3


def test_items_and_bytes_of_streams_are_counted(streams: Any) -> None:
    metrics = Metrics()
    world = streams(observer=metrics)
    assert world.run(3).items == ["0", "1", "2"]
    for side in Side:
        method = of(metrics, side, "/test.Streaming/Count")
        assert (method.kind, method.requests, method.responses) == (Kind.UNARY_STREAM, 1, 3)
        assert (method.request_bytes, method.response_bytes) == (SIZE, 3 * SIZE)


def test_methods_that_a_server_does_not_have_are_one(make: Any) -> None:
    metrics = Metrics()
    world = make(observer=metrics)
    for method in (MISSING, ECHO, MISSING):
        world.network.result(world.call("x", method=method).addErrback(error_of))
    assert {m.method for m in metrics.methods if m.side is Side.SERVER} == {UNKNOWN, ECHO.path}
    unknown = of(metrics, Side.SERVER, UNKNOWN)
    assert (unknown.started, unknown.ended, unknown.in_flight) == (2, 2, 0)
    assert of(metrics, Side.CLIENT, MISSING.path).ended == 2


class Source:
    """Nothing is asked of it."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()


def test_there_is_an_end_to_the_methods_that_are_counted_apart() -> None:
    metrics, source = Metrics(), Source()
    for number in range(1_500):
        call = StartedCall(Side.CLIENT, f"/a/b{number}", Kind.UNARY_UNARY, 0.0)
        metrics.call_started(source, call)
    assert len(metrics.methods) == 1_001
    assert of(metrics, Side.CLIENT, UNKNOWN).started == 500
    assert sum(method.started for method in metrics.methods) == 1_500


def test_what_channels_and_servers_have_is_read_when_it_is_asked_for(make: Any) -> None:
    metrics = Metrics()
    world = make(Waiting(), observer=metrics, limits=ServerLimits(running=1))
    calls = [world.call("x") for _ in range(3)]
    world.network.run()
    (server,), (channel,) = metrics.servers, metrics.channels
    assert server == world.server.stats
    assert (server.running, server.queued, server.clients) == (1, 2, 1)
    assert server.request_bytes == 3 * SIZE
    assert (server.is_draining, server.limits.running) == (False, 1)
    assert channel == world.channel.stats
    assert (channel.state, channel.waiting) == (ConnectivityState.READY, 0)
    assert channel.request_bytes == 3 * SIZE
    assert [endpoint.load for endpoint in channel.endpoints] == [3]
    world.server.stop(5)
    assert metrics.servers[0].is_draining
    for call in calls:
        call.addErrback(error_of).cancel()


def test_a_call_that_waits_for_a_connection_is_seen() -> None:
    metrics, network = Metrics(), MemoryNetwork()
    channel = Channel(network, ADDRESS, observer=metrics, wait_for_ready=True)
    channel.unary_unary(ECHO, text("x")).addErrback(error_of)
    network.run()
    assert metrics.channels[0].waiting == 1
    channel.close()
    assert metrics.channels == []
    assert metrics.endpoint_changes[ConnectivityState.SHUTDOWN] == 1


def test_streams_subscribers_and_what_is_unacknowledged_are_seen(streams: Any) -> None:
    metrics, endless = Metrics(), Endless()
    world = streams(endless, observer=metrics)
    reader = Reader(world.open("x"))
    world.network.run()
    endless.give()
    world.network.run()
    (stats,) = metrics.servers
    assert (stats.streams, stats.subscribers) == (1, 0)
    assert (stats.running, stats.running_calls) == (1, 0)  # an open stream needs no place
    assert stats.unacknowledged_bytes == SIZE
    reader.done.cancel()
    world.network.run()
    assert metrics.servers[0].streams == 0


def test_who_shares_a_stream_is_a_subscriber() -> None:
    for make in made(SharingWorld):
        world = make(Ticker())
        world.subscribe()
        world.subscribe()
        assert (world.server.stats.streams, world.server.stats.subscribers) == (1, 2)


def test_counters_outlive_their_sources(make: Any) -> None:
    metrics = Metrics()
    world = make(observer=metrics, limits=ServerLimits(running=0, queued=0))
    world.network.result(world.call("x").addErrback(error_of))
    assert metrics.counters(Side.SERVER)[Count.SHED_REQUEST] == 1
    assert metrics.counters(Side.CLIENT)[Count.SHED_REQUEST] == 0
    world.server.stop(0)
    world.channel.close()
    world.network.advance(1)
    assert (metrics.servers, metrics.channels) == ([], [])
    assert metrics.counters(Side.SERVER)[Count.SHED_REQUEST] == 1


def test_each_stats_says_what_it_is_of(make: Any) -> None:
    world = make()
    assert isinstance(world.server.stats, ServerStats)
    assert isinstance(world.channel.stats, ChannelStats)


# -- histograms ----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6)))
def test_each_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed(
    values: list[float],
) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    below = 0
    for bound, count in zip(BUCKETS, histogram.counts, strict=False):
        below += count
        assert below == sum(value <= bound for value in values)


def test_buckets_begin_at_50_microseconds_and_ascend() -> None:
    assert BUCKETS[0] == 50e-6
    for bounds in (BUCKETS, LAG_BUCKETS):
        assert list(bounds) == sorted(set(bounds))


# -- the reactor ---------------------------------------------------------------------------------


def test_a_reactor_that_stands_still_is_seen() -> None:
    metrics, clock = Metrics(), Clock()
    assert metrics.lag is None
    metrics.watch_reactor(clock, 0.25)
    clock.pump([0.25] * 4)
    clock.advance(2.25)  # late by two seconds
    lag: Any = metrics.lag
    assert lag.count == 5
    assert lag.sum == pytest.approx(2)
    metrics.watch_reactor(clock, 1)  # anew, and what was seen stays
    clock.advance(1)
    assert (metrics.lag, lag.count) == (lag, 6)
    metrics.stop_watching_reactor()
    metrics.stop_watching_reactor()
    assert clock.getDelayedCalls() == []


def test_names_are_for_whoever_reads_the_metrics() -> None:
    metrics = Metrics(name="greeter", version="1.4")
    assert (metrics.name, metrics.version) == ("greeter", "1.4")
    assert metrics.instance.rpartition(":")[2].isdigit()
    assert Metrics(instance="me").instance == "me"
    wrong: Any = 1
    with pytest.raises(TypeError, match="version must be a str"):
        Metrics(version=wrong)
    with pytest.raises(ValueError, match="interval"):
        metrics.watch_reactor(Clock(), 0)
