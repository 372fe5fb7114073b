"""A server of gRPC's, a server of ours with the same handlers, and channels to both, on one loop.

What a handler does, the request says: ``code 5`` fails with NOT_FOUND, ``wait`` waits until it is
cancelled. Both servers keep in mind what they were asked, and what was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Caller,
    Channel,
    Context,
    Kind,
    Method,
    RequestStream,
    RpcError,
    Server,
    Service,
)
from txzmq.rpc.errors import to_code
from txzmq.rpc.grpc import GrpcChannel
from txzmq.rpc.v1.header_pb2 import Status

T = TypeVar("T")
AnyRig = TypeVar("AnyRig", bound="Rig")

#: What a server sends with an error.
TRAILING = (("t", "1"), ("t-bin", b"\x00\xff"))
#: gRPC lets a second server have the port of a first one, unless it is told not to.
_OPTIONS = (("grpc.so_reuseport", 0),)
DETAIL = AnyMessage()
DETAIL.Pack(text("why"))


def _is_given(key: str) -> bool:
    """Whether metadata are a test's, and not what a gateway adds."""
    return key.startswith("x-") and not key.startswith("x-forwarded-")


class Notes:
    """What a server has seen."""

    def __init__(self) -> None:
        #: The requests, in order, also those of streams.
        self.seen: list[str] = []
        #: Calls whose handlers were cancelled.
        self.cancelled: list[str] = []
        #: What the handlers took for all requests of their streams.
        self.complete: list[str] = []
        #: Seconds that the last handler had.
        self.remaining: float | None = None
        #: How many items the handlers of streams have given.
        self.given = 0


class ByGrpc:
    """The handlers for grpc.aio, as coroutines of asyncio's."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    async def _begin(self, value: str, context: Any) -> None:
        self.notes.seen.append(value)
        self.notes.remaining = context.time_remaining()
        word, _, rest = value.partition(" ")
        if word == "code":
            code = next(code for code in grpc.StatusCode if code.value[0] == int(rest))
            await context.abort(code, value, TRAILING)
        elif word == "details":
            status = Status(code=5, message=value, details=[DETAIL]).SerializeToString()
            pairs = (("grpc-status-details-bin", status),)
            await context.abort(grpc.StatusCode.NOT_FOUND, value, pairs)
        elif word == "metadata":
            pairs = tuple(pair for pair in context.invocation_metadata() if _is_given(pair[0]))
            await context.send_initial_metadata((("initial", "1"), *pairs))
            context.set_trailing_metadata((("trailing", "2"), *pairs))
        elif word == "wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.notes.cancelled.append(value)
                raise

    async def echo(self, request: StringValue, context: Any) -> StringValue:
        await self._begin(request.value, context)
        return request

    async def count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        number, _, then = request.value.partition(" then ")
        size = 0
        if not number.isdigit():
            number, _, sizes = number.partition(" of ")
            size = int(sizes) if sizes else 0
        if not number.isdigit():
            await self._begin(number, context)
            number = "0"
        try:
            for item in range(int(number)):
                yield text(str(item) + "x" * size)
                self.notes.given += 1
        except asyncio.CancelledError:
            self.notes.cancelled.append(request.value)
            raise
        if then:
            await self._begin(then, context)

    async def collect(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        values: list[str] = []
        try:
            async for request in requests:
                if request.value == "hold":
                    await asyncio.Event().wait()
                await self._begin(request.value, context)
                values.append(request.value[:10])
                if request.value == "enough":
                    break
        except asyncio.CancelledError:
            self.notes.cancelled.append("collect")
            raise
        return text(",".join(values))

    async def chat(
        self, requests: AsyncIterator[StringValue], context: Any
    ) -> AsyncIterator[StringValue]:
        try:
            async for request in requests:
                await self._begin(request.value, context)
                yield request
                if request.value == "enough":
                    break
        except asyncio.CancelledError:
            self.notes.cancelled.append("chat")
            raise

    def serve(self, server: grpc.aio.Server) -> None:
        """Add the handlers to a server."""
        for method, handler in [
            (ECHO, self.echo),
            (COUNT, self.count),
            (COLLECT, self.collect),
            (CHAT, self.chat),
        ]:
            add(server, method, handler)


def add(server: grpc.aio.Server, method: Method[Any, Any], handler: Any) -> None:
    """Serve a method by a handler for grpc.aio."""
    make: Any = getattr(grpc, f"{method.kind.name.lower()}_rpc_method_handler")
    _, service, name = method.path.split("/")
    made = make(
        handler,
        request_deserializer=method.request_type.FromString,
        response_serializer=method.response_type.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: made})])


class ByTxzmq:
    """The same handlers for a server of ours."""

    __txzmq_service__: ClassVar[Service] = Service("test.Both", (ECHO, COUNT, COLLECT, CHAT))

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    async def _begin(self, value: str, context: Context) -> None:
        self.notes.seen.append(value)
        self.notes.remaining = context.time_remaining()
        word, _, rest = value.partition(" ")
        if word == "code":
            raise RpcError(to_code(int(rest)), value, metadata=TRAILING)
        if word == "details":
            raise RpcError(to_code(5), value, details=[DETAIL])
        if word == "metadata":
            pairs = tuple(pair for pair in context.metadata if _is_given(pair[0]))
            context.send_initial_metadata((("initial", "1"), *pairs))
            context.set_trailing_metadata((("trailing", "2"), *pairs))
        elif word == "wait":
            try:
                await Deferred()
            except CancelledError:
                self.notes.cancelled.append(value)
                raise

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        await self._begin(request.value, context)
        return request

    async def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        number, _, then = request.value.partition(" then ")
        size = 0
        if not number.isdigit():
            number, _, sizes = number.partition(" of ")
            size = int(sizes) if sizes else 0
        if not number.isdigit():
            await self._begin(number, context)
            number = "0"
        try:
            for item in range(int(number)):
                yield text(str(item) + "x" * size)
                self.notes.given += 1
        except GeneratorExit:
            self.notes.cancelled.append(request.value)
            raise
        if then:
            await self._begin(then, context)

    async def collect(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        values: list[str] = []
        async for request in requests:
            await self._begin(request.value, context)
            values.append(request.value[:10])
            if request.value == "enough":
                break
        self.notes.complete.append(",".join(values))
        return text(",".join(values))

    async def chat(
        self, requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            await self._begin(request.value, context)
            yield request
            if request.value == "enough":
                break
        self.notes.complete.append("chat")


class Rig:
    """A server of gRPC's, on the loop of a test, and channels to it.

    :ivar target: where the server listens.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.notes = Notes()
        self.target = ""
        self.server: grpc.aio.Server | None = None
        self._asyncio: asyncio.AbstractEventLoop = loop.reactor._asyncioEventloop
        self._channels: list[GrpcChannel] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run a coroutine of asyncio's."""
        task = self._asyncio.create_task(coroutine)
        return cast("Deferred[T]", Deferred.fromFuture(task))  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    async def serve(
        self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
    ) -> None:
        """Start the server."""

        async def serve() -> int:
            server = grpc.aio.server(options=_OPTIONS)
            ByGrpc(self.notes).serve(server)
            self.prepare(server)
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
            await server.start()
            self.server = server
            return port

        port = await self.run(serve())
        self.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"

    def prepare(self, server: grpc.aio.Server) -> None:
        """Add more services to the server; for subclasses."""

    async def stop(self) -> None:
        """End the server, and what it serves, at once."""
        server, self.server = self.server, None
        if server is not None:
            await self.run(server.stop(0))

    def channel(self, target: str | None = None, **options: Any) -> GrpcChannel:
        """Make a channel; it is closed at the end."""
        channel = GrpcChannel(target or self.target, reactor=self.loop.reactor, **options)
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        """End all."""
        for channel in self._channels:
            channel.close()
        await self.stop()


@asynccontextmanager
async def served(
    loop: Loop, kind: Callable[[Loop], AnyRig], **options: Any
) -> AsyncGenerator[AnyRig]:
    """A rig with a server, closed at the end."""
    rig = kind(loop)
    try:
        await rig.serve(**options)
        yield rig
    finally:
        await rig.close()


@asynccontextmanager
async def by_zmq(loop: Loop, folder: Path, notes: Notes, **options: Any) -> AsyncGenerator[Channel]:
    """A channel of ours to a server of ours with the same handlers."""
    factory = ZmqFactory(loop.reactor)
    server = Server(factory, [ByTxzmq(notes)])
    channel = Channel(factory, server.listen(f"ipc://{folder}/both"), **options)
    try:
        yield channel
    finally:
        channel.close()
        await server.stop(0)
        factory.shutdown()


def call(caller: Caller, method: Method[Any, Any], given: Any, **options: Any) -> Any:
    """Call a method of any kind: with a text, or with several where requests stream."""
    requests = given
    if isinstance(given, str):
        requests = text(given)
    elif isinstance(given, Sequence):
        requests = [text(value) for value in given]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of str
    make: Any = getattr(caller, method.kind.name.lower())
    return make(method, requests, **options)


async def items(stream: AsyncIterator[StringValue]) -> list[str]:
    """Read a stream to its end."""
    return [item.value async for item in stream]


def streams(method: Method[Any, Any]) -> bool:
    """Whether its responses stream."""
    return method.kind in (Kind.UNARY_STREAM, Kind.STREAM_STREAM)
