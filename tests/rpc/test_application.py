"""Servers and channels as services of a Twisted application, in virtual time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from twisted.application import service as twisted_service
from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from zope.interface.verify import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    verifyObject,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, text
from tests.support import error_of
from txzmq.rpc import Channel, Server, ServerLimits, StaticResolver, Unavailable
from txzmq.rpc.application import (
    ChannelOptions,
    ChannelService,
    OrderedMultiService,
    ServerOptions,
    ServerService,
)
from txzmq.testing import MemoryNetwork

SECOND = "inproc://second"
# Any: these have no types, and the others that are used here have few.
MultiService: Any = twisted_service.MultiService
Application: Any = twisted_service.Application  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class World:
    """A parent with a server and a channel in memory."""

    def __init__(self, parent: Any = None) -> None:
        self.network = MemoryNetwork()
        self.parent: Any = MultiService() if parent is None else parent
        self.service = Waiting()
        self.server = ServerService([self.service], ADDRESS, factory=self.network, grace=5)
        self.channel = ChannelService(ADDRESS, factory=self.network)

    def start(self, *services: Any) -> None:
        for service in services or (self.channel, self.server):
            service.setServiceParent(self.parent)
        self.parent.startService()

    def call(self) -> Deferred[Any]:
        called = self.channel.channel.unary_unary(ECHO, text("x"))
        self.network.run()
        return called

    def stopped(self, deferred: Deferred[Any]) -> bool:
        self.network.run()
        return bool(deferred.called)

    def is_free(self, address: str = ADDRESS) -> bool:
        return self.network.listener(address) is None


@pytest.fixture
def world() -> World:
    return World()


def test_they_are_services() -> None:
    for service in (ServerService([], ADDRESS), ChannelService(ADDRESS), OrderedMultiService()):
        assert verifyObject(IService, service)
        assert isinstance(service, Service)


def test_calls_go_from_the_start_to_the_stop(world: World) -> None:
    assert world.is_free()
    world.start()
    called = world.call()
    assert (world.server.running, world.server.endpoints) == (1, [ADDRESS])
    world.service.results[0].callback(text("y"))
    assert world.network.result(called).value == "y"
    done = world.parent.stopService()
    world.network.advance(2.1)  # the client is not there any more to say that it has left
    assert world.stopped(done)
    assert (world.server.running, world.server.endpoints, world.is_free()) == (0, [], True)


def test_a_service_that_does_not_run_has_no_server_and_no_channel(world: World) -> None:
    asked: dict[str, Callable[[], object]] = {
        "server": lambda: world.server.server,
        "channel": lambda: world.channel.channel,
    }
    for name, ask in asked.items():
        message = f"^the service does not run, and has no {name}: ask for it after startService"
        with pytest.raises(RuntimeError, match=message):
            ask()
        world.start()
        assert isinstance(ask(), Server | Channel)
        world.parent.stopService()
        world.network.advance(5)
        with pytest.raises(RuntimeError, match=message):
            ask()


def test_a_running_call_is_waited_for_and_no_other_is_taken(world: World) -> None:
    world.start(world.server)
    world.channel.startService()
    called = world.call()
    done: Deferred[None] = world.parent.stopService()
    refused = world.call()
    world.network.advance(3)
    assert not done.called
    assert world.service.seen == ["x"]
    world.service.results[0].callback(text("y"))
    assert world.network.result(called).value == "y"
    assert world.stopped(done)
    world.network.advance(1)
    with pytest.raises(Unavailable):
        world.network.result(refused)


def test_the_grace_ends_what_still_runs(world: World) -> None:
    world.start(world.server)
    world.channel.startService()
    called = world.call()
    done = world.parent.stopService()
    world.network.advance(4.9)
    assert not done.called
    world.network.advance(0.2)
    assert world.stopped(done)
    with pytest.raises(Unavailable):
        world.network.result(called)


def test_the_grace_may_be_set_later(world: World) -> None:
    world.start(world.server)
    world.channel.startService()
    world.call().addErrback(lambda _: None)
    world.server.grace = 1
    done = world.parent.stopService()
    world.network.advance(1.1)
    assert world.stopped(done)


@pytest.mark.parametrize("stop", ["stopService", "disownServiceParent"])
def test_stopping_again_waits_for_the_same_end(world: World, stop: str) -> None:
    world.start(world.server)
    world.channel.startService()
    world.call().addErrback(lambda _: None)
    first, second = getattr(world.server, stop)(), world.server.stopService()
    world.network.advance(4.9)
    third = world.server.stopService()
    assert not any(each.called for each in (first, second, third))
    world.network.advance(0.2)
    assert world.stopped(first)
    assert second.called
    assert third.called
    assert world.server.stopService().called


def test_stopping_what_has_not_started_does_nothing(world: World) -> None:
    for service in (world.server, world.channel):
        service.setServiceParent(world.parent)
        assert service.stopService().called
    assert world.parent.stopService().called
    world.parent.startService()
    assert world.server.running


@pytest.mark.parametrize("times", [2, 3])
def test_it_starts_again_after_it_has_stopped(world: World, times: int) -> None:
    world.start()
    for _ in range(times):
        called = world.call()
        world.service.results.pop().callback(text("y"))
        assert world.network.result(called).value == "y"
        done = world.parent.stopService()
        world.network.advance(2.1)
        assert world.stopped(done)
        world.parent.startService()
    assert world.server.running


def test_it_does_not_start_while_it_runs_or_stops(world: World) -> None:
    world.start()
    for service in (world.server, world.channel):
        with pytest.raises(RuntimeError, match="the service runs already"):
            service.startService()
    world.call().addErrback(lambda _: None)
    done = world.server.stopService()
    with pytest.raises(RuntimeError, match="the service still stops: start it when"):
        world.server.startService()
    world.network.advance(5)
    assert world.stopped(done)
    world.server.startService()
    assert world.server.endpoints == [ADDRESS]


def test_a_service_that_is_added_to_a_running_parent_starts(world: World) -> None:
    world.parent.startService()
    world.server.setServiceParent(world.parent)
    assert world.server.endpoints == [ADDRESS]
    done = world.server.disownServiceParent()
    assert done is not None
    assert world.stopped(done)
    assert world.server.parent is None
    world.server.setServiceParent(world.parent)
    assert world.server.running


def test_what_is_taken_from_a_parent_that_does_not_run_has_nothing_to_stop(world: World) -> None:
    world.server.setServiceParent(world.parent)
    assert world.server.disownServiceParent() is None


def test_an_application_takes_them_by_their_names(world: World) -> None:
    application: Any = Application("greeter")
    world.server.setName("server")
    world.server.setServiceParent(application)
    root: Any = IService(application)
    assert root.getServiceNamed("server") is world.server
    with pytest.raises(RuntimeError, match="cannot change name"):
        world.server.setName("other")
    root.privilegedStartService()
    assert world.is_free()  # what is made there would be another user's
    root.startService()
    assert not world.is_free()


@pytest.mark.parametrize("addresses", [[ADDRESS], [SECOND, ADDRESS]])
def test_a_port_in_use_fails_the_start_and_nothing_stays_open(
    world: World, addresses: list[str]
) -> None:
    other = Server(world.network, [Echo()])
    other.listen(ADDRESS)
    service = ServerService([world.service], addresses, factory=world.network)
    service.setServiceParent(world.parent)
    with pytest.raises(CannotListenError, match="it is in use"):
        world.parent.startService()
    assert (service.running, service.endpoints) == (0, [])
    world.network.run()
    assert world.is_free(SECOND)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = service.server
    assert world.parent.stopService().called
    other.stop(0)
    world.network.run()
    world.parent.startService()
    assert service.endpoints == addresses


def test_a_channel_that_cannot_be_made_fails_the_start(world: World) -> None:
    service = ChannelService(ADDRESS, factory=world.network, max_timeout=-1)
    service.setServiceParent(world.parent)
    with pytest.raises(ValueError, match="max_timeout must be"):
        world.parent.startService()
    assert service.running == 0


def test_services_are_made_when_it_starts_and_anew_each_time(world: World) -> None:
    made: list[Waiting] = []

    def make() -> list[Waiting]:
        made.append(Waiting())
        return [made[-1]]

    service = ServerService(make, ADDRESS, factory=world.network)
    assert made == []
    for count in (1, 2):
        service.startService()
        assert len(made) == count
        assert world.stopped(service.stopService())


def test_a_stop_while_services_are_made_is_the_end_of_the_start(world: World) -> None:
    def make() -> list[Echo]:
        stopped.append(service.stopService())
        return [Echo()]

    stopped: list[Deferred[None]] = []
    service = ServerService(make, ADDRESS, factory=world.network)
    service.startService()
    assert (service.running, world.is_free(), stopped[0].called) == (0, True, True)


def test_an_error_while_services_are_made_is_that_of_the_start(world: World) -> None:
    def make() -> list[Echo]:
        raise OSError("no database")

    service = ServerService(make, ADDRESS, factory=world.network)
    with pytest.raises(OSError, match="no database"):
        service.startService()
    assert service.running == 0


def test_calls_in_flight_end_with_the_channel(world: World) -> None:
    world.start(world.server)
    world.channel.startService()
    called = world.call()
    failed: list[BaseException] = []
    called.addErrback(lambda failure: failed.append(error_of(failure)))
    assert world.channel.stopService().called
    assert isinstance(failed[0], CancelledError)
    assert world.channel.stopService().called


def test_each_start_of_a_channel_has_a_resolver_of_its_own(world: World) -> None:
    made: list[StaticResolver] = []

    def resolver() -> StaticResolver:
        made.append(StaticResolver([ADDRESS]))
        return made[-1]

    world.channel = ChannelService(resolver, factory=world.network)
    world.start()
    world.channel.stopService()
    world.channel.startService()
    called = world.call()
    world.service.results[0].callback(text("y"))
    assert world.network.result(called).value == "y"
    assert len(made) == 2


# -- what is given ----------------------------------------------------------------------------


def arguments(*functions: Callable[..., Any]) -> dict[str, str]:
    """The keyword arguments of functions, with their types as they are written."""
    return {
        parameter.name: parameter.annotation
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


# Any: a TypedDict is no class that checkers would let be passed as one.
def types_of(options: Any) -> dict[str, str]:
    return {name: one.__forward_arg__ for name, one in options.__annotations__.items()}


def test_options_are_all_arguments_of_server_and_listen() -> None:
    assert types_of(ServerOptions) == arguments(Server, Server.listen)


def test_options_are_all_arguments_of_a_channel() -> None:
    assert types_of(ChannelOptions) == arguments(Channel)


def test_options_reach_the_server_and_its_listening(world: World) -> None:
    service = ServerService(
        [Echo()], ADDRESS, factory=world.network, limits=ServerLimits(running=3), publisher=SECOND
    )
    service.startService()
    assert service.server.limits.running == 3
    assert world.network.publisher(SECOND) is not None


WRONG: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "one service": (
        lambda: ServerService(Echo(), ADDRESS),  # type: ignore[arg-type]  # that is tried
        TypeError,
        "services must be a sequence of services, or .*; put the instance in a list",
    ),
    "no services": (
        lambda: ServerService(5, ADDRESS),  # type: ignore[arg-type]  # that is tried
        TypeError,
        "services must be a sequence of services, or a function that returns one, not 5",
    ),
    "a function of something": (
        lambda: ServerService(lambda port: [], ADDRESS),  # type: ignore[misc, arg-type]  # that is tried
        TypeError,
        r"services must be a function of \(\), and takes \(port\)",
    ),
    "a class": (
        lambda: ServerService(Echo, ADDRESS),  # type: ignore[arg-type]  # that is tried
        TypeError,
        "services must be .*, not the class Echo",
    ),
    "no address": (
        lambda: ServerService([], []),
        ValueError,
        "addresses is empty: a server needs one",
    ),
    "an address that is none": (
        lambda: ServerService([], [ADDRESS, 5]),  # type: ignore[list-item]  # that is tried
        TypeError,
        "addresses must be a str, not int",
    ),
    "addresses that are none": (
        lambda: ServerService([], b"x"),  # type: ignore[arg-type]  # that is tried
        TypeError,
        "addresses must be an address or a sequence of addresses, not b'x'",
    ),
    "a grace below 0": (
        lambda: ServerService([], ADDRESS, grace=-1),
        ValueError,
        "grace must be a number of 0 or more, not -1",
    ),
    "an unknown option": (
        lambda: ServerService([], ADDRESS, limit=5),  # type: ignore[call-arg]  # that is tried
        TypeError,
        r"ServerService\(\) has no argument limit; did you mean limits\?",
    ),
    "a publisher of several addresses": (
        lambda: ServerService([], [ADDRESS, SECOND], publisher="inproc://x"),
        ValueError,
        "publisher is for one address, and there are 2",
    ),
    "an unknown option of a channel": (
        lambda: ChannelService(ADDRESS, timout=5),  # type: ignore[call-arg]  # that is tried
        TypeError,
        r"ChannelService\(\) has no argument timout; did you mean timeout\?",
    ),
    "a malformed address": (
        lambda: ServerService([], "tcp://127.0.0.1"),
        ValueError,
        "addresses='tcp://127.0.0.1': ",
    ),
    "a malformed target": (
        lambda: ChannelService("127.0.0.1:5000"),
        ValueError,
        "target='127.0.0.1:5000': it has no scheme",
    ),
    "no target": (lambda: ChannelService([]), ValueError, "target is empty"),
    "a target that is none": (
        lambda: ChannelService(5),  # type: ignore[arg-type]  # that is tried
        TypeError,
        "target must be an address, several of them, or a resolver, not int",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_before_anything_starts(what: str) -> None:
    make, error, message = WRONG[what]
    with pytest.raises(error, match=f"^{message}"):
        make()
