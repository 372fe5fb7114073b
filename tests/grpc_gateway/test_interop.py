"""gRPC's interop cases through a gateway, by their published descriptions.

https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md. They run with grpc.aio.
The gateway learns of the methods by reflection, as it would from a server that it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio

from tests.grpc_gateway.interop import (
    ECHO_INITIAL,
    ECHO_TRAILING,
    METHODS,
    TestService,
    message,
)
from tests.grpc_gateway.support import Rig, failure, raw, stub, through
from tests.support import Loop
from txzmq.rpc.method_sources import ReflectedMethods
from txzmq.rpc.reflection import Reflection

#: Bytes of requests and of responses, as the descriptions have them.
REQUESTS = (27182, 8, 1828, 45904)
RESPONSES = (31415, 9, 2653, 58979)


class World:
    """A client of the service."""

    def __init__(self, rig: Rig, service: TestService) -> None:
        self.rig = rig
        self.service = service
        self._client = rig.client()

    def call(self, name: str) -> Any:
        """What calls a method."""
        return stub(self._client, METHODS[name])


def interop(loop: Loop, case: Any) -> None:
    """Run a case."""
    service = TestService(loop.reactor)

    def body(rig: Rig) -> Coroutine[Any, Any, None]:
        made: Coroutine[Any, Any, None] = case(World(rig, service))
        return made

    through(loop, body, services=[service, Reflection()], methods=ReflectedMethods)


def payload(size: int) -> Any:
    return message("Payload")(body=bytes(size))


def wanted(*sizes: int, **more: Any) -> Any:
    """A request for responses of these sizes."""
    parameters = [message("ResponseParameters")(size=size, **more) for size in sizes]
    return message("StreamingOutputCallRequest")(response_parameters=parameters)


def large() -> Any:
    return message("SimpleRequest")(response_size=314159, payload=payload(271828))


def test_empty_unary(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        empty = message("Empty")()
        assert await world.call("EmptyCall")(empty) == empty

    interop(grpc_loop, case)


def test_large_unary(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        response = await world.call("UnaryCall")(large())
        assert len(response.payload.body) == 314159

    interop(grpc_loop, case)


def test_client_streaming(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        kind = message("StreamingInputCallRequest")
        requests = [kind(payload=payload(size)) for size in REQUESTS]
        response = await world.call("StreamingInputCall")(requests)
        assert response.aggregated_payload_size == 74922

    interop(grpc_loop, case)


def test_server_streaming(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        call = world.call("StreamingOutputCall")(wanted(*RESPONSES))
        assert [len(response.payload.body) async for response in call] == list(RESPONSES)

    interop(grpc_loop, case)


def test_ping_pong(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        call = world.call("FullDuplexCall")()
        for request, response in zip(REQUESTS, RESPONSES, strict=True):
            ping = wanted(response)
            ping.payload.body = bytes(request)
            await call.write(ping)
            assert len((await call.read()).payload.body) == response
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    interop(grpc_loop, case)


def test_empty_stream(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        call = world.call("FullDuplexCall")()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    interop(grpc_loop, case)


def test_cancel_after_begin(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        call = world.call("StreamingInputCall")()
        await call.wait_for_connection()
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await world.rig.until(lambda: world.rig.server.running == 0)

    interop(grpc_loop, case)


def test_cancel_after_first_response(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        call = world.call("FullDuplexCall")()
        ping = wanted(RESPONSES[0])
        ping.payload.body = bytes(REQUESTS[0])
        await call.write(ping)
        assert len((await call.read()).payload.body) == RESPONSES[0]
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await world.rig.until(lambda: world.service.cancelled == 1)

    interop(grpc_loop, case)


def test_timeout_on_sleeping_server(grpc_loop: Loop) -> None:
    # By the sync API: grpc.aio's client says INTERNAL where the time is up while it writes.
    def ask(target: str) -> None:
        request = wanted(31415, interval_us=20_000)
        request.payload.body = bytes(27182)
        with grpc.insecure_channel(target) as client:
            call = stub(client, METHODS["FullDuplexCall"])(iter([request]), timeout=0.001)
            with pytest.raises(grpc.RpcError):
                next(call)
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def case(world: World) -> None:
        await asyncio.to_thread(ask, world.rig.target)

    interop(grpc_loop, case)


@pytest.mark.parametrize(
    "words",
    [
        "test status message",  # status_code_and_message
        # special_status_message
        "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
    ],
)
def test_status_code_and_message(grpc_loop: Loop, words: str) -> None:
    async def case(world: World) -> None:
        status = message("EchoStatus")(code=2, message=words)
        request = message("SimpleRequest")(response_status=status)
        error = await failure(world.call("UnaryCall")(request))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, words)
        call = world.call("FullDuplexCall")()
        await call.write(message("StreamingOutputCallRequest")(response_status=status))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.UNKNOWN
        assert await call.details() == words

    interop(grpc_loop, case)


def test_custom_metadata(grpc_loop: Loop) -> None:
    sent = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab"))

    async def check(call: Any) -> None:
        initial: dict[str, Any] = dict(tuple(await call.initial_metadata()))
        assert initial[ECHO_INITIAL] == "test_initial_metadata_value"
        trailing: dict[str, Any] = dict(tuple(await call.trailing_metadata()))
        assert trailing[ECHO_TRAILING] == b"\xab\xab\xab"

    async def case(world: World) -> None:
        call = world.call("UnaryCall")(large(), metadata=sent)
        assert len((await call).payload.body) == 314159
        await check(call)
        call = world.call("FullDuplexCall")(metadata=sent)
        ping = wanted(314159)
        ping.payload.body = bytes(271828)
        await call.write(ping)
        assert len((await call.read()).payload.body) == 314159
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await check(call)

    interop(grpc_loop, case)


def test_unimplemented_method(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        # The proto has it, and the server has not.
        error = await failure(world.call("UnimplementedCall")(message("Empty")()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details().startswith("the server has no method")
        # The proto has it neither.
        path = "/grpc.testing.TestService/NoSuchCall"
        error = await failure(raw(world.rig.client(), path)(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == f"the gateway knows of no method {path}"

    interop(grpc_loop, case)


def test_unimplemented_service(grpc_loop: Loop) -> None:
    async def case(world: World) -> None:
        path = "/grpc.testing.UnimplementedService/UnimplementedCall"
        error = await failure(raw(world.rig.client(), path)(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == f"the gateway knows of no method {path}"

    interop(grpc_loop, case)
