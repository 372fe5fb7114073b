"""OpenTelemetry's SDK with what it has made kept in memory."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler
from opentelemetry.trace import SpanKind

from txzmq.rpc.otel import Telemetry


class Telescope:
    """A ``Telemetry``, and what it has told OpenTelemetry."""

    def __init__(self, sampler: Sampler = DEFAULT_ON, **options: Any) -> None:
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("tests")
        self._reader = InMemoryMetricReader()
        meter_provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(
            tracer_provider=self.tracer_provider, meter_provider=meter_provider, **options
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is kind]

    def both(self) -> tuple[ReadableSpan, ReadableSpan]:
        """The one span of a client, and the one of a server; the latter is the child."""
        (client,), (server,) = self.of(SpanKind.CLIENT), self.of(SpanKind.SERVER)
        assert parent_of(server) == id_of(client)
        assert id_of(server)[0] == id_of(client)[0]
        return client, server

    def points(self) -> dict[str, list[Any]]:
        """The data points of each metric; examples of values are there once only."""
        data: Any = self._reader.get_metrics_data()
        if data is None:  # nothing was measured
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def close(self) -> None:
        """Nothing is kept of calls that have ended, nor of channels and servers that are closed."""
        kept: Any = self.telemetry
        assert kept._spans == {}
        assert kept._sources == {}


def id_of(span: ReadableSpan) -> tuple[int, int]:
    """Of its trace, and its own."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def seconds_of(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9
