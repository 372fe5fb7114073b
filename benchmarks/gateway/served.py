"""What answers calls: servers of gRPC's, gateways, and the servers behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from twisted.internet.defer import Deferred

from txzmq.rpc import Context, Kind, Method, ServerLimits, Service

__all__ = ["COUNT", "ECHO", "ROLES", "serve"]

ECHO: Final = Method("/bench.Echo/Echo", "echo", StringValue, StringValue)
COUNT: Final = Method("/bench.Echo/Count", "count", Int32Value, StringValue, kind=Kind.UNARY_STREAM)
_LIMITS: Final = ServerLimits(running_per_peer=4_096)
_TCP: Final = "tcp://127.0.0.1:*"
_PORT: Final = "127.0.0.1:0"
_OPTIONS: Final = (("grpc.so_reuseport", 0),)
_ITEM: Final = "x" * 100


class Echo:
    """The service, as txzmq has it."""

    __txzmq_service__: ClassVar[Service] = Service("bench.Echo", (ECHO, COUNT))

    def echo(self, request: StringValue, context: Context) -> StringValue:
        """The same text."""
        return StringValue(value=request.value)

    def count(self, request: Int32Value, context: Context) -> Iterator[StringValue]:
        """So many items."""
        return (StringValue(value=_ITEM) for _ in range(request.value))


def _grpc(announce: Callable[[str], None], _: str) -> None:
    """A server of grpc.aio's that does the work itself."""
    import grpc
    import grpc.aio

    async def echo(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value)

    async def count(request: Int32Value, context: Any) -> Any:
        for _ in range(request.value):
            yield StringValue(value=_ITEM)

    async def main() -> None:
        server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            method.path.rpartition("/")[2]: make(
                behaviour,
                request_deserializer=method.request_type.FromString,
                response_serializer=method.response_type.SerializeToString,
            )
            for method, make, behaviour in (
                (ECHO, grpc.unary_unary_rpc_method_handler, echo),
                (COUNT, grpc.unary_stream_rpc_method_handler, count),
            )
        }
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("bench.Echo", handlers)]
        )
        port = server.add_insecure_port(_PORT)
        await server.start()
        announce(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(main())


def _server(announce: Callable[[str], None], _: str) -> None:
    """A server of txzmq's, for a gateway in another process."""
    from txzmq import ZmqFactory
    from txzmq._reactor import default_reactor
    from txzmq.rpc import Server

    reactor: Any = default_reactor()
    announce(Server(ZmqFactory(), [Echo()], limits=_LIMITS).listen(_TCP))
    reactor.run()


def _grpc_gateway(announce: Callable[[str], None], behind: str) -> None:
    """A gateway for gRPC's clients, with a server in the same process if none is behind it."""

    def listen(channel: Any) -> Any:
        from txzmq.rpc.grpc_gateway import GrpcGateway
        from txzmq.rpc.method_sources import ServedMethods

        return GrpcGateway(channel, ServedMethods([Echo])).listen(_PORT)

    _gateway(listen, announce, behind)


def _gateway(listen: Callable[[Any], Any], announce: Callable[[str], None], behind: str) -> None:
    from twisted.internet import asyncioreactor

    asyncioreactor.install(asyncio.new_event_loop())  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    from txzmq import ZmqFactory
    from txzmq._reactor import default_reactor
    from txzmq.rpc import Channel, Server

    reactor: Any = default_reactor()

    async def main() -> None:
        factory = ZmqFactory()
        address = behind or Server(factory, [Echo()], limits=_LIMITS).listen("inproc://echo")
        channel = Channel(factory, address, timeout=None, wait_for_ready=True)
        listener = await listen(channel)
        announce(listener.target)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
    reactor.run()


def _connect(announce: Callable[[str], None], _: str) -> None:
    """A server of connectrpc's, under uvicorn, that does the work itself."""
    import socket

    import uvicorn
    from connectrpc.compat import google_protobuf_codecs
    from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
    from connectrpc.server import ConnectASGIApplication, Endpoint

    async def echo(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value)

    # Any: connectrpc types methods by messages of its own.
    info: MethodInfo[Any, Any] = MethodInfo(
        name="Echo",
        service_name="bench.Echo",
        input=StringValue,
        output=StringValue,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )

    class Application(ConnectASGIApplication[None]):
        @property
        def path(self) -> str:
            return "/bench.Echo"

    application = Application(
        service=None,
        endpoints=lambda _: {ECHO.path: Endpoint.unary(info, echo)},
        codecs=google_protobuf_codecs(),
    )
    # With the protocol's number, by which asyncio knows that it may tell TCP not to wait.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    announce(f"127.0.0.1:{listening.getsockname()[1]}")
    # On the loop that the gateways have: by itself it takes uvloop where that is installed. And it
    # would close connections that wait for 5 s, as they do while others are measured.
    config = uvicorn.Config(
        application, log_level="warning", lifespan="off", loop="asyncio", timeout_keep_alive=75
    )
    uvicorn.Server(config).run([listening])


def _http_gateway(announce: Callable[[str], None], behind: str) -> None:
    """A gateway for Connect's clients; as the one for gRPC's."""

    def listen(channel: Any) -> Any:
        from txzmq.rpc.http_gateway import HttpGateway
        from txzmq.rpc.method_sources import ServedMethods

        return HttpGateway(channel, ServedMethods([Echo])).listen(_PORT)

    _gateway(listen, announce, behind)


#: By the name of the process.
ROLES: Final[dict[str, Callable[[Callable[[str], None], str], None]]] = {
    "grpc.aio": _grpc,
    "server": _server,
    "gRPC gateway": _grpc_gateway,
    "connectrpc": _connect,
    "HTTP gateway": _http_gateway,
}


def serve(role: str, behind: str) -> None:
    """Be one of the processes, until it is killed; say where it is.

    :param behind: where a server is that does the work; empty if that is the same process.
    """
    ROLES[role](lambda address: print(address, flush=True), behind)
