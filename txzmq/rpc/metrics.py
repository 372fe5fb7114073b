"""Counters and histograms of calls: what an :class:`~txzmq.rpc.Observer` is told, added up.

One object for all channels and servers of a process::

    metrics = Metrics(name="greeter", version="1.4")
    server = Server(factory, [Greeter()], observer=metrics)
    channel = Channel(factory, "dns:///orders:5000", observer=metrics)

Nothing is exported here: exporters read the attributes. A call costs a few microseconds on each
side, as ``python -m benchmarks.observers`` prints; what channels and servers have at one moment is
looked at when it is read.
"""

from __future__ import annotations

import os
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

from txzmq import _check
from txzmq._reactor import Clock, monotonic
from txzmq._timer import ResettableTimer
from txzmq.rpc.errors import Code
from txzmq.rpc.method import Kind
from txzmq.rpc.records import CallRecord, Side, StartedCall
from txzmq.rpc.watching import (
    ChannelStats,
    ConnectivityState,
    EndpointChange,
    Observer,
    ServerStats,
    Watched,
)

__all__ = ["BUCKETS", "LAG_BUCKETS", "UNKNOWN", "Histogram", "MethodMetrics", "Metrics"]

#: Upper bounds of the buckets of a call's seconds; one more has what is above.
BUCKETS: Final[tuple[float, ...]] = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
#: The same of the seconds that the reactor is late.
LAG_BUCKETS: Final[tuple[float, ...]] = (
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0),
)
#: In place of the path of a method that a server does not have, whatever its client has sent.
UNKNOWN: Final = "/unknown/unknown"
#: Methods of each side that are counted apart; those above count as unknown.
_MOST_METHODS: Final = 1_000
_SERVER: Final = Side.SERVER
_CLIENT: Final = Side.CLIENT


class Histogram:
    """How many values there were, by size.

    :ivar bounds: the upper bounds of the buckets, which belong to them.
    :ivar counts: values in each bucket, not cumulative; one more for those above the last bound.
    :ivar sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        """:param bounds: in ascending order."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, part: float) -> float:
        """What a part of the values are at most, as Prometheus' ``histogram_quantile`` has it.

        As if those of one bucket were spread over it evenly. Of those above the last bound it is
        only known that they are: then it is that bound.

        :param part: above 0 and at most 1; 0.5 for the median.
        :return: 0.0 where there are no values.
        """
        rank = part * self.count
        below = 0
        for index, bound in enumerate(self.bounds):
            here = self.counts[index]
            if here and below + here >= rank:
                lower = self.bounds[index - 1] if index else 0.0
                return lower + (bound - lower) * (rank - below) / here
            below += here
        return self.bounds[-1] if self.count else 0.0


class MethodMetrics:
    """The calls of one method on one side, since the beginning.

    :ivar side: which side it is.
    :ivar method: ``/package.Service/Method``, or :data:`UNKNOWN`.
    :ivar kind: which of requests and responses stream.
    :ivar started: calls that have begun.
    :ivar requests: of the calls that have ended; and so responses, and bytes of both.
    :ivar attempts: how often they were sent; on a server as many as calls.
    """

    __slots__ = (
        "_by_code",
        "attempts",
        "kind",
        "method",
        "request_bytes",
        "requests",
        "response_bytes",
        "responses",
        "side",
        "started",
    )

    def __init__(self, side: Side, method: str, kind: Kind) -> None:
        self.side = side
        self.method = method
        self.kind = kind
        self.started = 0
        # By the number of the code: an enum's own hash is a function in Python.
        self._by_code: list[Histogram | None] = [None] * (max(Code) + 1)
        self.requests = 0
        self.responses = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.attempts = 0

    def end(self, record: CallRecord) -> None:
        """A call has ended."""
        histogram = self._by_code[record.code]
        if histogram is None:
            histogram = self._by_code[record.code] = Histogram()
        # As Histogram.add, without a frame of its own.
        seconds = record.seconds
        histogram.counts[bisect_left(BUCKETS, seconds)] += 1
        histogram.sum += seconds
        self.requests += record.requests
        self.responses += record.responses
        self.request_bytes += record.request_bytes
        self.response_bytes += record.response_bytes
        self.attempts += record.sent

    @property
    def by_code(self) -> dict[Code, Histogram]:
        """Seconds of the calls that have ended, by how they did."""
        return {code: each for code in Code if (each := self._by_code[code]) is not None}

    @property
    def ended(self) -> int:
        """Calls that have ended."""
        return sum(histogram.count for histogram in self.by_code.values())

    @property
    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return self.started - self.ended

    @property
    def seconds(self) -> Histogram:
        """Seconds of all calls that have ended, however they did."""
        total = Histogram()
        for histogram in self.by_code.values():
            total.sum += histogram.sum
            for index, count in enumerate(histogram.counts):
                total.counts[index] += count
        return total


class Metrics(Observer):
    """Counts the calls and events of any number of channels and servers.

    :ivar name: of the service, for whoever reads the metrics.
    :ivar version: of the service.
    :ivar instance: which process it is.
    :ivar lag: seconds that the reactor was late, of each look at it; None where nobody looks.
    """

    def __init__(self, *, name: str = "", version: str = "", instance: str = "") -> None:
        """
        :param name: of the service.
        :param version: of the service.
        :param instance: which process it is; empty for the host's name and the process's id.
        :raises TypeError: for a value of a wrong type.
        """
        for parameter, value in (("name", name), ("version", version), ("instance", instance)):
            _check.instance(parameter, value, str, "a str")
        self.name = name
        self.version = version
        self.instance = instance or f"{socket.gethostname()}:{os.getpid()}"
        self.lag: Histogram | None = None
        # By path.
        self._of_clients: dict[str, MethodMetrics] = {}
        self._of_servers: dict[str, MethodMetrics] = {}
        # Those that are open, and what those have counted that are not; an ordered set.
        self._sources: dict[Watched, None] = {}
        self._done: dict[Side, Counter[str]] = {side: Counter() for side in Side}
        # How often connections have come to a state.
        self._changes: Counter[ConnectivityState] = Counter()
        self._lag_timer: ResettableTimer | None = None

    # -- what it is told ---------------------------------------------------------------------

    def started(self, source: Watched) -> None:
        """Read a channel's or server's counters from now on."""
        self._sources[source] = None

    def stopped(self, source: Watched) -> None:
        """Keep what it has counted."""
        if source in self._sources:
            del self._sources[source]
            self._done[_side_of(source)] += source.counters

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        """Count it."""
        self._changes[change.state] += 1

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """Count a call that begins."""
        methods = self._of_servers if call.side is _SERVER else self._of_clients
        method = methods.get(call.method)
        if method is None:
            method = self._method(methods, call)
        method.started += 1

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """Count a call that has ended."""
        methods = self._of_servers if record.side is _SERVER else self._of_clients
        method = methods.get(record.method)
        if method is None:
            method = self._method(methods, record)
        method.end(record)

    @staticmethod
    def _method(methods: dict[str, MethodMetrics], call: StartedCall) -> MethodMetrics:
        """Where a call is counted of a method that is not among them."""
        path, kind = call.method, call.kind
        if not call.known or len(methods) >= _MOST_METHODS:
            path, kind = UNKNOWN, Kind.UNARY_UNARY
            if path in methods:
                return methods[path]
        method = methods[path] = MethodMetrics(call.side, path, kind)
        return method

    # -- what it says ------------------------------------------------------------------------

    @property
    def methods(self) -> list[MethodMetrics]:
        """All methods that were called, on each side."""
        return [*self._of_clients.values(), *self._of_servers.values()]

    def counters(self, side: Side) -> Counter[str]:
        """What all channels, or all servers, have counted until now; see ``Count``."""
        live = [source.counters for source in self._sources if _side_of(source) is side]
        return sum(live, self._done[side].copy())

    @property
    def servers(self) -> list[ServerStats]:
        """What each server has that is not stopped."""
        stats = (getattr(source, "stats", None) for source in self._sources)
        return [each for each in stats if isinstance(each, ServerStats)]

    @property
    def channels(self) -> list[ChannelStats]:
        """What each channel has that is not closed."""
        stats = (getattr(source, "stats", None) for source in self._sources)
        return [each for each in stats if isinstance(each, ChannelStats)]

    @property
    def endpoint_changes(self) -> Counter[ConnectivityState]:
        """How often connections of channels have come to a state; a copy."""
        return self._changes.copy()

    # -- the reactor -------------------------------------------------------------------------

    def watch_reactor(self, reactor: Clock, interval: float = 0.25) -> None:
        """Look from now on how late the reactor is, until :meth:`stop_watching_reactor`.

        :param reactor: such as ``factory.reactor``.
        :param interval: seconds between two looks.
        :raises ValueError: if *interval* is not above 0, and so TypeError.
        """
        _check.number("interval", interval, above=True)
        self.stop_watching_reactor()
        clock = monotonic(reactor)
        lag = self.lag = self.lag or Histogram(LAG_BUCKETS)
        due = clock.seconds() + interval

        def look() -> None:
            nonlocal due
            now = clock.seconds()
            lag.add(max(0.0, now - due))
            due = now + interval
            timer.start(interval)

        timer = self._lag_timer = ResettableTimer(clock, look)
        timer.start(interval)

    def stop_watching_reactor(self) -> None:
        """Leave nothing in the reactor; what was seen stays."""
        timer, self._lag_timer = self._lag_timer, None
        if timer is not None:
            timer.stop()


def _side_of(source: Watched) -> Side:
    return _SERVER if isinstance(getattr(source, "stats", None), ServerStats) else _CLIENT
