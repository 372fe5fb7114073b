"""OpenTelemetry and metrics see calls over a channel of gRPC's as they see all others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.grpc_channel.support import Rig, call, served
from tests.grpc_channel.test_calls import error
from tests.rpc.service import ECHO
from tests.support import Loop
from txzmq.rpc import ConnectivityState, ResponseMetadata
from txzmq.rpc.metrics import Metrics

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry.trace import SpanKind

from tests.rpc.telescope import Telescope
from txzmq.rpc.otel import _place  # pyright: ignore[reportPrivateUsage]  # a parser of its own


def test_a_call_is_a_span_and_passes_its_trace_on(grpc_loop: Loop) -> None:
    telescope = Telescope()

    async def main() -> str:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(observer=telescope.telemetry)
            with ResponseMetadata() as metadata:
                await call(channel, ECHO, "metadata", metadata={"x-own": "1"})
            assert ("x-own", "1") in metadata.trailing
            await error(call(channel, ECHO, "code 5"))
            return channel.target

    host, _, port = grpc_loop.run(main).partition(":")
    well, badly = telescope.of(SpanKind.CLIENT)
    for span, code in ((well, "OK"), (badly, "NOT_FOUND")):
        attributes: Any = span.attributes
        assert span.name == "test.Echo/Echo"
        assert attributes["rpc.system.name"] == "grpc"
        assert attributes["rpc.status_code"] == code
        assert (attributes["server.address"], attributes["server.port"]) == (host, int(port))
        assert (attributes["network.peer.address"], attributes["network.peer.port"]) == (
            host,
            int(port),
        )


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", "50051")),
        ("[::1]:50051", ("::1", "50051")),
        ("example.org:443", ("example.org", "443")),
        ("example.org", ("example.org", "")),
        ("dns:///example.org:443", ("example.org", "443")),
        ("dns:example.org:443", ("example.org", "443")),
        ("ipv4:10.0.0.7:80", ("10.0.0.7", "80")),
        ("unix:/run/hello.sock", ("/run/hello.sock", "")),
    ],
)
def test_targets_are_taken_apart(target: str, place: tuple[str, str]) -> None:
    assert _place(target) == place


def test_calls_are_counted(grpc_loop: Loop) -> None:
    metrics = Metrics()

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(observer=metrics)
            await call(channel, ECHO, "x")
            await grpc_loop.until(lambda: metrics.channels[0].state is ConnectivityState.READY)
            (method,) = metrics.methods
            assert (method.ended, method.in_flight) == (1, 0)

    grpc_loop.run(main)
