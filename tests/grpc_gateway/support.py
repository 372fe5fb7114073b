"""Clients of gRPC's, a gateway and a server of ours behind it, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.grpc_channel.support import ByTxzmq, Notes
from tests.rpc.service import text
from tests.support import PATIENCE, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Method, Server, ServerLimits
from txzmq.rpc.grpc_gateway import GrpcGateway, GrpcListener
from txzmq.rpc.method_sources import FirstOf, MethodSource, ServedMethods, standard_methods

#: Seconds within which a handler is to learn that its client is gone; a busy machine needs some.
SOON = 1.0 if PATIENCE < 60 else 10.0


class Rig:
    """A gateway with a server behind it.

    :ivar notes: what the server has seen.
    :ivar target: where the gateway listens.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.notes = Notes()
        self.target = ""
        self.factory = ZmqFactory(loop.reactor)
        self.server: Server
        self.channel: Channel
        self.gateway: GrpcGateway
        self.listener: GrpcListener
        self._clients: list[grpc.aio.Channel] = []
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
        self.gateway = GrpcGateway(
            caller or self.channel,
            methods(self.channel) if methods is not None else source,
            **(gateway or {}),
        )
        self.listener = await self.gateway.listen(reactor=self.loop.reactor, **listen)
        self.target = self.listener.target

    def client(self, target: str | None = None, **options: Any) -> grpc.aio.Channel:
        """A client of gRPC's; it is closed at the end."""
        client = grpc.aio.insecure_channel(target or self.target, options=list(options.items()))
        self._clients.append(client)
        return client

    def wire(self) -> Wire:
        """A connection to the gateway that can be cut."""
        self._wires.append(Wire(self.loop.reactor, self.target))
        return self._wires[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what is to come soon; a coroutine of asyncio's."""
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """End all; a coroutine of asyncio's."""
        loop = asyncio.get_running_loop()
        for client in self._clients:
            await client.close()
        for wire in self._wires:
            await wire.close().asFuture(loop)
        if self.target:
            await self.listener.stop().asFuture(loop)
        self.channel.close()
        await self.server.stop(0).asFuture(loop)
        self.factory.shutdown()


class _Forwarding(ProxyServer):
    """One connection through a wire."""

    factory: Any
    transport: Any
    peer: Any
    reactor: Any

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self.reactor = self.factory.reactor
        super().connectionMade()


class Wire(ProxyFactory):
    """Forwards bytes to a gateway until it is cut."""

    protocol = cast("Any", _Forwarding)  # Any: Twisted does not type it

    def __init__(self, reactor: Any, target: str) -> None:
        host, _, port = target.rpartition(":")
        super().__init__(host, int(port))
        self.connections: list[_Forwarding] = []
        self.reactor = reactor
        self._port: Any = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def target(self) -> str:
        """Where a client connects to."""
        return f"127.0.0.1:{self._port.getHost().port}"

    def stop_forwarding(self) -> None:
        """Keep all connections open, and let nothing more through, as of a process that stands."""
        for connection in self.connections:
            connection.transport.pauseProducing()
            if connection.peer is not None:
                connection.peer.transport.pauseProducing()

    def cut(self) -> None:
        """End all connections, without a word of HTTP/2."""
        for connection in self.connections:
            connection.transport.abortConnection()
            if connection.peer is not None:
                connection.peer.transport.abortConnection()
        self.connections.clear()

    def close(self) -> Deferred[None]:
        """Take no more connections, and end those that there are."""
        closed: Deferred[None] = Deferred.fromCoroutine(_await(self._port.stopListening()))
        self.cut()
        return closed


async def _await(deferred: Any) -> None:
    await deferred


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


# Any: what grpc.aio makes of a method, for which its stubs need the messages.
def stub(client: Any, method: Method[Any, Any]) -> Any:
    """What calls a method, as generated code has it."""
    make: Any = getattr(client, method.kind.name.lower())
    return make(
        method.path,
        request_serializer=method.request_type.SerializeToString,
        response_deserializer=method.response_type.FromString,
    )


def texts(*values: str) -> list[StringValue]:
    """Several requests."""
    return [text(value) for value in values]


def raw(client: Any, path: str, kind: str = "unary_unary") -> Any:
    """What calls a method with bytes."""
    return getattr(client, kind)(path)


# Any: to grpcio's stubs an error may have no words.
async def failure(call: Any) -> Any:
    """The error of a call, also of one whose responses stream."""
    try:
        if hasattr(call, "read"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it did not fail")
