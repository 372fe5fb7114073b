"""Traces and metrics of calls for OpenTelemetry; needs the extra ``txzmq[otel]``.

One object is the observer of any number of channels and servers::

    telemetry = Telemetry()
    server = Server(factory, [Greeter()], observer=telemetry)
    channel = Channel(factory, "dns:///orders:5000", observer=telemetry)

Each call is a span on each side, from its beginning to its true end, and a value of a histogram of
seconds. The span of a server's call is the active one where its handler runs, so that spans and
calls that are made there become its children. A trace travels in the metadata of the request, by
OpenTelemetry's propagators: ``traceparent``, ``tracestate`` and ``baggage``.

The extra is OpenTelemetry's API alone, which does nothing until the application has set up its SDK.
"""

from __future__ import annotations

import importlib.metadata
from time import time_ns
from typing import Any, Final

from txzmq import _check
from txzmq.rpc._semconv import (
    ATTEMPTS,
    CLIENT_ADDRESS,
    CLIENT_ERRORS,
    CLIENT_SECONDS,
    ERROR_TYPE,
    METHOD,
    METHOD_ORIGINAL,
    OTHER,
    PEER_ADDRESS,
    PEER_PORT,
    REQUESTS,
    RESPONSES,
    SCHEMA_URL,
    SECONDS_BUCKETS,
    SERVER_ADDRESS,
    SERVER_ERRORS,
    SERVER_PORT,
    SERVER_SECONDS,
    STATUS_CODE,
    SYSTEM,
    SYSTEM_NAME,
    Instrument,
)
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import METADATA_SIZE
from txzmq.rpc.metadata import PAIR_OVERHEAD, Metadata
from txzmq.rpc.method import Kind
from txzmq.rpc.records import CallRecord, Side, StartedCall
from txzmq.rpc.watching import Observer, Watched

try:
    from opentelemetry.context import Context, attach
    from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter
    from opentelemetry.propagate import extract, inject
    from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer,
        set_span_in_context,
    )
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.otel needs opentelemetry-api 1.39.1 or later: pip install 'txzmq[otel]'"
    ) from error

__all__ = ["Telemetry"]

_CLIENT: Final = Side.CLIENT
_UNARY: Final = Kind.UNARY_UNARY
#: Methods, and addresses of servers, that are remembered of each channel or server.
_MOST: Final = 1_000
#: Characters of the path of a method that the server does not have.
_MOST_OF_A_PATH: Final = 256
#: Characters of the message of an error.
_MOST_OF_A_MESSAGE: Final = 1_024

_Attributes = dict[str, str | int]


class Telemetry(Observer):
    """Makes spans and metrics of the calls of any number of channels and servers.

    The tracer and the meter are those of the providers at each moment: an application may set its
    global ones later.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        traces: bool = True,
        metrics: bool = True,
    ) -> None:
        """
        :param tracer_provider: makes the spans; None for the global one.
        :param meter_provider: has the histograms; None for the global one.
        :param propagator: reads and writes the metadata that a trace travels in; None for the
            global one, which is W3C's trace context and baggage unless the application, or
            ``OTEL_PROPAGATORS``, says otherwise.
        :param traces: whether to make spans, and to pass traces on.
        :param metrics: whether to measure calls.
        :raises TypeError: for a value of a wrong type.
        """
        for name, value, kind in (
            ("tracer_provider", tracer_provider, TracerProvider),
            ("meter_provider", meter_provider, MeterProvider),
            ("propagator", propagator, TextMapPropagator),
        ):
            if value is not None:
                _check.instance(name, value, kind, f"a {kind.__name__} or None")
        _check.boolean("traces", traces)
        _check.boolean("metrics", metrics)
        self._extract = extract if propagator is None else propagator.extract
        self._inject = inject if propagator is None else propagator.inject
        version = importlib.metadata.version("txzmq")
        self._tracer: Tracer | None = None
        if traces:
            self._tracer = get_tracer(__name__, version, tracer_provider, SCHEMA_URL)
        self._client_seconds: Histogram | None = None
        self._server_seconds: Histogram | None = None
        if metrics:
            meter = get_meter(__name__, version, meter_provider, SCHEMA_URL)
            self._client_seconds = _histogram(meter, CLIENT_SECONDS)
            self._server_seconds = _histogram(meter, SERVER_SECONDS)
        # Of the calls that have begun and not ended; when their spans did, by the wall's clock.
        self._spans: dict[StartedCall, tuple[Span, int]] = {}
        # Of those channels and servers that are not closed.
        self._sources: dict[Watched, _Source] = {}

    # -- what it is told ---------------------------------------------------------------------

    def started(self, source: Watched) -> None:
        """Know a channel or server."""
        self._sources[source] = _Source(source)

    def stopped(self, source: Watched) -> None:
        """Forget it."""
        self._sources.pop(source, None)

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """Begin a span: on a client pass it on, on a server make it the active one."""
        tracer = self._tracer
        if tracer is None:
            return
        method = self._method(source, call)
        attributes, now = method.attributes, time_ns()
        if call.side is _CLIENT:
            span = tracer.start_span(method.name, None, SpanKind.CLIENT, attributes, None, now)
            self._spans[call] = span, now
            carrier: dict[str, str] = {}
            self._inject(carrier, set_span_in_context(span), _SETTER)
            if carrier:
                carrier = _fitting(carrier, call.metadata, self._source(source).metadata_size)
                # What the caller has of another trace would be read in place of this one.
                call.add_metadata(carrier, replace=True)
            return
        if call.peer or not call.known:
            attributes = {**attributes, **_about(call)}
        # From an empty context: what the reactor happens to run in has nothing to do with the call.
        context, failed = Context(), None
        if call.metadata:
            try:
                context = self._extract(call.metadata, context, _GETTER)
            except Exception as error:  # noqa: BLE001 - of a propagator; raised below
                failed = error
        span = tracer.start_span(method.name, context, SpanKind.SERVER, attributes, None, now)
        self._spans[call] = span, now
        # Never detached: it is told in a context of the call's own.
        attach(set_span_in_context(span, context))
        if failed is not None:
            raise failed

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """End the span, and measure the call."""
        ending = self._method(source, record).ending(record.code)
        context, begun = _NO_SPAN, self._spans.pop(record, None)
        try:
            if begun is not None:
                span, began = begun
                if span.is_recording():
                    context = set_span_in_context(span)
                    self._end(source, record, ending, span)
                    # Its duration is the metric's, by a clock that nobody sets.
                    span.end(began + int(record.seconds * 1e9))
        finally:  # a processor of spans may have raised
            seconds = self._client_seconds if record.side is _CLIENT else self._server_seconds
            if seconds is not None:
                seconds.record(record.seconds, ending.of_metrics, context)

    def _end(self, source: Watched, record: CallRecord, ending: _Ending, span: Span) -> None:
        """Say how a call has ended."""
        attributes: _Attributes = {}
        if record.side is _CLIENT:
            if record.peer:
                attributes.update(self._source(source).server(record.peer))
            if record.sent != 1:
                attributes[ATTEMPTS] = record.sent
        elif record.metadata and record.attempts > 1:
            attributes[ATTEMPTS] = record.attempts
        if record.kind is not _UNARY:
            attributes[REQUESTS], attributes[RESPONSES] = record.requests, record.responses
        span.set_attributes({**ending.of_spans, **attributes} if attributes else ending.of_spans)
        if ending.is_error:
            span.set_status(StatusCode.ERROR, record.message[:_MOST_OF_A_MESSAGE] or None)

    def _source(self, source: Watched) -> _Source:
        # A channel tells of calls that are made when it is closed, too.
        return self._sources.get(source) or _Source(source)

    def _method(self, source: Watched, call: StartedCall) -> _Method:
        return self._source(source).method(call)


class _Source:
    """What the spans and metrics of one channel or server have in common, made once.

    :ivar metadata_size: bytes that the metadata of a channel's call may cost.
    """

    __slots__ = ("_methods", "_servers", "_system", "_target", "metadata_size")

    def __init__(self, source: Watched) -> None:
        target = getattr(source, "target", "")
        self.metadata_size: int = getattr(source, "metadata_size", METADATA_SIZE)
        self._target = _server_of(target) if isinstance(target, str) else {}
        # A channel to servers of gRPC's says so.
        self._system: str = getattr(source, "rpc_system", SYSTEM)
        # By path; the empty one is that of all which the server does not have.
        self._methods: dict[str, _Method] = {}
        # By the address that a call went to.
        self._servers: dict[str, _Attributes] = {}

    def method(self, call: StartedCall) -> _Method:
        """Where a call belongs."""
        path = call.method if call.known else ""
        method = self._methods.get(path)
        if method is None:
            common = {SYSTEM_NAME: self._system, **self._target}
            method = _Method(path, is_client=call.side is _CLIENT, common=common)
            if len(self._methods) < _MOST:
                self._methods[path] = method
        return method

    def server(self, address: str) -> _Attributes:
        """Attributes of the server that a call went to."""
        found = self._servers.get(address)
        if found is None:
            if len(self._servers) >= _MOST:
                self._servers.clear()
            server = _server_of(address)
            names = ((SERVER_ADDRESS, PEER_ADDRESS), (SERVER_PORT, PEER_PORT))
            found = {new: server[name] for name, new in names if name in server}
            self._servers[address] = found
        return found


class _Method:
    """What the calls of one method have in common.

    :ivar name: of their spans.
    :ivar attributes: that their spans begin with.
    """

    __slots__ = ("_endings", "_errors", "attributes", "name")

    def __init__(self, path: str, *, is_client: bool, common: _Attributes) -> None:
        """
        :param path: empty for methods that the server does not have.
        :param common: attributes of all methods of the channel or server.
        """
        method = path.removeprefix("/") or OTHER
        self.name = SYSTEM if method == OTHER else method
        self.attributes: _Attributes = {METHOD: method, **common}
        self._errors = CLIENT_ERRORS if is_client else SERVER_ERRORS
        # By the number of the code.
        self._endings: list[_Ending | None] = [None] * (max(Code) + 1)

    def ending(self, code: Code) -> _Ending:
        """What those have in common that end with a code."""
        found = self._endings[code]
        if found is None:
            found = self._endings[code] = _Ending(self.attributes, code, code in self._errors)
        return found


class _Ending:
    """What the calls of one method that end with one code have in common.

    :ivar is_error: whether that is an error for this side.
    :ivar of_spans: attributes that their spans get at the end.
    :ivar of_metrics: attributes by which they are measured.
    """

    __slots__ = ("is_error", "of_metrics", "of_spans")

    def __init__(self, beginning: _Attributes, code: Code, is_error: bool) -> None:
        self.is_error = is_error
        self.of_spans: _Attributes = {STATUS_CODE: code.name}
        if is_error:
            self.of_spans[ERROR_TYPE] = code.name
        self.of_metrics: _Attributes = {**beginning, **self.of_spans}


class _MetadataGetter(Getter[Metadata]):
    """Reads the metadata of a request, of which only text concerns propagators."""

    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        key = key.lower()
        values = [value for name, value in carrier if name == key and isinstance(value, str)]
        return values or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [key for key, _ in carrier]


class _MetadataSetter(Setter[dict[str, str]]):
    """Keys of metadata are in lower case; some propagators' are not."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key.lower()] = value


# Any: the API's functions take either for a carrier of any type.
_GETTER: Final[Any] = _MetadataGetter()
_SETTER: Final[Any] = _MetadataSetter()
#: Where a call has no span, or one that is not sampled.
_NO_SPAN: Final = Context()


def _fitting(carrier: dict[str, str], own: Metadata, limit: int) -> dict[str, str]:
    """What of a trace there is room for besides what the caller sends: the first that fit.

    A call must not fail for the baggage that somebody else has sent. A half of the limit is left to
    what is added later, such as a token.
    """
    left = limit
    for key, value in own:
        if key not in carrier:
            left -= PAIR_OVERHEAD + len(key) + len(value)
    left = min(left, limit // 2)
    fitting: dict[str, str] = {}
    for key, value in carrier.items():
        cost = PAIR_OVERHEAD + len(key) + len(value)
        if cost <= left:
            left -= cost
            fitting[key] = value
    return fitting


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    return meter.create_histogram(*instrument, explicit_bucket_boundaries_advisory=SECONDS_BUCKETS)


def _about(call: StartedCall) -> _Attributes:
    """What a span says of a call that a server has got."""
    about: _Attributes = {}
    if call.peer:
        about[CLIENT_ADDRESS] = about[PEER_ADDRESS] = call.peer
    if not call.known:
        about[METHOD_ORIGINAL] = call.method.removeprefix("/")[:_MOST_OF_A_PATH]
    return about


def _server_of(target: str) -> _Attributes:
    """The attributes of a server, or of several, by their addresses or their name.

    :param target: an address, several with commas between, or a name for DNS.
    """
    places = [_place(address) for address in target.split(",") if address]
    if not places:
        return {}
    found: _Attributes = {SERVER_ADDRESS: ",".join(dict.fromkeys(host for host, _ in places))}
    ports = {port for _, port in places}
    if len(ports) == 1 and (port := ports.pop()).isdecimal():
        found[SERVER_PORT] = int(port)
    return found


def _place(address: str) -> tuple[str, str]:
    """Host and port of an address, as they are written; the port is empty where there is none."""
    scheme, _, place = address.partition(":")
    place = place.removeprefix("//")
    if place.isdecimal() or address.startswith("["):  # a target of gRPC's, which has no scheme
        place = address
    elif scheme in ("dns", "dns+srv"):
        place = place.rpartition("/")[2]  # after the DNS server
    elif scheme in ("ipv4", "ipv6"):
        pass
    elif scheme == "tcp":
        place = place.rpartition(";")[2]  # after the address to connect from
    else:
        return place or address, ""
    host, _, port = place.rpartition(":")
    return (host.strip("[]"), port) if host else (place, "")
