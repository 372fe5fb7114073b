"""A server in memory that finds out who calls by what the call carries, and channels to it."""

from __future__ import annotations

from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import Reader, Streaming
from txzmq.auth import Identity
from txzmq.rpc import Channel, Code, Method, Server
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.metadata import Metadata
from txzmq.testing import MemoryNetwork


def bearer(metadata: Metadata) -> str:
    """The token that came along; empty if none did."""
    return str(dict(metadata).get("authorization", "")).removeprefix("Bearer ")


def by_name(identity: Identity | None, method: str, metadata: Metadata) -> Identity | None:
    """Takes the token for the name of the user."""
    name = bearer(metadata)
    return Identity(name) if name else None


class Identified:
    """Both services of the tests, behind ``authenticate``."""

    def __init__(
        self,
        authenticate: Any = by_name,
        *,
        echo: Echo | None = None,
        streaming: Streaming | None = None,
        **options: Any,
    ) -> None:
        self.network = MemoryNetwork()
        self.echo = echo or Echo()
        self.streaming = streaming or Streaming()
        self.server = Server(
            self.network, [self.echo, self.streaming], authenticate=authenticate, **options
        )
        self.server.listen(ADDRESS)
        self.channels: list[Channel] = []
        self.channel = self.connect()

    def connect(self, **options: Any) -> Channel:
        self.channels.append(Channel(self.network, ADDRESS, **options))
        return self.channels[-1]

    def call(
        self, token: str = "", method: Method[Any, Any] = ECHO, **options: Any
    ) -> Deferred[StringValue]:
        """Make a call with a token, or with none."""
        if token:
            options["metadata"] = {"authorization": f"Bearer {token}"}
        return self.channel.unary_unary(method, text("x"), **options)

    def result(self, token: str = "", method: Method[Any, Any] = ECHO, **options: Any) -> Any:
        return self.network.result(self.call(token, method, **options))

    def read(self, method: Method[Any, Any], token: str, value: int = 3) -> Reader:
        metadata = {"authorization": f"Bearer {token}"}
        return Reader(self.channel.unary_stream(method, text(str(value)), metadata=metadata))

    @property
    def names(self) -> list[str | None]:
        """Who has reached a handler."""
        contexts = [*self.echo.contexts, *self.streaming.contexts]
        return [None if it.identity is None else it.identity.name for it in contexts]

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        for channel in self.channels:
            channel.close()
        stopped = self.server.stop(0)
        self.network.advance(1)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()


class RawCaller:
    """A connection on which one chooses the keys of requests."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.raw = RawClient(network, ADDRESS)
        network.run()

    def ask(
        self, token: str, path: str = ECHO.path, *, key: bytes = b"", body: bytes = b""
    ) -> Code:
        metadata: Metadata = (("authorization", f"Bearer {token}"),) if token else ()
        head = RequestHead(path, None, metadata, request_key=key)
        number = self.raw.request(head, body or text("x").SerializeToString())
        self.network.run()
        return self.raw.replies()[number][0].code

    def close(self) -> None:
        self.raw.transport.close()
