"""What the servers of a soak serve: every kind of call, with items that tell what they are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.rpc.service import text
from txzmq.rpc import (
    Code,
    Context,
    IdempotencyLevel,
    Kind,
    Method,
    RequestStream,
    RpcError,
    Service,
    Unavailable,
)
from txzmq.rpc.method import Sharing, StreamOptions

SERVICE = "test.Soak"
#: Metadata of a call: the code that its handler is to end with; how many attempts are to fail with
#: UNAVAILABLE; how often interceptors had made it before.
ERROR, FAILURES, ROUND = "soak-error", "soak-failures", "soak-round"
#: What the channel says of how many attempts there were before.
_ATTEMPTS = "grpc-previous-rpc-attempts"


def _method(
    name: str, kind: Kind, options: StreamOptions | None = None, *, idempotent: bool = False
) -> Method[StringValue, StringValue]:
    path = f"/{SERVICE}/{name.capitalize()}"
    level = IdempotencyLevel.IDEMPOTENT if idempotent else IdempotencyLevel.IDEMPOTENCY_UNKNOWN
    return Method(
        path, name, StringValue, StringValue, kind=kind, stream=options, idempotency_level=level
    )


#: Answers with the call's name. Request: name, seconds.
ONCE = _method("once", Kind.UNARY_UNARY)
RETRIED = _method("retried", Kind.UNARY_UNARY, idempotent=True)
HEDGED = _method("hedged", Kind.UNARY_UNARY, idempotent=True)
#: Counts. Request: name, how many, seconds between two bursts.
COUNT = _method("count", Kind.UNARY_STREAM)
REOPENED = _method("reopened", Kind.UNARY_STREAM, idempotent=True)
RESUMED = _method("resumed", Kind.UNARY_STREAM, StreamOptions(resumable=True))
#: Counts for all who ask alike. Request: key, how many, seconds between two bursts.
TICKS = _method("ticks", Kind.UNARY_STREAM, StreamOptions(sharing=Sharing.SHARED, replay=20))
#: Answers with how many requests there were.
COLLECT = _method("collect", Kind.STREAM_UNARY)
RECOLLECTED = _method("recollected", Kind.STREAM_UNARY, idempotent=True)
#: Answers each request with itself.
CHAT = _method("chat", Kind.STREAM_STREAM)
#: Items that are given without a pause.
_BURST = 10


class Soaked:
    """Serves the calls, and writes down each execution before it does anything else."""

    __txzmq_service__: ClassVar[Service] = Service(
        SERVICE,
        (
            *(ONCE, RETRIED, HEDGED, COUNT, REOPENED, RESUMED),
            *(TICKS, COLLECT, RECOLLECTED, CHAT),
        ),
    )

    def __init__(self, reactor: Any, executions: Path) -> None:
        self._reactor = reactor
        self._executions = os.open(executions, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._runs = 0

    def _begin(self, name: str, context: Context) -> RpcError | None:
        """Write down which attempt of a call this is; the error that it is to end with."""
        metadata = {key: str(value) for key, value in context.metadata}
        attempt = int(metadata.get(_ATTEMPTS, "0"))
        self._executed(name, f"{metadata.get(ROUND, '0')}.{attempt}")
        if ERROR in metadata:
            return RpcError(Code[metadata[ERROR]], "as it was to be")
        if attempt < int(metadata.get(FAILURES, "0")):
            return Unavailable("not yet")
        return None

    def _executed(self, name: str, label: str) -> None:
        os.write(self._executions, f"{name} {label}\n".encode())

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)

    async def once(self, request: StringValue, context: Context) -> StringValue:
        name, seconds = request.value.split()
        error = self._begin(name, context)
        await self._sleep(float(seconds))
        if error is not None:
            raise error
        return text(name)

    retried = once
    hedged = once

    async def _numbers(
        self, prefix: str, count: str, pause: str, first: int = 0, error: RpcError | None = None
    ) -> AsyncIterator[StringValue]:
        if error is not None:
            await self._sleep(float(pause))
            raise error
        for number in range(first, int(count)):
            if number % _BURST == 0:
                await self._sleep(float(pause))
            yield text(f"{prefix}:{number}")

    def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        name, count, pause = request.value.split()
        error = self._begin(name, context)
        if error is not None and pause == "0":
            raise error  # instead of a stream
        return self._numbers(name, count, pause, error=error)

    reopened = count

    def resumed(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        name, count, pause = request.value.split()
        self._executed(name, str(context.first_item))
        return self._numbers(name, count, pause, first=context.first_item - 1)

    def ticks(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        key, count, pause = request.value.split()
        self._runs += 1
        return self._numbers(f"{key}:{os.getpid()}-{self._runs}", count, pause)

    async def collect(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        count = 0
        name = ""
        async for request in requests:
            name, _, number = request.value.rpartition(":")
            if count == 0 and (error := self._begin(name, context)) is not None:
                raise error
            if int(number) != count:
                return text(f"{name}:got {number} for {count}")
            count += 1
        return text(f"{name}:{count}")

    recollected = collect

    async def chat(
        self, requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        is_first = True
        async for request in requests:
            if is_first:
                self._begin(request.value.rpartition(":")[0], context)
                is_first = False
            yield request
