"""gRPC's interop cases through a gateway, over Connect and gRPC-Web, in JSON and binary.

https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md. They run with
connectrpc's client. By HTTP/1.1 it sends all requests of a stream before it reads responses, so
that ping_pong sends its pings at once. The gateway learns of the methods by reflection, as it would
from a server that it does not know.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code as ConnectCode
from connectrpc.protocol import ProtocolType

from tests.grpc_gateway.interop import (
    ECHO_INITIAL,
    ECHO_TRAILING,
    METHODS,
    TestService,
    message,
)
from tests.grpc_gateway.test_interop import REQUESTS, RESPONSES, large, payload, wanted
from tests.http_gateway.support import Client, Rig, through
from tests.support import Loop
from txzmq.rpc import Kind, Method
from txzmq.rpc.method_sources import ReflectedMethods
from txzmq.rpc.reflection import Reflection

#: Protocols, with whether messages are JSON.
WAYS = [
    pytest.param((ProtocolType.CONNECT, False), id="connect"),
    pytest.param((ProtocolType.CONNECT, True), id="connect-json"),
    pytest.param((ProtocolType.GRPC_WEB, False), id="grpc-web"),
]
Way = tuple[ProtocolType, bool]
pytestmark = pytest.mark.parametrize("way", WAYS)


class World:
    """A client of the service."""

    def __init__(self, rig: Rig, service: TestService, way: Way) -> None:
        self.rig = rig
        self.service = service
        self.client: Client = rig.client(way[0], json=way[1])

    async def call(self, name: str, given: Any, **options: Any) -> list[Any]:
        """Call a method, for all its responses."""
        return await self.client.outcome(METHODS[name], given, **options)


def interop(loop: Loop, way: Way, case: Any) -> None:
    """Run a case."""
    service = TestService(loop.reactor)

    def body(rig: Rig) -> Coroutine[Any, Any, None]:
        made: Coroutine[Any, Any, None] = case(World(rig, service, way))
        return made

    through(loop, body, services=[service, Reflection()], methods=ReflectedMethods)


def pings() -> list[Any]:
    made: list[Any] = []
    for request, response in zip(REQUESTS, RESPONSES, strict=True):
        made.append(wanted(response))
        made[-1].payload.body = bytes(request)
    return made


def test_empty_unary(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        empty = message("Empty")()
        assert await world.call("EmptyCall", empty) == [empty]

    interop(grpc_loop, way, case)


def test_large_unary(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        (response,) = await world.call("UnaryCall", large())
        assert len(response.payload.body) == 314159

    interop(grpc_loop, way, case)


def test_client_streaming(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        kind = message("StreamingInputCallRequest")
        requests = [kind(payload=payload(size)) for size in REQUESTS]
        (response,) = await world.call("StreamingInputCall", requests)
        assert response.aggregated_payload_size == 74922

    interop(grpc_loop, way, case)


def test_server_streaming(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        responses = await world.call("StreamingOutputCall", wanted(*RESPONSES))
        assert [len(response.payload.body) for response in responses] == list(RESPONSES)

    interop(grpc_loop, way, case)


def test_ping_pong(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        responses = await world.call("FullDuplexCall", pings())
        assert [len(response.payload.body) for response in responses] == list(RESPONSES)

    interop(grpc_loop, way, case)


def test_empty_stream(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        assert await world.call("FullDuplexCall", []) == []

    interop(grpc_loop, way, case)


@pytest.mark.parametrize("name", ["StreamingInputCall", "FullDuplexCall"])
def test_cancel_after_begin(grpc_loop: Loop, way: Way, name: str) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield METHODS[name].request_type(payload=payload(8))
        await asyncio.Event().wait()

    async def case(world: World) -> None:
        call = asyncio.ensure_future(world.call(name, requests()))
        await world.rig.until(lambda: world.rig.server.running == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await world.rig.until(lambda: world.rig.server.running == 0)

    interop(grpc_loop, way, case)


def test_cancel_after_first_response(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        slow = wanted(RESPONSES[0], RESPONSES[0])
        slow.response_parameters[1].interval_us = 60_000_000
        items = world.client.call(METHODS["StreamingOutputCall"], slow)
        assert len((await anext(items)).payload.body) == RESPONSES[0]
        await items.aclose()
        await world.rig.until(lambda: world.rig.server.running == 0)

    interop(grpc_loop, way, case)


def test_timeout_on_sleeping_server(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        slow = wanted(31415, interval_us=60_000_000)
        error = await world.client.failure(METHODS["FullDuplexCall"], [slow], timeout_ms=100)
        assert error.code is ConnectCode.DEADLINE_EXCEEDED
        await world.rig.until(lambda: world.rig.server.running == 0)

    interop(grpc_loop, way, case)


@pytest.mark.parametrize(
    "words",
    [
        "test status message",  # status_code_and_message
        # special_status_message
        "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
    ],
)
def test_status_code_and_message(grpc_loop: Loop, way: Way, words: str) -> None:
    async def case(world: World) -> None:
        status = message("EchoStatus")(code=2, message=words)
        request = message("SimpleRequest")(response_status=status)
        error = await world.client.failure(METHODS["UnaryCall"], request)
        assert (error.code, error.message) == (ConnectCode.UNKNOWN, words)
        request = message("StreamingOutputCallRequest")(response_status=status)
        error = await world.client.failure(METHODS["FullDuplexCall"], [request])
        assert (error.code, error.message) == (ConnectCode.UNKNOWN, words)

    interop(grpc_loop, way, case)


def test_custom_metadata(grpc_loop: Loop, way: Way) -> None:
    binary = b64encode(b"\xab\xab\xab").decode()
    sent = {ECHO_INITIAL: "test_initial_metadata_value", ECHO_TRAILING: binary}

    async def case(world: World) -> None:
        ping = wanted(314159)
        ping.payload.body = bytes(271828)
        for name, given in (("UnaryCall", large()), ("FullDuplexCall", [ping])):
            with ResponseMetadata() as received:
                (response,) = await world.call(name, given, headers=sent)
            assert len(response.payload.body) == 314159
            assert received.headers[ECHO_INITIAL] == "test_initial_metadata_value"
            assert received.trailers[ECHO_TRAILING] == binary

    interop(grpc_loop, way, case)


def test_unimplemented_method(grpc_loop: Loop, way: Way) -> None:
    async def case(world: World) -> None:
        empty = message("Empty")
        # The proto has it, and the server has not.
        error = await world.client.failure(METHODS["UnimplementedCall"], empty())
        assert error.code is ConnectCode.UNIMPLEMENTED
        assert error.message.startswith("the server has no method")
        # The proto has it neither; nor the service.
        for path in (
            "/grpc.testing.TestService/NoSuchCall",
            "/grpc.testing.UnimplementedService/UnimplementedCall",  # unimplemented_service
        ):
            missing = Method(path, "missing", empty, empty, Kind.UNARY_UNARY)
            error = await world.client.failure(missing, empty())
            assert error.code is ConnectCode.UNIMPLEMENTED
            assert error.message == f"the gateway knows of no method {path}"

    interop(grpc_loop, way, case)
