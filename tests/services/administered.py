"""A server that tells what it has, a channel that asks, and clients besides; in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, Waiting, text
from tests.rpc.streaming import Endless, Streaming
from tests.support import error_of
from txzmq.rpc import Channel, Code, RpcError, Server
from txzmq.rpc.admin import (
    Admin,
    AdminClient,
    GetLimitsRequest,
    Limit,
    ListMethodsRequest,
    ListPeersRequest,
    ListPeersResponse,
    ListStreamsRequest,
    MethodFigures,
    Peer,
    StreamFigures,
)
from txzmq.testing import MemoryNetwork, assert_all_given_back


class World:
    """A server that is asked by a channel of its own, and clients besides."""

    def __init__(
        self,
        *,
        handler: Any = None,
        admin: Admin | None = None,
        service: Waiting | None = None,
        tells_of_loss: bool = True,
        **server: Any,
    ) -> None:
        self.network = MemoryNetwork(tells_of_loss=tells_of_loss)
        self.service = service or Waiting()
        self.endless = Endless()
        streaming = Streaming(self.endless if handler is None else handler)
        self.server = Server(self.network, [self.service, streaming, admin or Admin()], **server)
        self.server.listen(ADDRESS)
        self.channels: list[Channel] = []
        self.asking = self.connect()
        self.admin = AdminClient(self.asking)
        self.peers()  # so that it is the first one

    def connect(self, **options: Any) -> Channel:
        self.channels.append(Channel(self.network, ADDRESS, wait_for_ready=True, **options))
        self.network.run()
        return self.channels[-1]

    def call(self, channel: Channel, value: str = "x", **options: Any) -> Deferred[StringValue]:
        made = channel.unary_unary(options.pop("method", ECHO), text(value), **options)
        made.addErrback(error_of)
        self.network.run()
        return made

    def peers(self, **request: Any) -> ListPeersResponse:
        return self.network.result(self.admin.list_peers(ListPeersRequest(**request)))

    def others(self) -> list[Peer]:
        """The peers but the one that asks."""
        return [peer for peer in self.peers().peers if peer.id != 1]

    def streams(self, **request: Any) -> list[StreamFigures]:
        made = self.admin.list_streams(ListStreamsRequest(**request))
        return [*self.network.result(made).streams]

    def method(self, path: str) -> MethodFigures:
        made = self.admin.list_methods(ListMethodsRequest())
        (figures,) = [one for one in self.network.result(made).methods if one.path == path]
        return figures

    def limit(self, name: str, method: str = "") -> Limit:
        made = self.admin.get_limits(GetLimitsRequest())
        limits = self.network.result(made).limits
        (limit,) = [one for one in limits if (one.name, one.method) == (name, method)]
        return limit

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        stopped = self.server.stop(0)
        self.network.advance(30)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()
        assert_all_given_back(*self.channels)


def closing() -> Iterator[Callable[..., World]]:
    """Makes worlds, and closes them in the end."""
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.close()


def answered(outcome: Any) -> object:
    """What a call has come to that may have failed."""
    results: list[Any] = []
    outcome.addBoth(results.append)
    (result,) = results
    return getattr(result, "value", result)


def refused(world: World, made: Deferred[Any], code: Code, words: str) -> None:
    world.network.run()
    error = answered(made)
    assert isinstance(error, RpcError)
    assert error.code is code
    assert words in error.message
