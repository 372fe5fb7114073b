"""What OpenTelemetry's SDK is told of calls: spans of all kinds on both sides, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred, inlineCallbacks

from tests.rpc.retried_calls import HEDGE, IDEMPOTENT, RETRY, config
from tests.rpc.service import ADDRESS, MISSING, Echo, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS, Reader, StreamWorld
from tests.rpc.telescope import Telescope, id_of, parent_of, seconds_of
from tests.support import error_of
from txzmq.rpc import (
    Channel,
    Code,
    Context,
    Kind,
    RpcError,
    Server,
    ServerLimits,
    Unavailable,
)
from txzmq.testing import MemoryNetwork

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

#: What is an error for a server, by the conventions.
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"} | {
    "DATA_LOSS"
}


@pytest.fixture
def telescope() -> Iterator[Telescope]:
    telescope = Telescope()
    yield telescope
    telescope.close()


@pytest.fixture
def echoing(telescope: Telescope) -> Iterator[Callable[..., EchoWorld]]:
    yield from made(EchoWorld)


class World(StreamWorld):
    """Handlers that take a quarter of a second, and end as the test says."""

    def __init__(self, telescope: Telescope, error: Exception | None = None) -> None:
        super().__init__(self.handle, observer=telescope.telemetry)
        self.error = error
        #: The active span whenever a handler has gone on.
        self.active: list[Any] = []

    def handle(self, request: Any, context: Context) -> Any:
        streams = context.method in (COUNT.path, CHAT.path)
        return self.many(request) if streams else self.one(request)

    def note(self) -> None:
        self.active.append(get_current_span().get_span_context())

    async def one(self, request: Any) -> StringValue:
        async for _ in request:
            self.note()
        await self.sleep(0.25)
        self.note()
        if self.error is not None:
            raise self.error
        return text("y")

    async def many(self, request: Any) -> AsyncIterator[StringValue]:
        self.note()
        if not isinstance(request, StringValue):
            async for _ in request:
                self.note()
        yield text("y")
        self.note()
        await self.sleep(0.25)
        self.note()
        if self.error is not None:
            raise self.error
        yield text("z")

    def begin(self, kind: Kind, **options: Any) -> Deferred[Any]:
        """Make a call, and read what comes; fires when that has ended."""
        requests = [text("1"), text("2"), text("3")]
        if kind is Kind.STREAM_UNARY:
            return self.collect(requests, **options).addErrback(error_of)
        if kind is Kind.UNARY_STREAM:
            return Reader(self.open("x", **options)).done
        return Reader(self.chat(requests, **options)).done


KINDS = {Kind.UNARY_STREAM: COUNT, Kind.STREAM_UNARY: COLLECT, Kind.STREAM_STREAM: CHAT}


@pytest.fixture
def worlds(telescope: Telescope) -> Iterator[Callable[..., World]]:
    yield from made(partial(World, telescope))


def test_a_unary_call_is_a_span_on_each_side_of_one_trace(
    telescope: Telescope, echoing: Any
) -> None:
    world = echoing(observer=telescope.telemetry)
    world.network.result(world.call("x"))
    client, server = telescope.both()
    assert parent_of(client) is None
    assert client.name == server.name == "test.Echo/Echo"
    assert client.attributes == {
        "rpc.system.name": "txzmq",
        "rpc.method": "test.Echo/Echo",
        "rpc.status_code": "OK",
        "server.address": "service",
        "network.peer.address": "service",
    }
    assert server.attributes == {
        "rpc.system.name": "txzmq",
        "rpc.method": "test.Echo/Echo",
        "rpc.status_code": "OK",
        "client.address": "memory",
        "network.peer.address": "memory",
    }
    for span in (client, server):
        assert span.status.status_code is StatusCode.UNSET
        assert span.events == ()
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "txzmq.rpc.otel"
        assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.45.0"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_a_stream_is_a_span_from_its_beginning_to_its_true_end(
    telescope: Telescope, worlds: Any, kind: Kind
) -> None:
    world = worlds()
    call = world.begin(kind)
    world.network.run()
    assert telescope.spans == []
    world.network.advance(0.25)
    world.network.result(call)
    for span in telescope.both():
        assert span.name == KINDS[kind].path[1:]
        assert seconds_of(span) == 0.25
        assert span.attributes is not None
        assert span.attributes["txzmq.requests"] == (1 if kind is Kind.UNARY_STREAM else 3)
        assert span.attributes["txzmq.responses"] == (1 if kind is Kind.STREAM_UNARY else 2)
    # Each step of the handler, however it goes on.
    assert len(world.active) >= 3
    assert {(one.trace_id, one.span_id) for one in world.active} == {id_of(telescope.both()[1])}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_a_caller_that_cancels_ends_both_spans(
    telescope: Telescope, worlds: Any, kind: Kind
) -> None:
    world = worlds()
    call = world.begin(kind)
    world.network.advance(0.125)
    call.cancel()
    world.network.run()
    client, server = telescope.both()
    for span in (client, server):
        assert span.attributes is not None
        assert span.attributes["rpc.status_code"] == "CANCELLED"
        assert seconds_of(span) == 0.125
    # An error for who calls, and none of the server's.
    assert client.status.status_code is StatusCode.ERROR
    assert server.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_a_deadline_ends_both_spans(telescope: Telescope, worlds: Any, kind: Kind) -> None:
    world = worlds()
    world.begin(kind, timeout=0.125)
    world.network.advance(0.25)
    for span in telescope.both():
        assert span.attributes is not None
        assert span.attributes["error.type"] == "DEADLINE_EXCEEDED"
        assert span.status.status_code is StatusCode.ERROR
        assert seconds_of(span) == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize("code", [code for code in Code if code], ids=lambda code: code.name)
def test_codes_are_errors_as_the_conventions_say(
    telescope: Telescope, echoing: Any, code: Code
) -> None:
    class Failing(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise RpcError(code, "so it is")

    world = echoing(Failing(), observer=telescope.telemetry)
    world.network.result(world.call("x").addErrback(error_of))
    client, server = telescope.both()
    for span, is_error in ((client, True), (server, code.name in SERVER_ERRORS)):
        assert span.attributes is not None
        assert span.attributes["rpc.status_code"] == code.name
        assert span.attributes.get("error.type") == (code.name if is_error else None)
        assert span.status.is_ok is not is_error
        assert span.status.description == ("so it is" if is_error else None)


def test_a_span_says_no_more_of_a_handlers_exception_than_its_caller_is_told(
    telescope: Telescope, worlds: Any, logged: Any
) -> None:
    world = worlds(error=LookupError("the password is x"))
    world.begin(Kind.STREAM_UNARY)
    world.network.advance(0.25)
    for span in telescope.both():
        assert span.status.status_code is StatusCode.ERROR
        assert "password" not in span.to_json()
    assert len(logged.failures()) == 1


def test_a_refused_call_is_a_span_too(telescope: Telescope, echoing: Any) -> None:
    limits = ServerLimits(running=1, queued=0)
    world = echoing(Waiting(), observer=telescope.telemetry, limits=limits)
    world.call("x").addErrback(error_of)
    refused = world.call("x").addErrback(error_of)
    assert world.network.result(refused).code is Code.RESOURCE_EXHAUSTED
    client, server = telescope.both()
    for span in (client, server):
        assert span.attributes is not None
        assert span.attributes["rpc.status_code"] == "RESOURCE_EXHAUSTED"


def test_a_call_that_never_left_its_client_is_a_span_of_that_alone(
    telescope: Telescope, echoing: Any
) -> None:
    world = echoing(observer=telescope.telemetry)
    world.channel.close()
    world.network.result(world.call("x").addErrback(error_of))
    (span,) = telescope.spans
    assert span.kind is SpanKind.CLIENT
    assert span.attributes is not None
    assert span.attributes["rpc.status_code"] == "UNAVAILABLE"
    assert span.attributes["server.address"] == "service"
    assert span.attributes["txzmq.attempts"] == 0
    assert "network.peer.address" not in span.attributes


def test_an_unknown_method_makes_no_name_and_no_label(telescope: Telescope, echoing: Any) -> None:
    world = echoing(observer=telescope.telemetry)
    world.network.result(world.call("x", method=MISSING).addErrback(error_of))
    _, server = telescope.both()
    assert server.name == "txzmq"
    assert server.attributes is not None
    assert server.attributes["rpc.method"] == "_OTHER"
    assert server.attributes["rpc.method_original"] == "test.Echo/Missing"
    (point,) = telescope.points()["rpc.server.call.duration"]
    assert point.attributes["rpc.method"] == "_OTHER"
    assert "rpc.method_original" not in point.attributes


# -- several calls -------------------------------------------------------------------------------


def test_nested_calls_over_two_servers_are_one_trace(telescope: Telescope, echoing: Any) -> None:
    inner = echoing(observer=telescope.telemetry)

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            with telescope.tracer.start_as_current_span("in the handler"):
                await inner.call("1")
            reply: StringValue = await inner.call("2")
            return reply

    outer = echoing(Outer(), observer=telescope.telemetry)
    with telescope.tracer.start_as_current_span("outermost"):
        call = outer.call("x")
    for _ in range(4):
        outer.network.run()
        inner.network.run()
    assert outer.network.result(call).value == "2"
    spans = {id_of(span): span for span in telescope.spans}
    assert len({trace for trace, _ in spans}) == 1

    def line(span: Any) -> list[str]:
        parent = parent_of(span)
        above = [] if parent is None else line(spans[parent])
        return [*above, span.name if span.kind is SpanKind.INTERNAL else span.kind.name]

    served = ["outermost", "CLIENT", "SERVER"]
    assert sorted(map(line, telescope.spans), key=len) == [
        *(served[:length] for length in (1, 2, 3)),
        *([*served, name] for name in ("in the handler", "CLIENT")),
        *([*served, *names] for names in (("in the handler", "CLIENT"), ("CLIENT", "SERVER"))),
        [*served, "in the handler", "CLIENT", "SERVER"],
    ]
    assert not get_current_span().get_span_context().is_valid


class Failing(Echo):
    """Fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def echo(self, request: StringValue, context: Context) -> Any:
        self.note(request, context)
        if len(self.seen) <= self.failures:
            raise Unavailable("not now")
        return request


@pytest.mark.parametrize(
    ("policy", "failures", "attempts"), [(RETRY, 2, 3), (HEDGE, 1, 2)], ids=["retried", "hedged"]
)
def test_attempts_are_one_span_of_the_client_and_each_one_of_a_server(
    telescope: Telescope, policy: Any, failures: int, attempts: int
) -> None:
    network = MemoryNetwork()
    server = Server(network, [Failing(failures)], observer=telescope.telemetry)
    channel = Channel(
        network,
        server.listen(ADDRESS),
        observer=telescope.telemetry,
        service_config=config(policy),
    )
    call = channel.unary_unary(IDEMPOTENT, text("x"))
    network.advance(5)
    network.result(call)
    (client,) = telescope.of(SpanKind.CLIENT)
    assert client.attributes is not None
    assert client.attributes["txzmq.attempts"] == attempts
    assert client.attributes["rpc.status_code"] == "OK"
    servers = telescope.of(SpanKind.SERVER)
    assert [parent_of(span) for span in servers] == [id_of(client)] * attempts
    numbers = [(span.attributes or {}).get("txzmq.attempts") for span in servers]
    assert numbers == [None, *range(2, attempts + 1)]
    channel.close()
    server.stop(0)
    network.advance(1)


def test_calls_that_share_a_stream_are_a_span_each_and_its_run_is_in_none(
    telescope: Telescope,
) -> None:
    active: list[bool] = []

    async def tick(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(2):
            active.append(get_current_span().get_span_context().is_valid)
            yield text(str(number))
            await world.sleep(1)

    world = StreamWorld(tick, observer=telescope.telemetry)
    readers = [Reader(world.channel.unary_stream(TICKS, text("x"))) for _ in range(2)]
    world.network.advance(3)
    assert all(reader.ended == "well" for reader in readers)
    clients, servers = telescope.of(SpanKind.CLIENT), telescope.of(SpanKind.SERVER)
    assert sorted(map(id_of, clients)) == sorted(parent_of(span) or (0, 0) for span in servers)
    assert [seconds_of(span) for span in servers] == [2, 2]
    assert active == [False, False]
    world.close()


def test_a_span_that_is_not_sampled_is_passed_on_and_measured(
    echoing: Any, telescope: Telescope
) -> None:
    unseen = Telescope(ALWAYS_OFF)

    class Seeing(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            self.note(request, context)
            span = get_current_span()
            assert not span.is_recording()
            return text(f"{span.get_span_context().trace_id:032x}")

    world = echoing(Seeing(), observer=unseen.telemetry)
    trace = world.network.result(world.call("x")).value
    ((_, traceparent),) = world.service.contexts[0].metadata
    assert traceparent.startswith(f"00-{trace}-")
    # Not sampled; other flags are the SDK's.
    assert int(traceparent[-2:], 16) & 1 == 0
    assert unseen.spans == []
    (point,) = unseen.points()["rpc.server.call.duration"]
    assert (point.count, list(point.exemplars)) == (1, [])
    world.channel.close()


def test_a_reader_that_forgets_its_stream_ends_the_span(telescope: Telescope, worlds: Any) -> None:
    world = worlds()
    stream = world.open("x")
    world.network.run()
    del stream
    gc.collect()  # PyPy does not count references
    world.network.run()
    for span in telescope.both():
        assert (span.attributes or {})["rpc.status_code"] == "CANCELLED"


def test_inline_callbacks_keep_the_active_span(telescope: Telescope, echoing: Any) -> None:
    inner = echoing(observer=telescope.telemetry)

    class Inline(Echo):
        @inlineCallbacks
        def echo(self, request: StringValue, context: Context) -> Generator[Any, Any, StringValue]:
            yield inner.call("1")
            reply: StringValue = yield inner.call("2")
            return reply

    outer = echoing(Inline(), observer=telescope.telemetry)
    call = outer.call("x")
    for _ in range(4):
        outer.network.run()
        inner.network.run()
    outer.network.result(call)
    (server,) = (span for span in telescope.of(SpanKind.SERVER) if span == telescope.spans[-2])
    children = [span for span in telescope.spans if parent_of(span) == id_of(server)]
    assert [span.kind for span in children] == [SpanKind.CLIENT] * 2


def test_callbacks_of_a_deferred_have_no_active_span(telescope: Telescope, echoing: Any) -> None:
    """As they have no current_context(): they run wherever the Deferred is fired."""
    active: list[Any] = []
    later: Deferred[None] = Deferred()

    class Later(Echo):
        def echo(self, request: StringValue, context: Context) -> Any:
            active.append(get_current_span().get_span_context().is_valid)

            def go_on(_: None) -> StringValue:
                active.append(get_current_span().get_span_context().is_valid)
                return request

            return later.addCallback(go_on)

    world = echoing(Later(), observer=telescope.telemetry)
    call = world.call("x")
    world.network.run()
    later.callback(None)
    world.network.result(call)
    assert active == [True, False]
