"""What propagators, processors and strangers do to a call that is traced: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, World, made, text
from tests.rpc.telescope import Telescope
from tests.support import Logged, error_of
from txzmq.rpc import Channel, Code, Context, Internal
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.metadata import check_size

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry import baggage, context
from opentelemetry.context import attach, detach, get_current
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, get_current_span

Worlds = Callable[..., World]
#: That of a stranger; a server takes it.
LARGE = ",".join(f"k{number}={'b' * 400}" for number in range(18))
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    yield from made(World)


class PassingOn(Echo):
    """Calls OTHER for a request of ECHO."""

    def __init__(self, metadata: dict[str, str]) -> None:
        super().__init__()
        self.metadata = metadata
        self.channel: Channel | None = None

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        assert self.channel is not None
        answer: StringValue = await self.channel.unary_unary(OTHER, request, metadata=self.metadata)
        return answer


@pytest.mark.parametrize("size", [0, 1_000, 8_030, 8_150])
def test_baggage_of_a_stranger_ends_no_call_that_a_handler_makes(worlds: Worlds, size: int) -> None:
    telescope = Telescope()
    service = PassingOn({"token": "t" * size})
    world = worlds(service, observer=telescope.telemetry)
    service.channel = world.channel
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    stranger = (("traceparent", PARENT), ("tracestate", "a=b"), ("baggage", LARGE))
    assert check_size(stranger, 8_192)
    number = raw.request(RequestHead(ECHO.path, None, stranger))
    world.network.run()
    assert raw.replies()[number][0].code is Code.OK
    (nested,) = [each for each in service.contexts if each.method == OTHER.path]
    assert [key for key, _ in nested.metadata] == ["token"] + {
        0: ["traceparent", "tracestate"],
        1_000: ["traceparent", "tracestate"],
        8_030: ["traceparent"],
        8_150: [],
    }[size]
    raw.transport.close()


@pytest.mark.parametrize(("limit", "expected"), [(16_384, 1), (8_192, 0)])
def test_there_is_as_much_room_as_the_channel_has(
    worlds: Worlds, limit: int, expected: int
) -> None:
    telescope = Telescope()
    world = worlds(observer=telescope.telemetry)
    channel = Channel(world.network, ADDRESS, observer=telescope.telemetry, metadata_size=limit)
    token = attach(baggage.set_baggage("k", "b" * 4_080))
    try:
        world.network.result(channel.unary_unary(ECHO, text("x")))
    finally:
        detach(token)
    (seen,) = world.service.contexts
    assert [key for key, _ in seen.metadata] == ["traceparent", "baggage"][: 1 + expected]
    channel.close()


# Any: carriers of any type.
class Propagator(TextMapPropagator):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where

    def extract(
        self, carrier: Any, context: context.Context | None = None, getter: Any = None
    ) -> context.Context:
        if self.where == "extract":
            raise ValueError("extract")
        return get_current() if context is None else context

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        if self.where == "inject":
            raise ValueError("inject")
        setter.set(carrier, "x-trace", "1")

    @property
    def fields(self) -> set[str]:
        return {"x-trace"}


class Active(Echo):
    """Notes whether there is an active span."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[bool] = []

    def note(self, request: StringValue, context: Context) -> None:
        self.active.append(get_current_span().get_span_context().is_valid)


@pytest.mark.parametrize("where", ["extract", "inject"])
def test_a_propagator_that_raises_costs_no_span(worlds: Worlds, logged: Logged, where: str) -> None:
    telescope = Telescope(propagator=Propagator(where))
    service = Active()
    world = worlds(service, observer=telescope.telemetry)
    assert world.network.result(world.call("x")) == text("x")
    assert len(telescope.of(SpanKind.CLIENT)) == len(telescope.of(SpanKind.SERVER)) == 1
    assert service.active == [True]
    assert [str(error) for error in logged.failures()] == [where]


class Processor(SpanProcessor):
    """Raises at the beginning or the end of each span."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        if self.where == "start":
            raise ValueError("start")

    def on_end(self, span: ReadableSpan) -> None:
        if self.where == "end":
            raise ValueError("end")


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_processor_that_raises_leaves_nothing_and_calls_are_measured(
    worlds: Worlds, logged: Logged, where: str
) -> None:
    telescope = Telescope()
    telescope.tracer_provider.add_span_processor(Processor(where))
    world = worlds(observer=telescope.telemetry)
    assert world.network.result(world.call("x")) == text("x")
    assert world.network.result(world.call("x", method=OTHER).addErrback(error_of))
    counts = [point.count for points in telescope.points().values() for point in points]
    assert counts == [1, 1, 1, 1]
    assert {str(error) for error in logged.failures()} == {where}


def test_a_message_that_is_long_is_cut(worlds: Worlds) -> None:
    class Long(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise Internal("x" * 100_000)

    telescope = Telescope()
    world = worlds(Long(), observer=telescope.telemetry)
    world.network.result(world.call("x").addErrback(error_of))
    lengths = [len(span.status.description or "") for span in telescope.both()]
    assert lengths == [1_024, 1_024]
