"""A stream of requests over gRPC: each is written before the caller is asked for the next one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeAlias

import grpc.aio
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txzmq.rpc._client.request_source import CallWithRequests, RequestSource
from txzmq.rpc._core.asyncio_loop import deferred_of
from txzmq.rpc.method import Method

__all__ = ["GrpcRequests", "GrpcRequestsCall", "WritableRpc"]

#: A call of gRPC's that takes a stream of requests.
WritableRpc: TypeAlias = (
    "grpc.aio.StreamUnaryCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]"
)


class GrpcRequests(RequestSource):
    """The requests of one call.

    gRPC takes a request when the one before is on its way: HTTP/2 holds it up while the server does
    not read.
    """

    __slots__ = ("_bytes", "_context", "_count", "_item", "_loop", "_rpc")

    def __init__(self, method: Method[Any, Any], source: Any, size: int) -> None:
        """See :class:`RequestSource`; the source is asked in the context of who makes the call."""
        super().__init__(method, source, size)
        self._context = contextvars.copy_context()
        self._count = self._bytes = 0
        self._item = b""
        # None before gRPC has the call.
        self._rpc: WritableRpc | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def count(self) -> int:
        """How many items the caller has given."""
        return self._count

    @property
    def size(self) -> int:
        """Bytes of these items."""
        return self._bytes

    def carried(self, rpc: WritableRpc, loop: asyncio.AbstractEventLoop) -> None:
        """GRPC has the call: ask for items as soon as a server takes it."""
        self._rpc, self._loop = rpc, loop
        self._awaited(rpc.wait_for_connection()).addCallbacks(self._connected, _ignore)

    def _awaited(self, coroutine: Coroutine[Any, Any, None]) -> Deferred[None]:
        assert self._loop is not None, "gRPC has the call"
        task = self._loop.create_task(coroutine)
        return deferred_of(task)

    def _connected(self, _: None) -> None:
        self._context.run(self._start)

    def _add(self, item: bytes) -> bool:
        self._item = item
        self._count += 1
        self._bytes += len(item)
        return True

    def _wait(self) -> Deferred[None]:
        assert self._rpc is not None, "gRPC has the call"
        item, self._item = self._item, b""
        return self._awaited(self._rpc.write(item)).addErrback(self._not_written)

    def _not_written(self, _: Failure) -> None:
        """The call has ended: what reads its response says how."""
        self._over = True
        raise CancelledError("the call has ended")

    def _given(self) -> None:
        assert self._rpc is not None, "gRPC has the call"
        self._awaited(self._rpc.done_writing()).addErrback(_ignore)


class GrpcRequestsCall(CallWithRequests):
    """A call with a stream of requests and one response."""

    __slots__ = ("source",)

    def __init__(self, source: GrpcRequests, *arguments: Any) -> None:
        """:param arguments: as a :class:`Call`'s."""
        super().__init__(source, *arguments)
        self.source = source


def _ignore(_: Failure) -> None:
    """The call has ended, and what reads its response says how."""
