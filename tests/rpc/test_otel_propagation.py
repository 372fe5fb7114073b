"""How a trace travels in metadata, whatever peers send; and what OpenTelemetry's meter measures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.programs import ROOT
from tests.rpc.service import ECHO, Echo, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.rpc.telescope import Telescope, id_of, parent_of
from tests.support import error_of, examples
from txzmq.rpc import CallRecord, Channel, Code, Context, Kind, Server, Side, StartedCall
from txzmq.testing import MemoryNetwork

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry import baggage, context
from opentelemetry.context import attach, detach
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from txzmq.rpc.otel import Telemetry

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"


@pytest.fixture
def telescope() -> Iterator[Telescope]:
    telescope = Telescope()
    yield telescope
    telescope.close()


@pytest.fixture
def echoing(telescope: Telescope) -> Iterator[Callable[..., EchoWorld]]:
    yield from made(EchoWorld)


class Noting(Echo):
    """Notes what is active where it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.baggage: list[Mapping[str, object]] = []
        self.states: list[str] = []

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        self.baggage.append(baggage.get_all())
        self.states.append(get_current_span().get_span_context().trace_state.to_header())
        return request


def test_state_and_baggage_travel_by_the_global_propagator(
    telescope: Telescope, echoing: Any
) -> None:
    world = echoing(Noting(), observer=telescope.telemetry)
    remote = SpanContext(TRACE, SPAN, True, TraceFlags(1), TraceState([("vendor", "x")]))
    token = attach(
        baggage.set_baggage(
            "tenant", "ä b", set_span_in_context(NonRecordingSpan(remote), context.Context())
        )
    )
    try:
        world.network.result(world.call("x"))
    finally:
        detach(token)
    client, _ = telescope.both()
    assert parent_of(client) == (TRACE, SPAN)
    assert world.service.states == ["vendor=x"]
    assert world.service.baggage == [{"tenant": "ä b"}]
    assert dict(world.service.contexts[0].metadata) == {
        "traceparent": f"00-{TRACE:032x}-{id_of(client)[1]:016x}-01",
        "tracestate": "vendor=x",
        "baggage": "tenant=%C3%A4+b",
    }
    assert baggage.get_all() == {}


def test_what_a_caller_has_of_another_trace_is_replaced(telescope: Telescope, echoing: Any) -> None:
    """As where a handler passes on the metadata that it has got."""
    world = echoing(observer=telescope.telemetry)
    world.network.result(world.call("x", metadata={"traceparent": PARENT, "k": "v"}))
    client, _ = telescope.both()
    (served,) = world.service.contexts
    assert [key for key, _ in served.metadata] == ["k", "traceparent"]
    assert parent_of(client) is None


def serve(telescope: Telescope, metadata: Any) -> Any:
    """The span of a call on a server whose client knows nothing of traces."""
    network = MemoryNetwork()
    service = Noting()
    server = Server(network, [service], observer=telescope.telemetry)
    channel = Channel(network, server.listen("inproc://x"))
    network.result(channel.unary_unary(ECHO, text("x"), metadata=metadata))
    channel.close()
    server.stop(0)
    network.advance(1)
    return telescope.spans[-1]


def test_a_trace_that_a_peer_has_begun_goes_on(telescope: Telescope) -> None:
    span = serve(telescope, {"traceparent": PARENT})
    assert parent_of(span) == (TRACE, SPAN)
    assert span.parent.is_remote


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"traceparent": ""},
        {"traceparent": "nonsense"},
        {"traceparent": PARENT[:-1]},
        {"traceparent": f"ff{PARENT[2:]}"},
        {"traceparent": f"{PARENT}-more"},
        {"traceparent": PARENT.upper()},
        {"traceparent": f"00-{0:032x}-{SPAN:016x}-01"},
        {"traceparent": f"00-{TRACE:032x}-{0:016x}-01"},
        {"traceparent": "0" * 5_000},
        {"traceparent-bin": PARENT.encode()},
        {"tracestate": "vendor=x"},
        {"baggage": "=;=,,%%%"},
    ],
    ids=str,
)
def test_what_is_no_context_of_a_trace_begins_a_new_one(
    telescope: Telescope, metadata: Any, logged: Any
) -> None:
    # Around the server, something is active that has nothing to do with the call.
    with telescope.tracer.start_as_current_span("around"):
        span = serve(telescope, metadata)
    assert span.parent is None
    assert span.attributes["rpc.status_code"] == "OK"
    assert logged.failures() == []


TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80)
PARENTS = TEXTS | st.from_regex(
    r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?", fullmatch=True
).filter(lambda value: value.isascii() and value.isprintable())


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(
        st.tuples(st.just("traceparent"), PARENTS)
        | st.tuples(st.sampled_from(["tracestate", "baggage", "other"]), TEXTS),
        max_size=5,
    )
)
@example([("traceparent", PARENT), ("tracestate", "=,a=b,a=b, =x")])
def test_whatever_a_peer_sends_the_call_has_a_span(metadata: list[tuple[str, str]]) -> None:
    telescope = Telescope()
    call = StartedCall(Side.SERVER, ECHO.path, Kind.UNARY_UNARY, 0.0, tuple(metadata))
    source: Any = object()
    token = attach(context.Context())
    try:
        telescope.telemetry.call_started(source, call)
        # Recorded or not: a peer may say that its trace is not sampled.
        assert get_current_span().get_span_context().is_valid
    finally:
        detach(token)


class Upper(TextMapPropagator):
    """Writes a key in upper case, as B3 and others do, and reads it so."""

    KEY = "X-Trace"

    def extract(
        self,
        carrier: CarrierT,
        context: context.Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> context.Context:
        values = getter.get(carrier, self.KEY)
        assert "x-trace" in getter.keys(carrier)
        assert context is not None
        if values is None:
            return context
        trace, span = values[0].split()
        parent = SpanContext(int(trace), int(span), is_remote=True, trace_flags=TraceFlags(1))
        return set_span_in_context(NonRecordingSpan(parent), context)

    def inject(
        self,
        carrier: CarrierT,
        context: context.Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        it = get_current_span(context).get_span_context()
        setter.set(carrier, self.KEY, f"{it.trace_id} {it.span_id}")

    @property
    def fields(self) -> set[str]:
        return {self.KEY}


def test_another_propagator_may_have_keys_in_upper_case(echoing: Any, telescope: Telescope) -> None:
    other = Telescope(propagator=Upper())
    world = echoing(Noting(), observer=other.telemetry)
    world.network.result(world.call("x"))
    other.both()
    assert [key for key, _ in world.service.contexts[0].metadata] == ["x-trace"]


def test_who_wants_no_baggage_of_strangers_says_which_propagator(echoing: Any) -> None:
    plain = Telescope(propagator=TraceContextTextMapPropagator())
    world = echoing(Noting(), observer=plain.telemetry)
    world.network.result(world.call("x", metadata={"baggage": "tenant=a"}))
    plain.both()
    assert world.service.baggage == [{}]


# -- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_seconds_of_calls_are_measured_by_method_and_code(
    telescope: Telescope, echoing: Any, side: str
) -> None:
    world = echoing(Waiting(), observer=telescope.telemetry)
    calls = [world.call("x", timeout=1).addErrback(error_of) for _ in range(2)]
    world.network.advance(0.25)
    world.service.results[0].callback(text("y"))
    world.network.advance(1)
    assert all(call.called for call in calls)
    points = telescope.points()[f"rpc.{side}.call.duration"]
    by_code = {point.attributes["rpc.status_code"]: point for point in points}
    assert set(by_code) == {"OK", "DEADLINE_EXCEEDED"}
    where = {"server.address": "service"} if side == "client" else {}
    of_call = {"rpc.system.name": "txzmq", "rpc.method": "test.Echo/Echo", **where}
    assert by_code["OK"].attributes == {**of_call, "rpc.status_code": "OK"}
    assert by_code["DEADLINE_EXCEEDED"].attributes == {
        **of_call,
        "rpc.status_code": "DEADLINE_EXCEEDED",
        "error.type": "DEADLINE_EXCEEDED",
    }
    assert (by_code["OK"].count, by_code["OK"].sum) == (1, 0.25)
    assert by_code["OK"].explicit_bounds == (
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    )


def test_a_value_leads_to_its_span(telescope: Telescope, echoing: Any) -> None:
    world = echoing(observer=telescope.telemetry)
    world.network.result(world.call("x"))
    client, server = telescope.both()
    points = telescope.points()
    for side, span in (("client", client), ("server", server)):
        (point,) = points[f"rpc.{side}.call.duration"]
        (exemplar,) = point.exemplars
        assert (exemplar.trace_id, exemplar.span_id) == id_of(span)


@pytest.mark.parametrize("traces", [True, False])
def test_either_of_the_two_may_be_left_out(
    echoing: Any, telescope: Telescope, traces: bool
) -> None:
    one = Telescope(traces=traces, metrics=not traces)
    world = echoing(Noting(), observer=one.telemetry)
    world.network.result(world.call("x"))
    assert len(one.spans) == (2 if traces else 0)
    measured = [] if traces else ["rpc.client.call.duration", "rpc.server.call.duration"]
    assert sorted(one.points()) == measured
    assert len(world.service.contexts[0].metadata) == (1 if traces else 0)


# -- what it says of servers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tcp://10.0.0.1:5000", ("10.0.0.1", 5000)),
        ("tcp://[fe80::1]:5000", ("fe80::1", 5000)),
        ("tcp://eth0:0;greeter:5000", ("greeter", 5000)),
        ("tcp://greeter:5000-5003", ("greeter", None)),
        ("dns:///greeter:5000", ("greeter", 5000)),
        ("dns://10.0.0.53/greeter:5000", ("greeter", 5000)),
        ("dns:greeter:5000", ("greeter", 5000)),
        ("dns+srv:_greeter._tcp.example.org", ("_greeter._tcp.example.org", None)),
        ("ipc:///run/greeter", ("/run/greeter", None)),
        ("inproc://greeter", ("greeter", None)),
        ("tcp://a:1,tcp://b:1,tcp://a:1", ("a,b", 1)),
        ("tcp://a:1,tcp://a:2", ("a", None)),
        ("ConsulResolver", ("ConsulResolver", None)),
        ("", (None, None)),
    ],
)
def test_a_server_is_named_by_its_address(
    telescope: Telescope, target: str, expected: tuple[Any, Any]
) -> None:
    source: Any = Channel(MemoryNetwork(), "inproc://x")
    source._target = target
    telescope.telemetry.started(source)
    record = CallRecord(Side.CLIENT, ECHO.path, Kind.UNARY_UNARY, 0.0)
    telescope.telemetry.call_started(source, record)
    record.complete(Code.OK, "", 1.0, 1, 1, 3, 3, peer=target.partition(",")[0])
    telescope.telemetry.call_ended(source, record)
    telescope.telemetry.stopped(source)
    source.close()
    (span,) = telescope.spans
    found = span.attributes or {}
    assert (found.get("server.address"), found.get("server.port")) == expected
    if "," not in target:
        assert found.get("network.peer.address") == expected[0]
        assert found.get("network.peer.port") == expected[1]


def test_a_channel_says_what_it_is_for() -> None:
    class Consul:
        def start(self, clock: Any, listener: Any) -> None: ...

        def resolve_now(self) -> None: ...

        def close(self) -> None: ...

    network = MemoryNetwork()
    for endpoint, target in (
        ("tcp://a:1-2", "tcp://a:1-2"),
        (["tcp://a:1", "tcp://b:1-2"], "tcp://a:1,tcp://b:1,tcp://b:2"),
        (iter(["tcp://a:1"]), "tcp://a:1"),
        (Consul(), "Consul"),
    ):
        given_endpoint: Any = endpoint
        channel = Channel(network, given_endpoint)
        assert channel.target == target
        channel.close()


def test_wrong_values_are_refused() -> None:
    wrong: Any = object()
    for name, what in (
        ("tracer_provider", "a TracerProvider or None"),
        ("meter_provider", "a MeterProvider or None"),
        ("propagator", "a TextMapPropagator or None"),
        ("traces", "True or False"),
        ("metrics", "True or False"),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be {what}, not"):
            Telemetry(**{name: wrong})


def test_the_extra_is_named_where_it_is_missing() -> None:
    program = "import sys; sys.modules['opentelemetry.trace'] = None; import txzmq.rpc.otel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: txzmq.rpc.otel needs opentelemetry-api 1.39.1 or later: "
        "pip install 'txzmq[otel]'"
    )
