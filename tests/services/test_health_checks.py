"""Channels that watch the health of their servers: ``healthCheckConfig`` in a service config."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.identified import by_name
from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.rpc.streaming import Network
from txzmq.rpc import (
    Channel,
    ConnectivityState,
    Context,
    Server,
    Unavailable,
)
from txzmq.rpc._services.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from txzmq.rpc._services.grpc.health.v1.health_txzmq import UnimplementedHealthBase
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.authorization import permissions
from txzmq.rpc.health import Health, ServingStatus
from txzmq.rpc.resolvers import ResolvedAddress
from txzmq.rpc.watching import EndpointChange, Observer, Watched

UNKNOWN, SERVING, NOT_SERVING, _ = ServingStatus
READY, FAILED, CONNECTING = (
    ConnectivityState.READY,
    ConnectivityState.TRANSIENT_FAILURE,
    ConnectivityState.CONNECTING,
)
NAME = "test.Echo"
CONFIG = {"healthCheckConfig": {"serviceName": NAME}}
ONE, TWO = "inproc://one", "inproc://two"


class Changes(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, ConnectivityState, str]] = []

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        self.seen.append((change.address, change.state, change.reason))


class World:
    """Two servers, each with its health, and a channel that watches it."""

    def __init__(self) -> None:
        self.network = Network()
        self.healths: dict[str, Any] = {}
        self.services: dict[str, Echo] = {}
        self.servers: dict[str, Server] = {}
        self.channels: list[Channel] = []
        self.changes = Changes()

    def serve(
        self, address: str, health: Any = None, *, service: Echo | None = None, **server: Any
    ) -> None:
        self.services[address] = service or Echo()
        self.healths[address] = health or Health()
        served = [self.services[address]]
        if health is not False:
            served.append(self.healths[address])
        self.servers[address] = Server(self.network, served, **server)
        self.servers[address].listen(address)

    def connect(self, *addresses: str, config: Any = CONFIG, **options: Any) -> Channel:
        channel = Channel(
            self.network, addresses, service_config=config, observer=self.changes, **options
        )
        self.channels.append(channel)
        self.network.run()
        return channel

    def call(self, channel: Channel, **options: Any) -> Deferred[StringValue]:
        return channel.unary_unary(ECHO, text("x"), **options)

    def reached(self, channel: Channel, calls: int = 10) -> Counter[str]:
        """Which servers so many calls reach."""
        before = {address: len(service.seen) for address, service in self.services.items()}
        for _ in range(calls):
            self.network.result(self.call(channel))
        seen = {address: len(service.seen) for address, service in self.services.items()}
        return +Counter({address: seen[address] - before[address] for address in seen})

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        for server in self.servers.values():
            server.stop(0)
        self.network.advance(40)  # until what has died would have been heard
        assert not self.network.clock.getDelayedCalls()


def states(channel: Channel) -> list[ConnectivityState]:
    return [status.state for status in channel.endpoints]


def reasons(channel: Channel) -> list[str]:
    return [status.reason for status in channel.endpoints]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


# -- what the channel does ------------------------------------------------------------------------


def test_an_endpoint_that_does_not_serve_gets_no_calls_until_it_serves_again(world: World) -> None:
    world.serve(ONE)
    world.serve(TWO)
    channel = world.connect(ONE, TWO)
    assert states(channel) == [READY, READY]
    assert world.reached(channel) == {ONE: 5, TWO: 5}
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.run()
    assert states(channel) == [FAILED, READY]
    assert reasons(channel) == [f"{ONE}: the server says that {NAME} is NOT_SERVING", ""]
    assert world.reached(channel) == {TWO: 10}
    world.healths[ONE].set(NAME, SERVING)
    world.network.run()
    assert states(channel) == [READY, READY]
    assert world.reached(channel) == {ONE: 5, TWO: 5}


def test_the_health_of_another_service_makes_no_difference(world: World) -> None:
    world.serve(ONE)
    channel = world.connect(ONE)
    world.healths[ONE].set("", NOT_SERVING)
    world.healths[ONE].set("other", NOT_SERVING)
    world.network.run()
    assert states(channel) == [READY]


def test_an_empty_name_is_the_server_as_a_whole(world: World) -> None:
    world.serve(ONE)
    channel = world.connect(ONE, config={"healthCheckConfig": {"serviceName": ""}})
    assert states(channel) == [READY]
    world.healths[ONE].set("", UNKNOWN)
    world.network.run()
    assert reasons(channel) == [f"{ONE}: the server says that the server is UNKNOWN"]


@pytest.mark.parametrize("config", [None, {}, {"healthCheckConfig": {}}])
def test_without_a_name_nothing_is_asked(world: World, config: Any) -> None:
    world.serve(ONE)
    channel = world.connect(ONE, config=config)
    world.healths[ONE].enter_graceful_shutdown()
    world.network.run()
    assert states(channel) == [READY]
    assert world.servers[ONE].running == 0


def test_an_endpoint_is_not_ready_before_its_health_is_known(world: World) -> None:
    world.serve(ONE)
    world.healths[ONE].set(NAME, NOT_SERVING)
    channel = world.connect(ONE)
    seen = [(state, reason) for _, state, reason in world.changes.seen]
    assert READY not in [state for state, _ in seen]
    assert states(channel) == [FAILED]
    with pytest.raises(Unavailable, match=rf"not sent \({ONE}: the server says that {NAME} is NOT"):
        world.network.result(world.call(channel))
    waiting = world.call(channel, wait_for_ready=True, timeout=60)
    world.network.advance(30)
    assert not waiting.called
    world.healths[ONE].set(NAME, SERVING)
    assert world.network.result(waiting).value == "x"


def test_calls_that_wait_are_made_when_the_health_is_known(world: World) -> None:
    world.serve(ONE)
    channel = Channel(world.network, ONE, service_config=CONFIG)
    world.channels.append(channel)
    assert world.network.result(world.call(channel)).value == "x"


def test_a_service_that_the_server_does_not_know_is_not_healthy(world: World) -> None:
    world.serve(ONE)
    channel = world.connect(ONE, config={"healthCheckConfig": {"serviceName": "a.Later"}})
    assert reasons(channel) == [f"{ONE}: the server does not know the health of a.Later"]
    world.healths[ONE].set("a.Later", SERVING)
    world.network.run()
    assert states(channel) == [READY]


def test_calls_that_run_are_not_ended(world: World) -> None:
    service = Waiting()
    world.serve(ONE, service=service)
    channel = world.connect(ONE)
    running = world.call(channel)
    world.network.run()
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.advance(1)
    assert states(channel) == [FAILED]
    service.results[0].callback(text("done"))
    assert world.network.result(running).value == "done"


def test_a_call_may_be_cancelled_on_an_endpoint_that_does_not_serve(world: World) -> None:
    service = Waiting()
    world.serve(ONE, service=service)
    channel = world.connect(ONE)
    running = world.call(channel).addErrback(lambda _: None)
    world.network.run()
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.run()
    running.cancel()
    world.network.run()
    assert world.network.result(service.contexts[0].cancelled) == "the client cancelled it"


# -- servers without health, or who do not answer -------------------------------------------------


@pytest.mark.parametrize("health", [False, UnimplementedHealthBase()])
def test_a_server_without_health_counts_as_healthy(world: World, health: Any) -> None:
    world.serve(ONE, health)
    channel = world.connect(ONE)
    assert states(channel) == [READY]
    assert world.reached(channel) == {ONE: 10}
    world.network.advance(3600)
    assert states(channel) == [READY]


class Ending(UnimplementedHealthBase):
    """Ends each stream, as it is told."""

    def __init__(self, answer: Callable[[int], Iterator[HealthCheckResponse]]) -> None:
        self.answer = answer
        self.times: list[float] = []
        self.clock: Any = None

    def watch(self, request: HealthCheckRequest, context: Context) -> Iterator[HealthCheckResponse]:
        self.times.append(self.clock.seconds())
        return self.answer(len(self.times))


def served() -> HealthCheckResponse:
    return HealthCheckResponse(status=HealthCheckResponse.SERVING)


def test_a_stream_that_fails_is_opened_again_ever_later(world: World) -> None:
    def answer(number: int) -> Iterator[HealthCheckResponse]:
        raise Unavailable("not today")

    ending = Ending(answer)
    ending.clock = world.network.clock
    world.serve(ONE, ending)
    channel = world.connect(ONE)
    assert states(channel) == [FAILED]
    assert "its health cannot be watched: UNAVAILABLE: not today" in reasons(channel)[0]
    world.network.advance(300)
    pauses = [b - a for a, b in zip(ending.times, ending.times[1:], strict=False)]
    assert 5 < len(pauses) < 40
    assert max(pauses) > 5 * pauses[0]
    assert states(channel) == [FAILED]


def test_a_stream_that_ends_well_is_opened_again_soon(world: World) -> None:
    ending = Ending(lambda number: iter([served()]))
    ending.clock = world.network.clock
    world.serve(ONE, ending)
    channel = world.connect(ONE)
    world.network.advance(100)
    assert len(ending.times) > 50
    assert {state for _, state, _ in world.changes.seen} == {READY, FAILED}
    told = {reason for _, state, reason in world.changes.seen if state is FAILED}
    assert told == {f"{ONE}: its health cannot be watched: the stream has ended"}
    assert channel.state in (READY, FAILED)


def test_a_channel_that_may_not_ask_says_so(world: World) -> None:
    world.serve(ONE, authorize=permissions({"/test.Echo/*": {"anybody"}}))
    channel = world.connect(ONE)
    assert states(channel) == [FAILED]
    assert "/grpc.health.v1.Health/Watch is not for everybody" in reasons(channel)[0]


def test_a_server_that_does_not_answer_is_not_ready(world: World) -> None:
    ending = Ending(lambda number: iter(()))
    ending.clock = world.network.clock
    waiting: list[Deferred[Any]] = []

    def never(request: HealthCheckRequest, context: Context) -> Deferred[Any]:
        waiting.append(Deferred())
        return waiting[-1]

    setattr(ending, "watch", never)
    world.serve(ONE, ending)
    channel = world.connect(ONE)
    assert states(channel) == [CONNECTING]
    assert reasons(channel) == [f"{ONE}: nothing is known yet of the health of {NAME}"]


# -- connections that break -----------------------------------------------------------------------


def test_a_lost_connection_is_watched_anew(world: World) -> None:
    world.serve(ONE)
    channel = world.connect(ONE)
    world.network.cut(ONE)
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.advance(60)
    assert reasons(channel) == [f"{ONE}: the server says that {NAME} is NOT_SERVING"]
    world.healths[ONE].set(NAME, SERVING)
    world.network.advance(60)
    assert states(channel) == [READY]
    # One stream for one connection.
    assert world.servers[ONE].running == 1


def test_a_server_that_drains_and_its_successor(world: World) -> None:
    world.serve(ONE)
    world.serve(TWO)
    channel = world.connect(ONE, TWO)
    stopped = world.servers[ONE].stop(grace=3600)
    world.network.advance(5)
    assert stopped.called
    assert world.reached(channel) == {TWO: 10}
    world.serve(ONE)
    world.network.advance(60)
    assert states(channel) == [READY, READY]
    assert world.reached(channel) == {ONE: 5, TWO: 5}


def test_a_drain_need_not_wait_for_who_watches_without_health_of_ours(world: World) -> None:
    """The client stops to watch a server that takes no more calls."""

    class Endless(UnimplementedHealthBase):
        async def watch(
            self, request: HealthCheckRequest, context: Context
        ) -> AsyncIterator[HealthCheckResponse]:
            yield served()
            await context.cancelled

    world.serve(ONE, Endless())
    channel = world.connect(ONE)
    assert states(channel) == [READY]
    stopped = world.servers[ONE].stop(grace=3600)
    world.network.advance(10)
    assert stopped.called


def test_a_server_that_dies_and_comes_back(world: World) -> None:
    world.serve(ONE)
    channel = world.connect(ONE)
    dead = world.servers.pop(ONE)
    world.network.die(ONE)
    world.network.die(f"{ONE}.streams")
    world.network.advance(1)
    assert states(channel) != [READY]
    world.serve(ONE)
    world.network.advance(60)
    assert states(channel) == [READY]
    dead.stop(0)


def test_a_channel_that_is_closed_in_an_observer_leaves_nothing(world: World) -> None:
    class Closing(Observer):
        def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
            if change.state is FAILED:
                assert isinstance(source, Channel)
                source.close()

    world.serve(ONE)
    channel = Channel(world.network, ONE, service_config=CONFIG, observer=Closing())
    world.network.run()
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.run()
    assert channel.state is ConnectivityState.SHUTDOWN
    world.network.advance(5)
    assert world.servers[ONE].running == 0


def test_an_endpoint_that_leaves_the_channel_is_watched_no_more(world: World) -> None:
    class Changing:
        def start(self, clock: object, listener: Any) -> None:
            self.listener = listener
            self.tell(ONE, TWO)

        def tell(self, *addresses: str) -> None:
            self.listener.resolved([ResolvedAddress(address) for address in addresses])

        def resolve_now(self) -> None:
            pass

        def close(self) -> None:
            pass

    world.serve(ONE)
    world.serve(TWO)
    resolver = Changing()
    channel = Channel(world.network, resolver, service_config=CONFIG)
    world.channels.append(channel)
    world.network.run()
    assert world.servers[TWO].running == 1
    resolver.tell(ONE)
    world.network.advance(1)
    assert world.servers[TWO].running == 0
    assert [status.address for status in channel.endpoints] == [ONE]
    resolver.tell(ONE, TWO)
    world.network.advance(1)
    assert states(channel) == [READY, READY]
    # It leaves while a call runs, and comes back.
    resolver.tell(ONE)
    resolver.tell(ONE, TWO)
    world.network.advance(1)
    assert states(channel) == [READY, READY]
    assert world.servers[TWO].running == 1


@pytest.mark.parametrize("later", [False, True])
def test_who_is_asked_by_token_is_asked_about_health_by_token(world: World, *, later: bool) -> None:
    def get_token() -> str | Deferred[str]:
        if not later:
            return "alice"
        token: Deferred[str] = Deferred()
        world.network.clock.callLater(1, token.callback, "alice")
        return token

    world.serve(ONE, authenticate=by_name)
    credentials = BearerCredentials(get_token, insecure=True)
    channel = world.connect(ONE, call_credentials=credentials)
    world.network.advance(2)
    assert states(channel) == [READY]
    assert world.reached(channel) == {ONE: 10}
    world.healths[ONE].set(NAME, NOT_SERVING)
    world.network.run()
    assert states(channel) == [FAILED]


def test_a_channel_without_a_token_says_why_health_cannot_be_watched(world: World) -> None:
    world.serve(ONE, authenticate=by_name)
    channel = world.connect(ONE)
    assert states(channel) == [FAILED]
    assert "its health cannot be watched: UNAUTHENTICATED" in reasons(channel)[0]


def test_a_channel_that_closes_while_it_waits_for_a_token_leaves_nothing(world: World) -> None:
    cancelled: list[object] = []
    credentials = BearerCredentials(lambda: Deferred(cancelled.append), insecure=True)
    world.serve(ONE, authenticate=by_name)
    world.connect(ONE, call_credentials=credentials).close()
    world.network.run()
    assert len(cancelled) == 1
