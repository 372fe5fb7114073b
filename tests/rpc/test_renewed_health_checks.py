"""Connections that are made anew, of a channel that asks its servers how they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import COUNT, Reader, Streaming
from txzmq.rpc import Channel, ConnectivityState, Context, Count, Server, ServerLimits
from txzmq.rpc.health import Health, ServingStatus
from txzmq.testing import MemoryNetwork

#: In memory, whatever it is: another server may listen at the address.
GIVEN = 0
PUBLISHER = f"{ADDRESS}.7.streams"


class World:
    """A server with health, and a channel that watches it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.health = Health()
        self.server = self.serve(self.health)
        self.others: list[Server] = []
        config = {"healthCheckConfig": {"serviceName": ""}}
        self.channel = Channel(self.network, ADDRESS, service_config=config)
        self.network.advance(1)

    def serve(self, health: Health, service: Any = None, **options: Any) -> Server:
        limits = ServerLimits(connection_age=3, connection_age_grace=20)
        server = Server(self.network, [service or Echo(), health], limits=limits)
        server.listen(ADDRESS, **options)
        return server

    def state(self) -> ConnectivityState:
        return self.channel.state

    def roll(self, grace: float) -> Deferred[None]:
        self.others.append(self.serve(Health(), fd=GIVEN, publisher=PUBLISHER))
        return self.server.hand_over(grace)

    def close(self) -> None:
        """End everything; no socket is left that tries to connect."""
        self.channel.close()
        for server in (self.server, *self.others):
            server.stop(0)
        self.network.advance(3)
        assert not self.network.clock.getDelayedCalls()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_the_server_is_watched_once_and_all_the_time(world: World) -> None:
    for _ in range(30):
        world.network.advance(1)
        assert world.server.stats.streams == 1
        assert world.state() is ConnectivityState.READY
    renewed = world.channel.counters[Count.CONNECTION_RENEWED]
    assert renewed >= 8
    world.health.set("", ServingStatus.NOT_SERVING)
    world.network.run()
    assert world.state() is ConnectivityState.TRANSIENT_FAILURE
    world.network.advance(20)
    world.health.set("", ServingStatus.SERVING)
    world.network.run()
    assert world.state() is ConnectivityState.READY
    assert set(world.server.counters) <= {Count.CONNECTION_AGED, Count.CONNECTION_ENDED}


def test_a_server_that_hands_over_is_not_held_up(world: World) -> None:
    stopped = world.roll(grace=600)
    world.network.advance(2)
    assert stopped.called
    assert world.network.result(world.channel.unary_unary(ECHO, text("x"))).value == "x"
    assert world.others[0].stats.streams == 1


def test_other_streams_go_on(world: World) -> None:
    given: list[Deferred[str]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            given.append(Deferred())
            yield text(await given[-1])

    world.server.stop(0)
    world.network.advance(3)
    world.others.append(world.serve(Health(), Streaming(handler)))
    world.network.advance(5)
    reader = Reader(world.channel.unary_stream(COUNT, text("x")))
    items = [str(number) for number in range(20)]
    for item in items:
        world.network.advance(1)
        given[-1].callback(item)
        world.network.run()
        assert world.others[0].stats.streams == 2
    assert reader.items == items
    assert world.channel.counters[Count.CONNECTION_RENEWED] >= 5
