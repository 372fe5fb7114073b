"""Retries of gRPC's clients, which a gateway's servers steer."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
from google.protobuf.wrappers_pb2 import StringValue

from tests.grpc_gateway.support import Rig, failure, stub, through
from tests.rpc.service import text
from tests.support import Loop
from txzmq.rpc import Context, Kind, Method, Service, Unavailable
from txzmq.rpc.grpc import GrpcChannel
from txzmq.rpc.metadata import PUSHBACK

UNARY = Method("/test.Later/Unary", "unary", StringValue, StringValue, Kind.UNARY_UNARY)
STREAM = Method("/test.Later/Stream", "stream", StringValue, StringValue, Kind.UNARY_STREAM)

#: A client's that would try again within a millisecond.
CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.001s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Later:
    """Says that it is not available, and when to try again."""

    __txzmq_service__: ClassVar[Service] = Service("test.Later", (UNARY, STREAM))

    def __init__(self) -> None:
        #: For each attempt, what it says of those before.
        self.attempts: list[Any] = []

    def unary(self, request: StringValue, context: Context) -> StringValue:
        self.attempts.append(dict(context.metadata).get("grpc-previous-rpc-attempts"))
        raise Unavailable("later", metadata={PUSHBACK: request.value})

    stream = unary  # before its first item


@pytest.mark.parametrize("method", [UNARY, STREAM])
@pytest.mark.parametrize(("pushback", "attempts"), [("1", [None, "1", "2"]), ("-1", [None])])
def test_a_server_says_when_to_try_again(
    grpc_loop: Loop, method: Method[Any, Any], pushback: str, attempts: list[str | None]
) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client(**{"grpc.service_config": json.dumps(CONFIG)})
        error = await failure(stub(client, method)(text(pushback)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(tuple(error.trailing_metadata()))[PUSHBACK] == pushback
        assert later.attempts == attempts

    later = Later()
    through(grpc_loop, body, services=[later])


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_a_client_of_ours_hears_of_it_through_grpc(
    grpc_loop: Loop, method: Method[Any, Any]
) -> None:
    async def body(rig: Rig) -> None:
        channel = GrpcChannel(rig.target, reactor=rig.loop.reactor)
        loop = asyncio.get_running_loop()
        if method is UNARY:
            call = channel.unary_unary(UNARY, text("5"))
        else:
            stream = channel.unary_stream(STREAM, text("5"))
            call = stream.received_initial_metadata()  # type: ignore[assignment]  # or an error
        with pytest.raises(Unavailable) as caught:
            await call.asFuture(loop)
        assert dict(caught.value.metadata)[PUSHBACK] == "5"
        assert (caught.value.answered, later.attempts) == (True, [None])
        channel.close()

    later = Later()
    through(grpc_loop, body, services=[later])
