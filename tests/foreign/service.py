"""What the clients of other makers call: the service of gRPC's interop tests, which tells of calls.

A call whose metadata have a name (``x-call``) is told of on standard output, a line for what has
happened to it: ``NAME begun``, ``NAME gave 3`` for each item, ``NAME cancelled``, ``NAME done``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.grpc_gateway.interop import TestService
from txzmq.rpc import Context, RequestStream, RpcError
from txzmq.rpc.forwarded import Gateways

#: The key of a call's name.
NAME = "x-call"
#: The key by which a handler waits until it is cancelled. It answers nothing.
WAIT = "x-wait"
#: The key by which an error gets details.
DETAILS = "x-details"
#: The key by which the responses begin with how many seconds the call has left.
LEFT = "x-left"
#: The key by which the payloads of responses are such as cannot be compressed.
NOISE = "x-noise"

#: The key by which it is told who calls, and by which proxies.
WHO = "x-who"
_GATEWAYS = Gateways(addresses=["unix:"])

DETAIL = AnyMessage()
DETAIL.Pack(StringValue(value="why ☺"))


class Told(TestService):
    """The service; what its calls wait for, and what is told of them, their metadata say."""

    async def EmptyCall(self, request: Any, context: Context) -> Any:
        with self._told(context):
            return await super().EmptyCall(request, context)

    async def UnaryCall(self, request: Any, context: Context) -> Any:
        with self._told(context):
            await self._waited(context)
            return await super().UnaryCall(request, context)

    async def StreamingInputCall(self, requests: RequestStream[Any], context: Context) -> Any:
        with self._told(context):
            return await super().StreamingInputCall(requests, context)

    async def StreamingOutputCall(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for response in self._all(super().StreamingOutputCall(request, context), context):
            yield response

    async def FullDuplexCall(
        self, requests: RequestStream[Any], context: Context
    ) -> AsyncIterator[Any]:
        async for response in self._all(super().FullDuplexCall(requests, context), context):
            yield response

    async def _all(self, responses: Any, context: Context) -> AsyncIterator[Any]:
        name, given = _pairs(context).get(NAME), 0
        with self._told(context):
            async with aclosing(responses):
                async for response in responses:
                    if NOISE in _pairs(context):
                        response.payload.body = os.urandom(len(response.payload.body))
                    yield response
                    given += 1
                    if name:
                        print(f"{name} gave {given}", flush=True)
            await self._waited(context)

    async def _waited(self, context: Context) -> None:
        if WAIT in _pairs(context):
            await Deferred()

    @contextmanager
    def _told(self, context: Context) -> Generator[None]:
        pairs = _pairs(context)
        end = "cancelled"

        def tell(what: str) -> None:
            if NAME in pairs:
                print(f"{pairs[NAME]} {what}", flush=True)

        tell("begun")
        if LEFT in pairs:
            tell(f"has {context.time_remaining() or -1:.3f}")
        if WHO in pairs:
            client = _GATEWAYS.client_of(context)
            assert client is not None
            tell(f"from {' by '.join(map(str, [client.address, *client.proxies]))}")
        try:
            yield
            end = "done"
        except RpcError as error:
            end = "failed"
            if DETAILS not in pairs:
                raise
            raise RpcError(error.code, error.message, details=[DETAIL]) from None
        except (CancelledError, GeneratorExit):
            raise
        except BaseException:
            end = "broken"
            raise
        finally:
            tell(end)


def _pairs(context: Context) -> dict[str, Any]:
    return dict(context.metadata)
