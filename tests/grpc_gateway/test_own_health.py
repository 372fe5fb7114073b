"""A gateway's own health, for gRPC's health checks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from twisted.internet.defer import Deferred

from tests.grpc_gateway.support import Rig, failure, raw, through
from tests.support import Loop
from txzmq.rpc import Channel
from txzmq.rpc.health import Health, HealthCheckRequest, HealthCheckResponse
from txzmq.rpc.method_sources import FirstOf, ReflectedMethods, standard_methods
from txzmq.rpc.reflection import Reflection

SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING)
NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)


def ask(client: Any, service: str, word: str = "Check", kind: str = "unary_unary") -> Any:
    """Ask for the health of a service."""
    call = getattr(client, kind)(
        f"/grpc.health.v1.Health/{word}",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service))


def watch(client: Any, service: str) -> Any:
    """Watch the health of a service."""
    return ask(client, service, "Watch", "unary_stream")


def test_while_a_server_is_there(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        await rig.until(lambda: rig.gateway.readiness.is_ready)
        assert await ask(client, "txzmq.gateway") == SERVING
        watching = watch(client, "txzmq.gateway")
        assert await watching.read() == SERVING
        await rig.server.stop(0).asFuture(asyncio.get_running_loop())
        async with asyncio.timeout(10):
            assert await watching.read() == NOT_SERVING
        assert await ask(client, "txzmq.gateway") == NOT_SERVING
        watching.cancel()

    through(grpc_loop, body)  # whose server has no health of its own


def test_all_other_names_are_the_servers(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        health.set("test.Echo", health.statuses[""].NOT_SERVING)
        assert await ask(client, "") == SERVING
        assert await ask(client, "test.Echo") == NOT_SERVING
        error = await failure(ask(client, "txzmq.gateway.no"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        watching = watch(client, "test.Echo")
        assert await watching.read() == NOT_SERVING
        watching.cancel()
        bad = raw(client, "/grpc.health.v1.Health/Check")
        assert (await failure(bad(b"\xff"))).code() is grpc.StatusCode.INTERNAL

    health = Health()
    through(grpc_loop, body, services=[health])


def _reflected(channel: Channel) -> FirstOf:
    return FirstOf(ReflectedMethods(channel), standard_methods())


def test_methods_that_only_the_servers_know(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        assert await ask(rig.client(), "") == SERVING

    through(
        grpc_loop,
        body,
        services=[Health(), Reflection()],
        methods=_reflected,
    )


class Never:
    """Does not find out which methods there are."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def of(self, _: Channel) -> Never:
        """This one, whatever the channel."""
        return self

    def find(self, path: str) -> Deferred[Any]:
        return Deferred(lambda _: self.cancelled.append(path))


def test_no_server_has_to_tell_of_health(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        await rig.until(lambda: rig.gateway.readiness.is_ready)
        assert await ask(rig.client(), "txzmq.gateway") == SERVING
        assert source.cancelled == ["/grpc.health.v1.Health/Check"]

    source = Never()
    through(grpc_loop, body, methods=source.of)


def test_it_stops(grpc_loop: Loop) -> None:
    """Those who watch do not hold it up, and are told."""

    async def body(rig: Rig) -> None:
        await rig.until(lambda: rig.gateway.readiness.is_ready)
        watching = watch(rig.client(), "txzmq.gateway")
        statuses = aiter(watching)
        assert await anext(statuses) == SERVING
        stopping = rig.listener.stop(60).asFuture(asyncio.get_running_loop())
        assert await anext(statuses) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="the gateway is shutting down") as caught:
            await anext(statuses)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(10):
            await stopping
        assert not rig.gateway.readiness.is_ready

    through(grpc_loop, body)
