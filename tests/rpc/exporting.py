"""A program that exports what it does by OTLP: ``python -m tests.rpc.exporting URL``.

It sets OpenTelemetry up as an application does, makes calls of two servers in memory, and ends.
"""

from __future__ import annotations

import sys

from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.rpc.service import ECHO, OTHER, Echo, text
from tests.support import error_of
from txzmq.rpc import Channel, Context, NotFound, Server
from txzmq.rpc.otel import Telemetry
from txzmq.testing import MemoryNetwork


class Inner(Echo):
    def other(self, request: StringValue, context: Context) -> StringValue:
        raise NotFound("nobody of that name")


class Outer(Echo):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        reply: StringValue = await self.channel.unary_unary(ECHO, request)
        await self.channel.unary_unary(OTHER, request).addErrback(error_of)
        return reply


def main(url: str) -> None:
    # Before the providers are set: it finds those that there are when calls are made.
    telemetry = Telemetry()
    network = MemoryNetwork()
    inner = Server(network, [Inner()], observer=telemetry)
    channel = Channel(network, inner.listen("inproc://inner"), observer=telemetry)
    outer = Server(network, [Outer(channel)], observer=telemetry)
    client = Channel(network, outer.listen("inproc://outer"), observer=telemetry)

    resource = Resource.create({"service.name": "exporting"})
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{url}/v1/traces")))
    trace.set_tracer_provider(spans)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{url}/v1/metrics"))
    values = MeterProvider([reader], resource)
    metrics.set_meter_provider(values)

    print(network.result(client.unary_unary(ECHO, text("x"))).value)
    spans.shutdown()
    values.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
