"""A server with credentials, and channels of several users."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.auth.support import ALICE, CLIENTS, SERVER, knowing
from tests.rpc.raw import RawClient
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import ClientKeys, CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import Channel, Server
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc._wire.headers import RequestHead, ResponseHead
from txzmq.rpc._wire.streams import SEPARATOR

T = TypeVar("T")


class Trusted:
    """A server on real sockets, and channels to it; closed at the end of :meth:`run`."""

    def __init__(
        self,
        loop: Loop,
        services: Sequence[Any],
        clients: ClientKeys | None = None,
        **options: Any,
    ) -> None:
        """
        :param clients: None for the usual ones.
        :param options: of the server.
        """
        self.loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.services = services
        self.options = options
        self.clients: dict[str, Identity | str] = dict(CLIENTS)
        self.credentials = CurveServerCredentials(
            SERVER, self.clients if clients is None else clients
        )
        #: The channels.
        self.opened: list[Channel] = []
        self._servers: list[Server] = []
        self.server = self.serve()
        self.endpoint = ""

    def serve(self, credentials: CurveServerCredentials | None = None) -> Server:
        """Another server."""
        self._servers.append(
            Server(
                self.factory,
                self.services,
                credentials=credentials or self.credentials,
                **self.options,
            )
        )
        return self._servers[-1]

    def channel(
        self, keys: CurveKeyPair | None = ALICE, *servers: CurveKeyPair, **options: Any
    ) -> Channel:
        """A channel of who has these keys; None for no credentials.

        :param options: of the channel.
        """
        credentials = None if keys is None else knowing(keys, *servers)
        channel = Channel(self.factory, self.endpoint, credentials=credentials, **options)
        self.opened.append(channel)
        return channel

    @property
    def publisher(self) -> str:
        """Where the server's streams are."""
        return publisher_of(self.server)

    def revoke(self, keys: CurveKeyPair = ALICE) -> None:
        """A key is nobody's from now on."""
        del self.clients[keys.public_key]
        self.credentials.clients.reload()

    def run(
        self,
        main: Callable[[], Coroutine[Deferred[Any], Any, T]],
        address: str = "tcp://127.0.0.1:*",
    ) -> T:
        """Listen, run *main*, and leave nothing behind."""

        async def whole() -> T:
            try:
                self.endpoint = self.server.listen(address)
                return await main()
            finally:
                for channel in self.opened:
                    channel.close()
                for server in self._servers:
                    await server.stop(0)
                self.factory.shutdown()

        return self.loop.run(whole)


def publisher_of(server: Any) -> str:
    """Where the streams of a server with one endpoint are. Any: there is no other place to look."""
    (listener,) = server._listeners
    endpoint: str = listener.publisher.endpoint
    return endpoint


class Raw:
    """Connections of somebody with a key, who says what nobody should."""

    def __init__(self, world: Trusted, keys: CurveKeyPair) -> None:
        self.loop = world.loop
        self.network = ZmqNetwork(world.factory, credentials=knowing(keys))
        self.client = RawClient(self.network, world.endpoint)
        #: What was published to it.
        self.frames: list[bytes] = []
        self.events: list[str] = []

    async def ask(
        self, path: str, message: Any, request_key: bytes = b""
    ) -> tuple[ResponseHead, bytes]:
        """Send a request, and wait for the reply."""
        head = RequestHead(path, None, (), request_key=request_key)
        number = self.client.request(head, message.SerializeToString())
        await self.loop.until(lambda: number in self.client.replies())
        return self.client.replies()[number]

    async def ready(self) -> None:
        await self.loop.until(lambda: "connected" in self.client.events)

    async def subscribe(self, publisher: str, *topics: bytes) -> None:
        """Subscribe, whether that is allowed or not."""
        self.transport = self.network.subscribe(publisher, self, {})
        for topic in topics:
            self.transport.subscribe(topic + SEPARATOR)
        await self.loop.until(lambda: self.events)

    def close(self) -> None:
        self.client.transport.close()
        if hasattr(self, "transport"):
            self.transport.close()

    def published(self, frame: bytes) -> None:
        self.frames.append(frame)

    def connected(self) -> None:
        self.events.append("connected")

    def disconnected(self) -> None:
        self.events.append("disconnected")

    def failed(self, reason: str) -> None:
        self.events.append(reason)

    def flush(self) -> None: ...

    def closed(self) -> None: ...


async def failure(deferred: Deferred[StringValue]) -> Any:
    """What a call fails with. Any: an RpcError, but tests look at much of it."""
    try:
        await deferred
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("the call did not fail")


async def all_of(stream: Any) -> list[str]:
    """The items of a stream."""
    return [item.value async for item in stream]
