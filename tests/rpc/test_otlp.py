"""A collector made of OpenTelemetry's own messages gets what its own exporter sends."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.programs import running
from tests.support import Loop

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="nor its exporter")
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class Collector(Resource):
    """Takes what is exported by OTLP over HTTP."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.traces: list[Any] = []
        self.metrics: list[Any] = []

    def render_POST(self, request: Any) -> bytes:
        body = request.content.read()
        if request.getHeader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert request.getHeader("content-type") == "application/x-protobuf"
        request.setHeader("content-type", "application/x-protobuf")
        if request.path == b"/v1/traces":
            self.traces += ExportTraceServiceRequest.FromString(body).resource_spans
            return ExportTraceServiceResponse().SerializeToString()
        assert request.path == b"/v1/metrics"
        self.metrics += ExportMetricsServiceRequest.FromString(body).resource_metrics
        return ExportMetricsServiceResponse().SerializeToString()


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def test_a_collector_gets_one_trace_over_two_servers_and_the_metrics(one_loop: Loop) -> None:
    loop, collector = one_loop, Collector()

    async def main() -> None:
        port = loop.reactor.listenTCP(0, Site(collector), interface="127.0.0.1")  # type: ignore[no-untyped-call]  # Twisted's
        url = f"http://127.0.0.1:{port.getHost().port}"
        with running("-m", "tests.rpc.exporting", url) as program:
            await loop.until(lambda: program.process.poll() is not None)
            assert program.wait() == 0, program
        assert program.output == ["x"]
        await port.stopListening()

    loop.run(main)

    (of_traces,) = collector.traces
    assert attributes(of_traces.resource)["service.name"] == "exporting"
    (scope,) = of_traces.scope_spans
    assert scope.scope.name == "txzmq.rpc.otel"
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.45.0"
    spans = {span.span_id: span for span in scope.spans}
    assert len({span.trace_id for span in spans.values()}) == 1

    def line(span: Any) -> str:
        above = spans.get(span.parent_span_id)
        what = f"{Span.SpanKind.Name(span.kind).removeprefix('SPAN_KIND_')} {span.name[-5:]}"
        return what if above is None else f"{line(above)} > {what}"

    first = "CLIENT /Echo"
    served = f"{first} > SERVER /Echo"
    assert sorted(map(line, spans.values()), key=lambda each: (each.count(">"), each)) == [
        first,
        served,
        f"{served} > CLIENT /Echo",
        f"{served} > CLIENT Other",
        f"{served} > CLIENT /Echo > SERVER /Echo",
        f"{served} > CLIENT Other > SERVER Other",
    ]
    failed = [span for span in spans.values() if span.status.code == Status.STATUS_CODE_ERROR]
    assert [(span.kind, span.status.message) for span in failed] == [
        (Span.SPAN_KIND_CLIENT, "nobody of that name")
    ]

    (of_metrics,) = collector.metrics
    points = {
        (metric.name, *sorted(attributes(point).items())): (metric.unit, point)
        for scope in of_metrics.scope_metrics
        for metric in scope.metrics
        for point in metric.histogram.data_points
    }
    assert len(points) == 5  # of the client three: the two channels have a target each
    assert {unit for unit, _ in points.values()} == {"s"}
    assert sum(point.count for _, point in points.values()) == 6
    trace = next(iter(spans.values())).trace_id
    assert {it.trace_id for _, point in points.values() for it in point.exemplars} == {trace}
