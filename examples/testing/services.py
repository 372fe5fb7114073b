"""What is tested here: two services, and code that calls one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress

from twisted.internet.defer import Deferred

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase, GreeterClient
from generated.demo.streams.v1.streams_pb2 import (
    TailRequest,
    TailResponse,
    UploadRequest,
    UploadResponse,
)
from generated.demo.streams.v1.streams_txzmq import FilesBase, LogsBase
from txzmq.rpc import Context, InvalidArgument, RequestStream, Unavailable


class Greeter(GreeterBase):
    def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        context.set_trailing_metadata({"length": str(len(request.name))})
        word = dict(context.metadata).get("word", "Hello")
        assert isinstance(word, str), "only keys that end in -bin have bytes"
        return HelloReply(message=f"{word}, {request.name}!")


class Slow(GreeterBase):
    """Never answers; knows how many wait."""

    waiting = 0

    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        self.waiting += 1
        try:
            return await Deferred[HelloReply]()
        finally:
            self.waiting -= 1


class Logs(LogsBase):
    """Tells lines that are there."""

    async def tail(self, request: TailRequest, context: Context) -> AsyncIterator[TailResponse]:
        for number in range(request.from_line, 100):
            yield TailResponse(number=number, text=f"line {number}")


class Files(FilesBase):
    async def upload(
        self, requests: RequestStream[UploadRequest], context: Context
    ) -> UploadResponse:
        size, digest = 0, hashlib.sha256()
        async for request in requests:
            size += len(request.piece)
            digest.update(request.piece)
        return UploadResponse(size=size, sha256=digest.hexdigest())


async def greet_all(greeter: GreeterClient, names: list[str]) -> list[str]:
    """Greet people, and leave out those whom the server cannot be reached for."""
    greetings: list[str] = []
    for name in names:
        with suppress(Unavailable):
            greetings.append((await greeter.say_hello(HelloRequest(name=name), timeout=5)).message)
    return greetings
