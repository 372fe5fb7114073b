"""Shows :class:`~txzmq.rpc.metrics.Metrics` to Prometheus; needs the extra ``txzmq[prometheus]``.

Calls are counted by ``Metrics``, in its own way; a collector reads it when Prometheus scrapes. Over
HTTP, with health and readiness besides::

    metrics = Metrics(name="greeter", version="1.4")
    server = Server(factory, [Greeter()], observer=metrics)
    port = listen(metrics, port=9090)  # http://127.0.0.1:9090/metrics, /healthz, /readyz

In a site of the application's own, ``MetricsResource(metrics)`` is a resource of ``twisted.web``;
in a registry of its own, ``registry.register(MetricsCollector(metrics))`` is enough. The names and
what they mean are :data:`FAMILIES`. Those of calls are the names that gRPC's exporters have.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from txzmq import _check
from txzmq.rpc.errors import Code
from txzmq.rpc.method import Kind
from txzmq.rpc.metrics import Histogram, MethodMetrics, Metrics
from txzmq.rpc.records import Side
from txzmq.rpc.watching import ConnectivityState, Count

try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector

    from txzmq.rpc._exposition import OperationsSite, Page, State, exposed
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.prometheus needs prometheus_client 0.22 or later: "
        "pip install 'txzmq[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from twisted.web.http import Request

__all__ = ["FAMILIES", "Family", "MetricsCollector", "MetricsResource", "listen", "operations_site"]

_log = Logger()

_CALL: Final = ("grpc_type", "grpc_service", "grpc_method")
_TYPES: Final = {
    Kind.UNARY_UNARY: "unary",
    Kind.UNARY_STREAM: "server_stream",
    Kind.STREAM_UNARY: "client_stream",
    Kind.STREAM_STREAM: "bidi_stream",
}
#: Codes whose names in Go do not follow from ours.
_ODD_NAMES: Final = {Code.OK: "OK", Code.CANCELLED: "Canceled"}
_CLIENT: Final = Side.CLIENT
_SERVER: Final = Side.SERVER


class Family(NamedTuple):
    """One metric: its name as Prometheus has it, its type, what it means, and its labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


def _of_calls(side: str, does: str, gets: str) -> tuple[Family, ...]:
    """The families of the calls of one side, with the names of gRPC's exporters."""
    return (
        Family(f"grpc_{side}_started_total", "counter", f"Calls that the {side} has begun.", _CALL),
        Family(
            f"grpc_{side}_handled_total",
            "counter",
            f"Calls that have ended on the {side}, by code.",
            (*_CALL, "grpc_code"),
        ),
        Family(
            f"grpc_{side}_handling_seconds",
            "histogram",
            f"Seconds from the beginning of a call to its true end, on the {side}.",
            _CALL,
        ),
        Family(
            f"grpc_{side}_msg_received_total",
            "counter",
            f"{gets} that the {side} has received, of calls that have ended.",
            _CALL,
        ),
        Family(
            f"grpc_{side}_msg_sent_total",
            "counter",
            f"{does} that the {side} has sent, of calls that have ended.",
            _CALL,
        ),
        Family(f"txzmq_{side}_received_bytes_total", "counter", f"Bytes of {gets.lower()}.", _CALL),
        Family(f"txzmq_{side}_sent_bytes_total", "counter", f"Bytes of {does.lower()}.", _CALL),
        Family(
            f"txzmq_{side}_calls_in_flight",
            "gauge",
            f"Calls that have begun on the {side} and not ended.",
            _CALL,
        ),
        Family(
            f"txzmq_{side}_events_total",
            "counter",
            f"What {side}s count, by name: members of txzmq.rpc.Count in lower case.",
            ("event",),
        ),
    )


def _gauge(name: str, meaning: str, *labels: str) -> Family:
    return Family(name, "gauge", meaning, labels)


#: All metrics, in the order in which they are shown.
FAMILIES: Final[tuple[Family, ...]] = (
    *_of_calls("server", "Responses", "Requests"),
    _gauge("txzmq_server_draining", "Servers that are being stopped, and take no more calls."),
    _gauge(
        "txzmq_server_handlers_running",
        "Handlers that have started and not ended, those of open streams among them.",
    ),
    _gauge("txzmq_server_calls_running", "Calls that have a place; an open stream needs none."),
    _gauge("txzmq_server_calls_queued", "Calls that wait for a place."),
    _gauge("txzmq_server_streams", "Streams of responses that have not come to their end."),
    _gauge("txzmq_server_subscribers", "Calls that share streams."),
    _gauge("txzmq_server_clients", "Connections of clients that are known."),
    _gauge("txzmq_server_request_bytes", "Bytes of requests that wait or are being served."),
    _gauge("txzmq_server_unacknowledged_bytes", "Bytes of items that are not acknowledged."),
    _gauge("txzmq_server_backlog_bytes", "Bytes of replies that clients do not read."),
    _gauge(
        "txzmq_server_limit",
        "The limits of ServerLimits that the gauges above run into, by name, added up.",
        "limit",
    ),
    *_of_calls("client", "Requests", "Responses"),
    Family(
        "txzmq_client_attempts_total",
        "counter",
        "How often requests were sent, of calls that have ended; retries and hedges count.",
        _CALL,
    ),
    _gauge("txzmq_client_connections", "Connections to endpoints, by state.", "state"),
    _gauge("txzmq_client_calls_waiting", "Calls that wait for a connection."),
    _gauge("txzmq_client_request_bytes", "Bytes of calls that wait for replies or to be sent."),
    Family(
        "txzmq_reactor_lag_seconds",
        "histogram",
        "How late the reactor was; only where Metrics.watch_reactor() was called.",
    ),
    Family(
        "txzmq_build_info",
        "info",
        "Always 1: name, version and process of the service, and txzmq's version.",
        # Not `instance`, which Prometheus says itself of whatever it scrapes.
        ("name", "version", "process", "txzmq_version"),
    ),
)
_BY_NAME: Final = {family.name: family for family in FAMILIES}
#: Limits that gauges run into, by their names in ServerLimits.
_LIMITS: Final = (
    *("running", "queued", "streams", "subscribers"),
    *("request_bytes", "streams_bytes", "backlog"),
)


class MetricsCollector(Collector):
    """Reads a ``Metrics`` whenever Prometheus wants to know."""

    def __init__(self, metrics: Metrics) -> None:
        """:raises TypeError: if it is none."""
        _check.instance("metrics", metrics, Metrics, "a Metrics")
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """All families; each is there also where nothing was counted yet."""
        yield from self._of_calls(_SERVER)
        yield from self._of_servers()
        yield from self._of_calls(_CLIENT)
        yield from self._of_channels()
        if self._metrics.lag is not None:
            lag = _histogram("txzmq_reactor_lag_seconds")
            _add(lag, (), self._metrics.lag)
            yield lag
        metrics = self._metrics
        family = _BY_NAME["txzmq_build_info"]
        yield InfoMetricFamily(
            family.name.removesuffix("_info"),
            family.meaning,
            value={
                "name": metrics.name,
                "version": metrics.version,
                "process": metrics.instance,
                "txzmq_version": importlib.metadata.version("txzmq"),
            },
        )

    def _of_calls(self, side: Side) -> Iterator[Metric]:
        methods = [method for method in self._metrics.methods if method.side is side]

        def counted(name: str, value: Callable[[MethodMetrics], float]) -> Metric:
            family = _counter(name)
            for method in methods:
                family.add_metric(_labels(method), value(method))
            return family

        yield counted(f"grpc_{side}_started_total", lambda method: method.started)
        handled = _counter(f"grpc_{side}_handled_total")
        seconds = _histogram(f"grpc_{side}_handling_seconds")
        for method in methods:
            ended = method.by_code
            # Also those that none has ended with: rate() does not see that a series begins.
            for code in Code:
                count = ended[code].count if code in ended else 0
                handled.add_metric((*_labels(method), _name_of(code)), count)
            _add(seconds, _labels(method), method.seconds)
        yield handled
        yield seconds
        received, sent = f"grpc_{side}_msg_received_total", f"grpc_{side}_msg_sent_total"
        bytes_received = f"txzmq_{side}_received_bytes_total"
        bytes_sent = f"txzmq_{side}_sent_bytes_total"
        if side is _CLIENT:
            received, sent = sent, received
            bytes_received, bytes_sent = bytes_sent, bytes_received
        in_order = {
            received: counted(received, lambda method: method.requests),
            sent: counted(sent, lambda method: method.responses),
            bytes_received: counted(bytes_received, lambda method: method.request_bytes),
            bytes_sent: counted(bytes_sent, lambda method: method.response_bytes),
        }
        yield from (in_order[family.name] for family in FAMILIES if family.name in in_order)
        in_flight = _gauge_family(f"txzmq_{side}_calls_in_flight")
        for method in methods:
            in_flight.add_metric(_labels(method), method.in_flight)
        yield in_flight
        events = _counter(f"txzmq_{side}_events_total")
        counters = self._metrics.counters(side)
        for name in Count:
            events.add_metric((name.name.lower(),), counters[name])
        yield events
        if side is _CLIENT:
            yield counted("txzmq_client_attempts_total", lambda method: method.attempts)

    def _of_servers(self) -> Iterator[Metric]:
        servers = self._metrics.servers
        for name, value in (
            ("draining", sum(server.is_draining for server in servers)),
            ("handlers_running", sum(server.running for server in servers)),
            ("calls_running", sum(server.running_calls for server in servers)),
            ("calls_queued", sum(server.queued for server in servers)),
            ("streams", sum(server.streams for server in servers)),
            ("subscribers", sum(server.subscribers for server in servers)),
            ("clients", sum(server.clients for server in servers)),
            ("request_bytes", sum(server.request_bytes for server in servers)),
            ("unacknowledged_bytes", sum(server.unacknowledged_bytes for server in servers)),
            ("backlog_bytes", sum(server.backlog_bytes for server in servers)),
        ):
            yield _one(f"txzmq_server_{name}", value)
        limits = _gauge_family("txzmq_server_limit")
        for name in _LIMITS:
            limits.add_metric((name,), sum(getattr(server.limits, name) for server in servers))
        yield limits

    def _of_channels(self) -> Iterator[Metric]:
        channels = self._metrics.channels
        states = [endpoint.state for channel in channels for endpoint in channel.endpoints]
        connections = _gauge_family("txzmq_client_connections")
        for state in ConnectivityState:
            connections.add_metric((state.name.lower(),), states.count(state))
        yield connections
        yield _one("txzmq_client_calls_waiting", sum(channel.waiting for channel in channels))
        yield _one("txzmq_client_request_bytes", sum(channel.request_bytes for channel in channels))


def _labels(method: MethodMetrics) -> tuple[str, str, str]:
    _, service, name = method.method.split("/", 2)
    return _TYPES[method.kind], service, name


def _name_of(code: Code) -> str:
    """As gRPC's exporters write it, which have Go's names: ``NotFound``, ``OK``, ``Canceled``."""
    return _ODD_NAMES.get(code) or code.name.title().replace("_", "")


def _counter(name: str) -> CounterMetricFamily:
    family = _BY_NAME[name]
    return CounterMetricFamily(name, family.meaning, labels=family.labels)


def _gauge_family(name: str) -> GaugeMetricFamily:
    family = _BY_NAME[name]
    return GaugeMetricFamily(name, family.meaning, labels=family.labels)


def _one(name: str, value: float) -> GaugeMetricFamily:
    family = _gauge_family(name)
    family.add_metric((), value)
    return family


def _histogram(name: str) -> HistogramMetricFamily:
    family = _BY_NAME[name]
    return HistogramMetricFamily(name, family.meaning, labels=family.labels)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    """Add a histogram, whose buckets are cumulative in Prometheus."""
    below = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", below))
    family.add_metric(labels, buckets, histogram.sum)


class MetricsResource(Page):
    """What Prometheus scrapes: ``/metrics``, where it is put there.

    Besides what ``Metrics`` has, the process's own: when it started, its CPU time, its memory and
    its descriptors, by prometheus_client's ``ProcessCollector``.
    """

    def __init__(self, metrics: Metrics) -> None:
        """:raises TypeError: if it is no ``Metrics``."""
        super().__init__()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(MetricsCollector(metrics))
        ProcessCollector(registry=self._registry)

    def render_GET(self, request: Request) -> bytes:
        """The metrics, in the format that the client asks for, or as text."""
        return exposed(request, self._registry)


class _Checks:
    """What else has to be ready."""

    def __init__(self, checks: object) -> None:
        """:raises TypeError: if it is no function that can be asked, nor a collection of them."""
        if callable(checks):
            checks = (checks,)
        elif isinstance(checks, str | bytes) or not isinstance(checks, Iterable):
            raise _check.wrong_type("is_ready", checks, "a function, or a sequence of functions")
        self._checks: list[Callable[[], object]] = []
        # Any: the cast is for pyright, which knows a collection of what as little as the caller.
        for check in cast("Iterable[Any]", checks):
            _check.function("is_ready", check, (), awaited=False)
            self._checks.append(check)
        # Whether the log says already that one of them fails.
        self._is_told = False

    def are_ready(self) -> bool:
        """Whether all of them say so. One that fails does not, and is logged when that begins."""
        try:
            ready = all(map(_answer_of, self._checks))
        except Exception:  # noqa: BLE001 - whatever a user's function raises
            if not self._is_told:
                _log.failure("is_ready raised an exception; the application counts as not ready")
            self._is_told = True
            return False
        self._is_told = False
        return ready


def _answer_of(check: Callable[[], object]) -> bool:
    """:raises TypeError: if it says neither yes nor no: a Deferred would count as yes."""
    answer = check()
    if not isinstance(answer, bool):
        raise TypeError(f"is_ready must return True or False, not {_check.shown(answer)}")
    return answer


def operations_site(
    metrics: Metrics, *, is_ready: Callable[[], bool] | Iterable[Callable[[], bool]] = ()
) -> Site:
    """A site with ``/metrics``, ``/healthz`` and ``/readyz``, to listen with.

    ``/healthz`` answers 200 as long as the reactor turns. ``/readyz`` answers 503 as soon as one of
    the servers that *metrics* observes drains, before it refuses anything, or has none left; and
    while something else of the application's is not ready. Requests are not logged.

    :param is_ready: functions that say whether the application is ready besides, by True or False.
        While one of them raises an exception, it is not.
    :raises TypeError: if *metrics* is no ``Metrics``, or *is_ready* cannot be asked.
    """
    checks = _Checks(is_ready)
    had_servers = False

    def why_not() -> str:
        nonlocal had_servers
        servers = metrics.servers
        had_servers = had_servers or bool(servers)
        if any(server.is_draining for server in servers):
            return "a server drains"
        if had_servers and not servers:
            return "the servers have stopped"
        return "" if checks.are_ready() else "the application is not ready"

    # Any: Twisted types resources with zope interfaces.
    root: Any = Resource()  # type: ignore[no-untyped-call]  # Twisted's
    root.putChild(b"metrics", MetricsResource(metrics))
    root.putChild(b"healthz", State(lambda: ""))
    root.putChild(b"readyz", State(why_not))
    return OperationsSite(root)  # type: ignore[no-untyped-call]  # Twisted's


# Any: Twisted types reactors and ports with zope interfaces.
def listen(
    metrics: Metrics,
    *,
    port: int = 0,
    interface: str = "127.0.0.1",
    reactor: Any = None,
    is_ready: Callable[[], bool] | Iterable[Callable[[], bool]] = (),
) -> Any:
    """Listen with :func:`operations_site`.

    :param port: 0 for any free one; ``port.getHost().port`` of what is returned says which.
    :param interface: strangers must not reach it: there is no password.
    :param reactor: None for the process's own.
    :return: an ``IListeningPort``; ``stopListening()`` ends it.
    :raises twisted.internet.error.CannotListenError: if it cannot be listened there.
    """
    if reactor is None:
        from twisted.internet import reactor
    site = operations_site(metrics, is_ready=is_ready)
    return reactor.listenTCP(port, site, interface=interface)
