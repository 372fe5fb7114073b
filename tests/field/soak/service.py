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
from txzmq.rpc import Context, Kind, Method, RequestStream, Service
from txzmq.rpc.method import Sharing, StreamOptions


def _method(
    name: str, kind: Kind, options: StreamOptions | None = None
) -> Method[StringValue, StringValue]:
    path = f"/test.Soak/{name.capitalize()}"
    return Method(path, name, StringValue, StringValue, kind=kind, stream=options)


#: Answers with the call's name. Request: name, seconds.
ONCE = _method("once", Kind.UNARY_UNARY)
#: Counts. Request: name, how many, seconds between two bursts.
COUNT = _method("count", Kind.UNARY_STREAM)
#: Counts for all who ask alike. Request: key, how many, seconds between two bursts.
TICKS = _method("ticks", Kind.UNARY_STREAM, StreamOptions(sharing=Sharing.SHARED, replay=20))
#: Answers with how many requests there were.
COLLECT = _method("collect", Kind.STREAM_UNARY)
#: Answers each request with itself.
CHAT = _method("chat", Kind.STREAM_STREAM)
#: Items that are given without a pause.
_BURST = 10


class Soaked:
    """Serves the calls, and writes down each execution before it does anything else."""

    __txzmq_service__: ClassVar[Service] = Service("test.Soak", (ONCE, COUNT, TICKS, COLLECT, CHAT))

    def __init__(self, reactor: Any, executions: Path) -> None:
        self._reactor = reactor
        self._executions = os.open(executions, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._runs = 0

    def _executed(self, name: str) -> None:
        os.write(self._executions, f"{name}\n".encode())

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)

    async def once(self, request: StringValue, context: Context) -> StringValue:
        name, seconds = request.value.split()
        self._executed(name)
        await self._sleep(float(seconds))
        return text(name)

    async def _numbers(self, prefix: str, count: str, pause: str) -> AsyncIterator[StringValue]:
        for number in range(int(count)):
            if number % _BURST == 0:
                await self._sleep(float(pause))
            yield text(f"{prefix}:{number}")

    def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        name, count, pause = request.value.split()
        self._executed(name)
        return self._numbers(name, count, pause)

    def ticks(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        key, count, pause = request.value.split()
        self._runs += 1
        return self._numbers(f"{key}:{os.getpid()}-{self._runs}", count, pause)

    async def collect(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        count = 0
        name = ""
        async for request in requests:
            name, _, number = request.value.rpartition(":")
            if count == 0:
                self._executed(name)
            if int(number) != count:
                return text(f"{name}:got {number} for {count}")
            count += 1
        return text(f"{name}:{count}")

    async def chat(
        self, requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        is_first = True
        async for request in requests:
            if is_first:
                self._executed(request.value.rpartition(":")[0])
                is_first = False
            yield request
