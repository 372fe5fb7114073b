"""A server with credentials, and channels of several users."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.auth.support import ALICE, CLIENTS, SERVER, knowing
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import Channel, Server

T = TypeVar("T")


class Trusted:
    """A server on real sockets, and channels to it; closed at the end of :meth:`run`."""

    def __init__(self, loop: Loop, services: Sequence[Any], **options: Any) -> None:
        """:param options: of the server."""
        self.loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.services = services
        self.options = options
        self.clients: dict[str, Identity | str] = dict(CLIENTS)
        self.credentials = CurveServerCredentials(SERVER, self.clients)
        self._opened: list[Channel] = []
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

    def channel(self, keys: CurveKeyPair | None = ALICE, *servers: CurveKeyPair) -> Channel:
        """A channel of who has these keys; None for no credentials."""
        credentials = None if keys is None else knowing(keys, *servers)
        self._opened.append(Channel(self.factory, self.endpoint, credentials=credentials))
        return self._opened[-1]

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
                for channel in self._opened:
                    channel.close()
                for server in self._servers:
                    await server.stop(0)
                self.factory.shutdown()

        return self.loop.run(whole)


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
