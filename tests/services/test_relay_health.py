"""The health of a relay: its own, and that of the servers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rpc.service import Echo, made
from tests.services.test_health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Watcher
from txzmq.rpc import Channel, NotFound, Server, Unavailable
from txzmq.rpc.health import OVERALL, Health, HealthCheckRequest, HealthClient, HealthListRequest
from txzmq.rpc.method_sources import standard_methods
from txzmq.rpc.relay import Relay, RelayHealth
from txzmq.testing import MemoryNetwork

ECHO = "test.Echo"


class World:
    """A server with a health of its own, a relay before it, and a client."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.health = Health()
        self.to_server = Channel(self.network, "inproc://behind", wait_for_ready=True)
        own = RelayHealth(self.to_server)
        relay = Relay(self.to_server, standard_methods())
        self.relay = Server(self.network, [own], fallback=relay.find)
        self.channel = Channel(self.network, self.relay.listen("inproc://relay"))
        self.client = HealthClient(self.channel)
        self.server: Server | None = None

    def serve(self) -> None:
        self.health = Health()
        self.server = Server(self.network, [Echo(), self.health])
        self.server.listen("inproc://behind")
        self.network.advance(30)

    def check(self, service: str = OVERALL) -> int:
        call = self.client.check(HealthCheckRequest(service=service))
        self.network.advance(1)
        return self.network.result(call).status

    def watch(self, service: str = OVERALL) -> Watcher:
        watcher = Watcher(self.client.watch(HealthCheckRequest(service=service)))
        self.network.advance(1)
        return watcher

    def stop(self, server: Server) -> None:
        stopped = server.stop(0)
        self.network.advance(3)
        assert stopped.called

    def close(self) -> None:
        self.channel.close()
        self.stop(self.relay)
        self.to_server.close()
        if self.server is not None:
            self.stop(self.server)
        self.network.advance(1)
        assert not self.network.clock.getDelayedCalls()


@pytest.fixture
def world() -> Iterator[Callable[[], World]]:
    yield from made(World)


def test_its_own_health_is_whether_a_server_can_be_called(world: Callable[[], World]) -> None:
    w = world()
    watcher = w.watch()
    assert (w.check(), watcher.statuses) == (NOT_SERVING, [NOT_SERVING])
    w.serve()
    assert (w.check(), watcher.statuses) == (SERVING, [NOT_SERVING, SERVING])
    assert w.server is not None
    w.stop(w.server)
    assert (w.check(), watcher.statuses) == (NOT_SERVING, [NOT_SERVING, SERVING, NOT_SERVING])
    w.serve()
    assert (w.check(), watcher.statuses[-1]) == (SERVING, SERVING)
    # What a server says of itself as a whole is not the relay's.
    w.health.set(OVERALL, NOT_SERVING)
    assert w.check() == SERVING


def test_the_servers_say_how_their_services_do(world: Callable[[], World]) -> None:
    w = world()
    w.serve()
    watcher, other = w.watch(ECHO), w.watch("test.Other")
    assert w.check(ECHO) == SERVING
    w.health.set(ECHO, NOT_SERVING)
    w.network.advance(1)
    assert w.check(ECHO) == NOT_SERVING
    assert (watcher.statuses, other.statuses) == ([SERVING, NOT_SERVING], [SERVICE_UNKNOWN])
    with pytest.raises(NotFound):
        w.check("test.Other")
    w.health.set(OVERALL, NOT_SERVING)
    call = w.client.list(HealthListRequest())
    listed = {name: int(one.status) for name, one in w.network.result(call).statuses.items()}
    assert listed == {OVERALL: SERVING, ECHO: NOT_SERVING, "grpc.health.v1.Health": SERVING}
    for each in (watcher, other):
        each.stream.cancel()


def test_without_a_server_a_service_is_unavailable_at_once(world: Callable[[], World]) -> None:
    """Whoever asks wants to know, and does not want to wait."""
    w = world()
    w.network.advance(5)
    with pytest.raises(Unavailable):
        w.check(ECHO)
    with pytest.raises(Unavailable):
        w.network.result(w.client.list(HealthListRequest()))
    watcher = w.watch(ECHO)
    assert len(watcher.ended) == 1


def test_those_who_watch_are_told_when_the_relay_stops(world: Callable[[], World]) -> None:
    w = world()
    w.serve()
    own, service = w.watch(), w.watch(ECHO)
    stopped = w.relay.stop(60)
    w.network.advance(3)
    assert stopped.called  # nobody who watches holds it up
    assert own.statuses == [SERVING, NOT_SERVING]
    assert service.statuses == [SERVING]
    assert len(own.ended) == len(service.ended) == 1
