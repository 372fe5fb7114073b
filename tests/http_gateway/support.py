"""Clients of Connect's and gRPC-Web's, a gateway and a server of ours behind it, on one loop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("grpc.aio", reason="grpcio is not installed here")  # of the support below
import httpx
from connectrpc.client import ConnectClient
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel as ConnectLevel
from connectrpc.method import MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from pyqwest import Client as QwestClient
from pyqwest import HTTPTransport
from twisted.internet.defer import Deferred

from tests.grpc_channel.support import ByTxzmq, Notes
from tests.grpc_gateway.support import Wire
from tests.rpc.service import text
from tests.support import PATIENCE, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, IdempotencyLevel, Kind, Method, Server, ServerLimits
from txzmq.rpc.http_gateway import HttpGateway, HttpListener
from txzmq.rpc.method_sources import FirstOf, MethodSource, ServedMethods, standard_methods
from txzmq.rpc.watching import ConnectivityState

#: Seconds within which a handler is to learn that its client is gone; a busy machine needs some.
SOON = 1.0 if PATIENCE < 60 else 10.0
JSON = {"content-type": "application/json"}
PROTO = {"content-type": "application/proto"}
STREAM = {"content-type": "application/connect+proto"}

_TYPES = {
    Kind.UNARY_UNARY: StreamType.UNARY,
    Kind.UNARY_STREAM: StreamType.SERVER_STREAM,
    Kind.STREAM_UNARY: StreamType.CLIENT_STREAM,
    Kind.STREAM_STREAM: StreamType.BIDI_STREAM,
}


class Rig:
    """A gateway with a server behind it.

    :ivar notes: what the server has seen.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.notes = Notes()
        self.factory = ZmqFactory(loop.reactor)
        self.server: Server
        self.channel: Channel
        self.gateway: HttpGateway
        self.listener: HttpListener
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._wires: list[Wire] = []

    async def start(
        self,
        *,
        services: Sequence[Any] = (),
        methods: Callable[[Channel], MethodSource] | None = None,
        caller: Any = None,
        limits: ServerLimits | None = None,
        channel: dict[str, Any] | None = None,
        gateway: dict[str, Any] | None = None,
        **listen: Any,
    ) -> None:
        """Start all.

        :param services: of the server, besides the methods of every kind.
        :param methods: makes what the gateway knows of methods.
        :param caller: in place of a channel to the server.
        :param channel: further arguments of the channel.
        :param gateway: further arguments of the gateway.
        :param listen: further arguments of the gateway's ``listen``.
        """
        served = [ByTxzmq(self.notes), *services]
        self.server = Server(self.factory, served, limits=limits or ServerLimits())
        address = self.server.listen("inproc://behind")
        self.channel = Channel(self.factory, address, **(channel or {}))
        source = FirstOf(ServedMethods(served), standard_methods())
        self.gateway = HttpGateway(
            caller or self.channel,
            methods(self.channel) if methods is not None else source,
            **(gateway or {}),
        )
        self.listener = await self.gateway.listen(reactor=self.loop.reactor, **listen)

    def client(
        self,
        protocol: ProtocolType = ProtocolType.CONNECT,
        *,
        json: bool = False,
        target: str = "",
        **options: Any,
    ) -> Client:
        """A client of connectrpc's; it is closed at the end."""
        transport = HTTPTransport()
        self._closing.append(transport.aclose)
        codec = google_protobuf_json_codec() if json else google_protobuf_binary_codec()
        return Client(
            ConnectClient(
                f"http://{target or self.listener.target}",
                codec=codec,
                protocol=protocol,
                http_client=QwestClient(transport),
                **options,
            )
        )

    def http(self, **options: Any) -> httpx.AsyncClient:
        """A client of HTTP; it is closed at the end."""
        options.setdefault("verify", False)  # or it reads the authorities that the system knows
        client = httpx.AsyncClient(base_url=self.listener.url, timeout=30, **options)
        self._closing.append(client.aclose)
        return client

    async def connection(self) -> Connection:
        """A bare connection to the gateway; it is closed at the end."""
        host, _, port = self.listener.target.rpartition(":")
        connection = Connection(*await asyncio.open_connection(host, int(port)))
        self._closing.append(connection.close)
        return connection

    def wire(self) -> Wire:
        """A connection to the gateway that can be cut."""
        self._wires.append(Wire(self.loop.reactor, self.listener.target))
        return self._wires[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what is to come soon; a coroutine of asyncio's."""
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """End all, and see that nothing is left; a coroutine of asyncio's."""
        loop = asyncio.get_running_loop()
        for close in self._closing:
            await close()
        for wire in self._wires:
            await wire.close().asFuture(loop)
        try:
            await self.until(lambda: self.gateway.running == 0)
            if self.channel.state is not ConnectivityState.SHUTDOWN:
                await self.until(lambda: self.server.running == 0)
        finally:
            await self.listener.stop().asFuture(loop)
            self.channel.close()
            await self.server.stop(0).asFuture(loop)
            self.factory.shutdown()


class Client:
    """Calls methods by a client of connectrpc's."""

    def __init__(self, client: ConnectClient) -> None:
        self._client: Any = client

    # Any: one request or several, and one response or several.
    def call(self, method: Method[Any, Any], given: Any, **options: Any) -> Any:
        """Call a method: a coroutine, or an iterator of responses."""
        kind = method.kind.name.lower()
        name = {
            "unary_unary": "unary",
            "unary_stream": "server_stream",
            "stream_unary": "client_stream",
            "stream_stream": "bidi_stream",
        }[kind]
        if method.kind.request_streaming and isinstance(given, list):
            given = _iterated(given)  # pyright: ignore[reportUnknownArgumentType]  # of any
        make = getattr(self._client, f"execute_{name}")
        return make(request=given, method=info(method), **options)

    async def outcome(self, method: Method[Any, Any], given: Any, **options: Any) -> list[Any]:
        """Call a method, for all its responses."""
        call = self.call(method, given, **options)
        if method.kind.response_streaming:
            return [item async for item in call]
        return [await call]

    async def failure(self, method: Method[Any, Any], given: Any, **options: Any) -> ConnectError:
        """Call a method that fails, for its error."""
        try:
            await self.outcome(method, given, **options)
        except ConnectError as error:
            return error
        raise AssertionError("it did not fail")


async def _iterated(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


def info(method: Method[Any, Any]) -> MethodInfo[Any, Any]:
    """A method as connectrpc has it."""
    service, _, name = method.path.removeprefix("/").partition("/")
    safe = method.idempotency_level is IdempotencyLevel.NO_SIDE_EFFECTS
    return MethodInfo(
        name=name,
        service_name=service,
        input=method.request_type,
        output=method.response_type,
        idempotency_level=ConnectLevel.NO_SIDE_EFFECTS if safe else ConnectLevel.UNKNOWN,
        stream_type=_TYPES[method.kind],
    )


def given_to(method: Method[Any, Any], *values: str) -> Any:
    """A request, or several where they stream."""
    if method.kind.request_streaming:
        return [text(value) for value in values]
    return text(values[0])


class Connection:
    """A bare connection, by which a client can say what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that comes until the gateway closes it."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def head(self) -> bytes:
        """The head of a response."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    def cut(self) -> None:
        """End it at once, without what has not been sent yet."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


def head(method: Method[Any, Any] | str, *headers: str, verb: str = "POST") -> bytes:
    """The head of a request."""
    path = method if isinstance(method, str) else method.path
    return "\r\n".join([f"{verb} {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


def envelope(data: bytes, flags: int = 0) -> bytes:
    """A message as streams have it."""
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def chunk(data: bytes) -> bytes:
    """A part of a body whose length is not said beforehand."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def through(loop: Loop, body: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test, a coroutine of asyncio's, with a gateway that is started with *options*."""

    async def both(rig: Rig) -> None:
        try:
            await body(rig)
        finally:
            await rig.close()

    async def main() -> None:
        rig = Rig(loop)
        await rig.start(**options)
        asyncio_loop: asyncio.AbstractEventLoop = loop.reactor._asyncioEventloop
        task = asyncio_loop.create_task(both(rig))
        await cast("Deferred[None]", Deferred.fromFuture(task))  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    loop.run(main)
