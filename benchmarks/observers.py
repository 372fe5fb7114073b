"""``python -m benchmarks.observers``: what a call costs more where it is observed, on each side.

Client and server are in one process, in memory and in virtual time, so that only Python's own time
counts. Times are CPU time, each the least of several runs: a shared machine adds to them, and takes
nothing away.

OpenTelemetry's SDK is measured by itself, too: what it takes for the same spans when it is called
directly. So is metadata that no other call has, which nothing remembers. What a traced call costs
more than these is Telemetry's own. Spans are made, and not exported.
"""

from __future__ import annotations

import argparse
import contextvars
import time
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import BytesValue
from opentelemetry import propagate
from opentelemetry.context import Context as TraceContext
from opentelemetry.context import attach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, Sampler
from opentelemetry.trace import Span, SpanKind, set_span_in_context
from twisted.internet.defer import Deferred

from benchmarks.interpreter import interpreter
from txzmq.rpc import Channel, Context, Method, Observer, Server, Service
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.otel import Telemetry
from txzmq.rpc.records import CallRecord, Side, StartedCall
from txzmq.rpc.watching import Watched
from txzmq.testing import MemoryNetwork

ECHO: Final = Method("/bench.Echo/Echo", "echo", BytesValue, BytesValue)
#: Calls of a round, all made in one turn of the reactor.
_ROUND: Final = 100


class _Echo:
    __txzmq_service__: ClassVar[Service] = Service("bench.Echo", (ECHO,))

    def echo(self, request: BytesValue, context: Context) -> BytesValue:
        return request


class Nothing(Observer):
    """Is told of calls, and does nothing."""

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """Nothing."""

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """Nothing."""


class Stage:
    """A server and a channel, of which each may have an observer."""

    def __init__(self, client: Observer | None, server: Observer | None) -> None:
        self._network = MemoryNetwork()
        self._server = Server(self._network, [_Echo()], observer=server)
        endpoint = self._server.listen("inproc://bench")
        self._channel = Channel(self._network, endpoint, observer=client)
        self._network.run()

    def play(self, rounds: int) -> float:
        """Seconds of CPU for each call."""
        request = BytesValue(value=b"\xa5" * 94)
        begun = time.process_time()
        for _ in range(rounds):
            calls: list[Deferred[Any]] = [
                self._channel.unary_unary(ECHO, request) for _ in range(_ROUND)
            ]
            self._network.run()
            assert all(call.called for call in calls)
        return (time.process_time() - begun) / rounds / _ROUND

    def close(self) -> None:
        """Leave nothing behind."""
        self._channel.close()
        self._server.stop(0)
        self._network.advance(1)


def telemetry(sampler: Sampler = DEFAULT_ON, *, metrics: bool = False) -> Telemetry:
    """One that tells an SDK of its own of calls."""
    return Telemetry(
        tracer_provider=TracerProvider(sampler=sampler),
        meter_provider=MeterProvider([InMemoryMetricReader()]),
        metrics=metrics,
    )


class Adding(Nothing):
    """Adds to each call of a client what a tracer adds, and does nothing else."""

    def __init__(self) -> None:
        self._calls = 0

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """Add a pair that no other call has."""
        if call.side is Side.CLIENT:
            self._calls += 1
            call.add_metadata({"traceparent": f"00-{self._calls:032x}-{self._calls:016x}-01"})


class Sdk:
    """OpenTelemetry's SDK, called as for the spans of calls on both sides, and nothing else."""

    def __init__(self, sampler: Sampler = DEFAULT_ON) -> None:
        self._tracer = TracerProvider(sampler=sampler).get_tracer("bench")

    def _begin(self) -> tuple[Span, Span]:
        attributes = {"rpc.system.name": "txzmq", "rpc.method": "a.B/C", "server.address": "bench"}
        client = self._tracer.start_span("a.B/C", None, SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, set_span_in_context(client))
        context = propagate.extract(carrier, TraceContext())
        attributes = {**attributes, "client.address": "memory", "network.peer.address": "memory"}
        server = self._tracer.start_span("a.B/C", context, SpanKind.SERVER, attributes)
        attach(set_span_in_context(server, context))
        return client, server

    def play(self, rounds: int) -> float:
        """Seconds of CPU for each call; as many are in flight as on a :class:`Stage`."""
        begun = time.process_time()
        for _ in range(rounds):
            spans = [contextvars.copy_context().run(self._begin) for _ in range(_ROUND)]
            for client, server in spans:
                for span in (server, client):
                    if span.is_recording():
                        span.set_attributes({"rpc.status_code": "OK"})
                        span.end()
        return (time.process_time() - begun) / rounds / _ROUND

    def close(self) -> None:
        """Nothing is left behind."""


_ALONE: Final = "nobody"
_ADDING: Final = "observers that add metadata, on both"
_TRACING: Final = "Telemetry's spans on both"
_UNSAMPLED: Final = "Telemetry's spans on both, not sampled"
_SDK: Final = "(OpenTelemetry's SDK alone)"
_SDK_UNSAMPLED: Final = "(OpenTelemetry's SDK alone, not sampled)"


def measure(rounds: int, runs: int) -> dict[str, float]:
    """Microseconds of a call, both sides together, by who observes it."""
    stages: dict[str, Stage | Sdk] = {
        _ALONE: Stage(None, None),
        "an observer that does nothing, on the client": Stage(Nothing(), None),
        "an observer that does nothing, on the server": Stage(None, Nothing()),
        "Metrics on the client": Stage(Metrics(), None),
        "Metrics on the server": Stage(None, Metrics()),
        _ADDING: Stage(Adding(), Adding()),
        _TRACING: Stage(telemetry(), telemetry()),
        _UNSAMPLED: Stage(telemetry(ALWAYS_OFF), telemetry(ALWAYS_OFF)),
        "Telemetry's spans and metrics on both": Stage(
            telemetry(metrics=True), telemetry(metrics=True)
        ),
        _SDK: Sdk(),
        _SDK_UNSAMPLED: Sdk(ALWAYS_OFF),
    }
    best = dict.fromkeys(stages, float("inf"))
    for _ in range(runs):  # in turn, so that a busy moment is not one stage's alone
        for name, stage in stages.items():
            best[name] = min(best[name], stage.play(rounds))
    for stage in stages.values():
        stage.close()
    return {name: 1e6 * seconds for name, seconds in best.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of 100 calls (%(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="the best counts (%(default)s)")
    given = parser.parse_args()
    figures = measure(given.rounds, given.runs)
    print(f"{interpreter()}\n")
    print(f"{'observed by':<48}{'us a call':>10}{'more':>8}")
    for name, figure in figures.items():
        more = figure if name in (_SDK, _SDK_UNSAMPLED) else figure - figures[_ALONE]
        print(f"{name:<48}{figure:>10.2f}{more:>8.2f}")
    for name, sdk in ((_TRACING, _SDK), (_UNSAMPLED, _SDK_UNSAMPLED)):
        rest = figures[name] - figures[_ADDING] - figures[sdk]
        print(f"{name}: {rest:.2f} us besides the SDK and the metadata")


if __name__ == "__main__":
    main()
