"""The health service: what it says of a server's services, and to whom, when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.rpc.service import ADDRESS, Echo
from txzmq.rpc import (
    Channel,
    Code,
    NotFound,
    ResourceExhausted,
    ResponseStream,
    RpcError,
    Server,
    ServerLimits,
    Unauthenticated,
    Unavailable,
)
from txzmq.rpc._services.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
)
from txzmq.rpc._services.grpc.health.v1.health_txzmq import HealthClient
from txzmq.rpc.authorization import permissions
from txzmq.rpc.health import MAX_LISTED, OVERALL, SERVICE_NAME, Health, ServingStatus
from txzmq.testing import MemoryNetwork

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = ServingStatus
ECHO = "test.Echo"
REQUEST = HealthCheckRequest(service=ECHO)


class World:
    """A server with a service and its health, and a client, in memory."""

    def __init__(self, health: Health | None = None, **server: Any) -> None:
        self.network = MemoryNetwork()
        self.health = health or Health()
        self.server = Server(self.network, [Echo(), self.health], **server)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, wait_for_ready=True)
        self.client = HealthClient(self.channel)

    def check(self, service: str = ECHO) -> int:
        return self.network.result(self.client.check(HealthCheckRequest(service=service))).status

    def listed(self) -> dict[str, int]:
        response = self.network.result(self.client.list(HealthListRequest()))
        return {name: one.status for name, one in response.statuses.items()}

    def watch(self, service: str = ECHO, channel: Channel | None = None) -> Watcher:
        client = HealthClient(channel) if channel else self.client
        watcher = Watcher(client.watch(HealthCheckRequest(service=service)))
        self.network.run()
        return watcher

    def close(self) -> None:
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(1)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()


class Watcher:
    """Reads the statuses of a watched service."""

    def __init__(self, stream: ResponseStream[HealthCheckResponse]) -> None:
        self.stream = stream
        self.statuses: list[int] = []
        self.ended: list[object] = []
        done = stream.each(lambda response: self.statuses.append(response.status))
        done.addBoth(self.ended.append)

    @property
    def error(self) -> RpcError:
        (failure,) = self.ended
        error = getattr(failure, "value", None)
        assert isinstance(error, RpcError)
        return error


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


# -- Check and List -------------------------------------------------------------------------------


def test_each_service_of_the_server_serves(world: World) -> None:
    assert world.check() == SERVING
    assert world.check(OVERALL) == SERVING
    assert world.check(SERVICE_NAME) == SERVING
    assert world.listed() == {OVERALL: SERVING, ECHO: SERVING, SERVICE_NAME: SERVING}


def test_what_the_application_says_counts(world: World) -> None:
    world.health.set(ECHO, NOT_SERVING)
    assert world.check() == NOT_SERVING
    assert world.check(OVERALL) == SERVING
    world.health.set(OVERALL, UNKNOWN)
    assert world.check(OVERALL) == UNKNOWN
    world.health.set(ECHO, SERVING)
    assert world.check() == SERVING


def test_what_was_said_before_the_server_was_made_counts_too() -> None:
    health = Health()
    health.set(ECHO, NOT_SERVING)
    health.set("another.Service", SERVING)
    world = World(health)
    assert world.listed() == {
        OVERALL: SERVING,
        ECHO: NOT_SERVING,
        SERVICE_NAME: SERVING,
        "another.Service": SERVING,
    }
    assert dict(health.statuses) == world.listed()
    world.close()


def test_a_service_that_nobody_knows_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="the server knows no service of this name"):
        world.check("test.Ech")


def test_a_service_that_is_cleared_is_not_found(world: World) -> None:
    world.health.clear(ECHO)
    world.health.clear("never.was")
    with pytest.raises(NotFound):
        world.check()
    assert ECHO not in world.listed()
    with pytest.raises(ValueError, match="service must be the full name of a service, and is emp"):
        world.health.clear(OVERALL)


def test_list_tells_a_hundred_services_and_no_more(world: World) -> None:
    for number in range(MAX_LISTED - len(world.health.statuses)):
        world.health.set(f"service.N{number}", NOT_SERVING)
    assert len(world.listed()) == MAX_LISTED
    world.health.set("one.More", SERVING)
    with pytest.raises(ResourceExhausted, match="101 services have a status, and List tells 100"):
        world.listed()


# -- Watch ----------------------------------------------------------------------------------------


def test_watchers_get_the_status_and_then_each_change(world: World) -> None:
    watcher, other = world.watch(), world.watch(OVERALL)
    assert watcher.statuses == [SERVING]
    for status in (NOT_SERVING, NOT_SERVING, UNKNOWN, SERVING, SERVING):
        world.health.set(ECHO, status)
        world.network.run()
    assert watcher.statuses == [SERVING, NOT_SERVING, UNKNOWN, SERVING]
    assert other.statuses == [SERVING]
    world.network.advance(3600)
    assert not watcher.ended
    assert not other.ended


def test_an_unknown_service_is_watched_until_it_is_known(world: World) -> None:
    watcher = world.watch("later.Service")
    assert watcher.statuses == [SERVICE_UNKNOWN]
    world.network.advance(600)
    world.health.set("later.Service", SERVING)
    world.network.run()
    world.health.clear("later.Service")
    world.network.run()
    assert watcher.statuses == [SERVICE_UNKNOWN, SERVING, SERVICE_UNKNOWN]
    assert not watcher.ended


def test_all_who_watch_are_told(world: World) -> None:
    channels = [Channel(world.network, ADDRESS, wait_for_ready=True) for _ in range(3)]
    watchers = [world.watch(channel=channel) for channel in channels for _ in range(2)]
    watchers[1].stream.cancel()
    channels[2].close()
    world.network.run()
    world.health.set(ECHO, NOT_SERVING)
    world.network.run()
    told = [watcher.statuses for watcher in watchers]
    assert told == [[SERVING, NOT_SERVING], [SERVING], *[[SERVING, NOT_SERVING]] * 2, *[[1]] * 2]
    for channel in channels:
        channel.close()


def test_who_watches_no_more_is_forgotten(world: World) -> None:
    watchers = [world.watch() for _ in range(3)]
    assert len(vars(world.health)["_watching"][ECHO]) == 3
    for watcher in watchers:
        watcher.stream.cancel()
    world.network.advance(60)
    assert vars(world.health)["_watching"] == {}
    assert world.server.running == 0


def test_who_does_not_read_gets_the_newest_when_it_reads_on() -> None:
    world = World()
    channel = Channel(world.network, ADDRESS, stream_window=2, wait_for_ready=True)
    stream = HealthClient(channel).watch(REQUEST)
    world.network.run()
    for _ in range(50):
        for status in (NOT_SERVING, SERVING):
            world.health.set(ECHO, status)
            world.network.run()
    world.health.set(ECHO, UNKNOWN)
    statuses: list[int] = []
    stream.each(lambda response: statuses.append(response.status))
    world.network.advance(1)
    assert len(statuses) <= 4
    assert statuses[-1] == UNKNOWN
    channel.close()
    world.close()


def test_the_last_of_many_changes_in_one_turn_is_told(world: World) -> None:
    watcher = world.watch()
    for _ in range(10):
        world.health.set(ECHO, NOT_SERVING)
        world.health.set(ECHO, UNKNOWN)
    world.network.run()
    assert watcher.statuses[-1] == UNKNOWN


def test_a_watcher_that_clears_and_sets_as_it_is_told_disturbs_no_other(world: World) -> None:
    watchers = [world.watch() for _ in range(3)]

    def told(_: HealthCheckResponse) -> None:
        for watcher in watchers:
            watcher.stream.cancel()
        world.health.set(ECHO, UNKNOWN)

    stream = world.client.watch(REQUEST)
    stream.each(told)
    world.network.run()
    world.health.set(ECHO, NOT_SERVING)
    world.network.advance(60)
    assert list(vars(world.health)["_watching"]) == [ECHO]


# -- shutting down --------------------------------------------------------------------------------


def test_who_watches_is_told_before_the_server_stops(world: World) -> None:
    watchers = [world.watch(), world.watch(OVERALL), world.watch("never.was")]
    stopped = world.server.stop(grace=3600)
    world.network.advance(1)
    assert [watcher.statuses for watcher in watchers] == [
        [SERVING, NOT_SERVING],
        [SERVING, NOT_SERVING],
        [SERVICE_UNKNOWN],
    ]
    for watcher in watchers:
        assert isinstance(watcher.error, Unavailable)
        assert "the server is shutting down" in str(watcher.error)
    # It need not wait for them: they have ended.
    world.network.advance(5)
    assert stopped.called
    assert set(world.health.statuses.values()) == {NOT_SERVING}


def test_a_graceful_shutdown_may_begin_before_the_server_stops(world: World) -> None:
    watcher = world.watch()
    world.health.enter_graceful_shutdown()
    world.health.enter_graceful_shutdown()
    world.network.run()
    assert watcher.statuses == [SERVING, NOT_SERVING]
    assert not watcher.ended
    assert world.check() == NOT_SERVING  # the server takes calls
    world.health.set(ECHO, SERVING)
    world.health.set("a.New", SERVING)
    world.health.clear(ECHO)
    assert set(world.listed().values()) == {NOT_SERVING}
    assert "a.New" not in world.listed()


def test_a_health_that_shuts_down_says_so_of_a_new_server() -> None:
    health = Health()
    health.enter_graceful_shutdown()
    world = World(health)
    assert set(world.listed().values()) == {NOT_SERVING}
    world.close()


def test_a_server_that_stops_at_once_tells_no_more_than_it_can(world: World) -> None:
    watcher = world.watch()
    world.server.stop(0)
    world.network.advance(5)
    assert watcher.error.code is Code.UNAVAILABLE


# -- what is wrong, and who may ask ---------------------------------------------------------------


def test_wrong_values_are_told() -> None:
    health = Health()
    with pytest.raises(TypeError, match="service must be the full name of a service, or an empty"):
        health.set(Echo, SERVING)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(TypeError, match="status must be a ServingStatus, not 1"):
        health.set(ECHO, 1)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(ValueError, match=r"status must not be SERVICE_UNKNOWN.*clear\(\)"):
        health.set(ECHO, SERVICE_UNKNOWN)
    with pytest.raises(TypeError, match="service must be the full name of a service, not None"):
        health.clear(None)  # type: ignore[arg-type]  # what is tried


def test_one_health_is_for_one_server(world: World) -> None:
    with pytest.raises(ValueError, match="this Health is another server's; make one for each"):
        Server(world.network, [world.health])
    with pytest.raises(ValueError, match="two services implement /grpc"):
        Server(world.network, [Health(), Health()])


def test_health_calls_are_authorized_as_any_other() -> None:
    denied = World(authorize=permissions({"/test.Echo/*": {"anybody"}}))
    with pytest.raises(Unauthenticated):
        denied.check()
    watcher = denied.watch()
    assert isinstance(watcher.error, Unauthenticated)
    denied.close()
    allowed = World(
        authorize=permissions({"/grpc.health.v1.Health/*": {"anybody"}, "/test.Echo/*": {"staff"}})
    )
    assert allowed.check() == SERVING
    assert allowed.watch().statuses == [SERVING]
    allowed.close()


def test_watchers_count_for_the_limits_of_streams() -> None:
    world = World(limits=ServerLimits(streams_per_peer=2))
    watchers = [world.watch() for _ in range(3)]
    assert [watcher.statuses for watcher in watchers] == [[SERVING], [SERVING], []]
    assert isinstance(watchers[2].error, ResourceExhausted)
    world.close()
