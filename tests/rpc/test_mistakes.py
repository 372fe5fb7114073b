"""The mistakes that people make in their first hour: each is told at once, in words that help.

One table for each kind: of addresses, of values, and of the order of things. Each row says the type
of the error, and words of it. That *every* wrong value is told with the name of its parameter is
tried in tests/house, every form of an address in test_addresses.py, and in test_wrong_results.py
what handlers give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from tests.rpc.ends import Outcome
from tests.rpc.given import channel, server, untyped
from tests.rpc.service import ADDRESS, ECHO, MISSING, Echo, Waiting, World, text
from tests.rpc.streaming import StreamWorld
from txzmq import ZmqFactory
from txzmq.rpc import (
    Blocking,
    Channel,
    Context,
    DeadlineExceeded,
    Liveness,
    NotFound,
    RoundRobin,
    RpcError,
    Server,
    ServerLimits,
    Service,
    ServiceConfig,
    SocketOptions,
    StaticResolver,
    StreamWriter,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc.service_config import ServiceConfigError
from txzmq.rpc.v1.control_txzmq import ControlClient
from txzmq.testing import MemoryNetwork


class Mistake(NamedTuple):
    """What somebody does, and what is said of it."""

    make: Callable[..., Any]
    #: Exactly this one, and no subclass.
    error: type[Exception]
    words: str


def told(mistake: Mistake, *arguments: Any) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(mistake.error) as caught:
        mistake.make(*arguments)
    assert type(caught.value) is mistake.error
    assert mistake.words in str(caught.value)


# -- addresses ----------------------------------------------------------------------------------


def connect(address: Any) -> Callable[[ZmqFactory], object]:
    return lambda factory: Channel(factory, address)


def listen(address: Any, **options: Any) -> Callable[[ZmqFactory], object]:
    return lambda factory: Server(factory, [Echo()]).listen(address, **options)


ADDRESSES: Final = {
    "a port that is too large": Mistake(
        connect("tcp://127.0.0.1:99999"),
        ValueError,
        "endpoint='tcp://127.0.0.1:99999': '99999' is no port: it is over 65535. Use tcp://",
    ),
    "a port that is too large, to listen": Mistake(
        listen("tcp://127.0.0.1:99999"), ValueError, "'99999' is no port: it is over 65535"
    ),
    "a port with letters": Mistake(
        listen("tcp://127.0.0.1:45567abc"), ValueError, "'45567abc' is no port, a number from 1"
    ),
    "a port with a fraction": Mistake(
        connect("tcp://127.0.0.1:45567.5"), ValueError, "'45567.5' is no port, a number from 1"
    ),
    "a port past the largest by its digits": Mistake(
        listen("tcp://127.0.0.1:111103"), ValueError, "'111103' is no port: it is over 65535"
    ),
    "no scheme": Mistake(
        listen("127.0.0.1:5555"),
        ValueError,
        "address='127.0.0.1:5555': it has no scheme; tcp://127.0.0.1:5555 perhaps",
    ),
    "no port to listen at": Mistake(
        listen("tcp://127.0.0.1"), ValueError, "address='tcp://127.0.0.1': the port is missing"
    ),
    "no port to connect to": Mistake(
        connect("tcp://127.0.0.1"), ValueError, "endpoint='tcp://127.0.0.1': the port is missing"
    ),
    "a wildcard to connect to": Mistake(
        connect("tcp://*:5555"), ValueError, "'*' as host is for listening; name the host"
    ),
    "another protocol": Mistake(
        connect("http://x:1"), ValueError, "txzmq speaks ZeroMQ there, not HTTP"
    ),
    "bytes": Mistake(
        connect(b"tcp://127.0.0.1:1"), TypeError, "endpoint must be an address, several of them"
    ),
    "bytes to listen at": Mistake(
        listen(b"tcp://127.0.0.1:1"), TypeError, "address must be a str, not bytes"
    ),
    "None": Mistake(connect(None), TypeError, "or a resolver, not NoneType (None)"),
    "a number": Mistake(listen(5555), TypeError, "address must be a str, not int (5555)"),
    "a NUL": Mistake(connect("tcp://127.0.0.1:1\0"), ValueError, r"it contains '\x00'"),
    "no address at all": Mistake(connect([]), ValueError, "a channel needs an endpoint"),
    "a path that is too long": Mistake(
        listen("ipc:///" + "x" * 120), ValueError, "the path is too long: it has 121 bytes"
    ),
    "a path that is too long with its suffix": Mistake(
        listen("ipc:///" + "x" * 100), ValueError, "and '.streams' behind it for the publisher"
    ),
    "a range to listen at": Mistake(
        listen("tcp://127.0.0.1:5000-5003"), ValueError, "call listen() for each"
    ),
    "a range from high to low": Mistake(
        connect("tcp://127.0.0.1:5003-5000"), ValueError, "is reversed: use 5000-5003"
    ),
}


@pytest.mark.parametrize("mistake", ADDRESSES)
def test_a_mistake_in_an_address(factory: ZmqFactory, mistake: str) -> None:
    told(ADDRESSES[mistake], factory)
    assert not factory.connections


# -- values -------------------------------------------------------------------------------------


def one_argument(call: Any) -> Any:
    return call


def of_a_client(call: Any, proceed: Any) -> Any:
    return proceed(call)


class Short(Echo):
    def echo(self, request: StringValue) -> StringValue:  # type: ignore[override]  # that is what is tried
        return request


class ByName(Echo):
    def echo(self, request: StringValue, *, context: Context) -> StringValue:  # type: ignore[override]  # that is what is tried
        return request


class Anything(Echo):
    def echo(self, request: StringValue, **context: object) -> StringValue:  # type: ignore[override]  # that is what is tried
        return request


class NoHandler:
    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO,))
    echo = None


class Misnamed:
    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO,))

    def ehco(self, request: StringValue, context: Context) -> StringValue:
        return request


VALUES: Final = {
    "arguments in wrong order": Mistake(
        lambda: untyped(Channel)(ADDRESS, MemoryNetwork()),
        TypeError,
        f"factory must be a ZmqFactory or a network, not '{ADDRESS}'; it comes first",
    ),
    "a service before the factory": Mistake(
        lambda: untyped(Server)([Echo()], MemoryNetwork()),
        TypeError,
        "factory must be a ZmqFactory or a network, not an object of type list; it comes first",
    ),
    "a resolver before the factory": Mistake(
        lambda: untyped(Channel)(StaticResolver(ADDRESS), MemoryNetwork()),
        TypeError,
        "not an object of type StaticResolver; it comes first",
    ),
    "the factory's class": Mistake(
        lambda: untyped(Channel)(ZmqFactory, ADDRESS),
        TypeError,
        (
            "factory must be a ZmqFactory or a network, not the class ZmqFactory; pass an "
            "instance, ZmqFactory(...)"
        ),
    ),
    "a policy by its name": Mistake(
        lambda: channel(policy="roundrobin"),
        TypeError,
        (
            "policy must be a balancing policy, such as RoundRobin(), not 'roundrobin'; did you "
            "mean RoundRobin()?"
        ),
    ),
    "the policy's class": Mistake(
        lambda: channel(policy=RoundRobin),
        TypeError,
        "policy must be a balancing policy, such as RoundRobin(), not the class RoundRobin",
    ),
    "a negative timeout": Mistake(
        lambda: channel(timeout=-1),
        ValueError,
        "timeout must be a number above 0, not -1",
    ),
    "no end of a timeout": Mistake(
        lambda: channel(timeout=float("inf")),
        ValueError,
        "timeout must be a number above 0; for no limit it is None",
    ),
    "interceptors that are strings": Mistake(
        lambda: channel(interceptors=["log"]),
        TypeError,
        "interceptors[0] must be a function of (call, proceed), not 'log'",
    ),
    "an interceptor outside of a list": Mistake(
        lambda: channel(interceptors=one_argument),
        TypeError,
        (
            "interceptors must be a sequence of functions of (call, proceed), not an object of "
            "type function: put it in a list"
        ),
    ),
    "an interceptor of the other side": Mistake(
        lambda: server(Echo(), interceptors=[of_a_client]),
        TypeError,
        (
            "interceptors[0] must be a function of (request, context, proceed), and takes "
            "(call, proceed)"
        ),
    ),
    "a service class": Mistake(
        lambda: server(Echo),
        TypeError,
        "services[0] must be a service, not the class Echo; pass an instance, Echo()",
    ),
    "a service outside of a list": Mistake(
        lambda: untyped(Server)(MemoryNetwork(), Echo()),
        TypeError,
        (
            "services must be a sequence of services, not an object of type Echo; put the instance "
            "in a list"
        ),
    ),
    "something that is no service": Mistake(
        lambda: server(object()),
        TypeError,
        (
            "services[0] must be a service, not an object of type object, which is no subclass of "
            "a generated <Service>Base"
        ),
    ),
    "a handler of wrong arity": Mistake(
        lambda: server(Short()),
        TypeError,
        "services: Short.echo must take a request and a context, and takes (request)",
    ),
    "a handler that takes its context by name": Mistake(
        lambda: server(ByName()),
        TypeError,
        "services: ByName.echo must take a request and a context, and takes (request, *, context)",
    ),
    "a handler that takes anything by name": Mistake(
        lambda: server(Anything()), TypeError, "and takes (request, **context)"
    ),
    "a handler that is None": Mistake(
        lambda: server(NoHandler()),
        TypeError,
        "services: NoHandler.echo is no method but None, and /test.Echo/Echo needs one",
    ),
    "a handler with another name": Mistake(
        lambda: server(Misnamed()),
        TypeError,
        "services: Misnamed.echo is no method, and /test.Echo/Echo needs one; did you mean ehco?",
    ),
    "a limit below 0": Mistake(
        lambda: ServerLimits(running=-1),
        ValueError,
        "running must be an integer of 0 or more, not -1",
    ),
    "a limit of no method": Mistake(
        lambda: ServerLimits(running_per_method={"Echo": 1}),
        ValueError,
        "running_per_method takes the paths of methods, /package.Service/Method, and not 'Echo'",
    ),
    "a ping later than death": Mistake(
        lambda: Liveness(ping_interval=30),
        ValueError,
        "ping_interval must be at most dead_after (20.0), not 30",
    ),
    "an option past libzmq's": Mistake(
        lambda: SocketOptions(backlog=2**31),
        ValueError,
        "backlog must be an integer from 1 to 214748364, not 2147483648",
    ),
    "an exception as message": Mistake(
        lambda: untyped(NotFound)(KeyError("x")),
        TypeError,
        "the message of NotFound must be str, not an object of type KeyError",
    ),
    "a message without a code": Mistake(
        lambda: untyped(RpcError)("no such user"),
        TypeError,
        "RpcError takes a code first, not 'no such user'",
    ),
    "a client made with an address": Mistake(
        lambda: untyped(ControlClient)(ADDRESS),
        TypeError,
        (
            f"the channel of ControlClient must be a Channel, not '{ADDRESS}': "
            f"ControlClient(Channel(factory, '{ADDRESS}'))"
        ),
    ),
    "a client for a channel": Mistake(
        lambda: untyped(Blocking)(ControlClient(channel())),
        TypeError,
        (
            "owner must be a Channel or ZmqFactory, not an object of type ControlClient; a client "
            "is made with its channel"
        ),
    ),
    "a call in place of a method": Mistake(
        lambda: untyped(Blocking(channel()))(Deferred()),
        TypeError,
        (
            "function must be a method of a client, not an object of type Deferred; pass the "
            "method and its arguments, and do not call it yourself"
        ),
    ),
    "text as an error": Mistake(
        lambda: untyped(StreamWriter()).fail("text"),
        TypeError,
        "error must be an exception, not 'text'",
    ),
    "a misspelt key of a service config": Mistake(
        lambda: ServiceConfig.parse({"methodConfg": []}),
        ServiceConfigError,
        "methodConfg: is not known; did you mean methodConfig?",
    ),
    "the same given to a channel": Mistake(
        lambda: channel(service_config={"methodConfg": []}),
        ServiceConfigError,
        "service_config: methodConfg: is not known; did you mean methodConfig?",
    ),
    "a service config that is no JSON": Mistake(
        lambda: channel(service_config="{"),
        ServiceConfigError,
        "service_config: the config is not JSON: ",
    ),
}


@pytest.mark.parametrize("mistake", VALUES)
def test_a_mistake_in_a_value(mistake: str) -> None:
    told(VALUES[mistake])


def test_no_name_is_suggested_in_its_own_place() -> None:
    with pytest.raises(TypeError) as caught:
        server(NoHandler())
    assert "did you mean" not in str(caught.value)


# -- order --------------------------------------------------------------------------------------


def listen_twice() -> None:
    network = MemoryNetwork()
    for _ in range(2):
        Server(network, [Echo()]).listen(ADDRESS)


def listen_after_the_end() -> None:
    stopped = server(Echo())
    stopped.stop()
    stopped.listen(ADDRESS)


def result(call: Deferred[Any], network: MemoryNetwork) -> None:
    outcome = Outcome(call)
    network.advance(5)
    assert isinstance(outcome.end, Exception)
    raise outcome.end


def call_after_the_end() -> None:
    world = World()
    world.channel.close()
    result(world.call(), world.network)


def call_nobody() -> None:
    world = World(serve=False)
    result(world.call(), world.network)


def call_what_is_not_served() -> None:
    world = World()
    result(world.call(method=MISSING), world.network)


def call_with_another_message() -> None:
    world = World()
    result(untyped(world.channel).unary_unary(ECHO, Int32Value()), world.network)


def call_during_a_drain() -> None:
    world = World(Waiting())
    world.call().addErrback(str)
    world.network.run()
    world.server.stop(grace=60)
    world.network.run()
    result(world.call(timeout=1), world.network)


def stream_one_message() -> None:
    world = StreamWorld()
    result(world.collect(text("secret")), world.network)


def loop_over_a_stream() -> None:
    world = StreamWorld()
    for _ in untyped(world.open(1)):
        raise AssertionError("it cannot be read so")


ORDER: Final = {
    "an address in use": Mistake(listen_twice, CannotListenError, ADDRESS),
    "to listen after the end": Mistake(listen_after_the_end, RuntimeError, "the server is stopped"),
    "a call after the end": Mistake(call_after_the_end, Unavailable, "the channel is closed"),
    "a call to nobody": Mistake(call_nobody, Unavailable, "no server can be reached"),
    "a call of another proto": Mistake(
        call_what_is_not_served, Unimplemented, "the server has no method /test.Echo/Missing"
    ),
    "a call during a drain": Mistake(
        call_during_a_drain, DeadlineExceeded, "the server is shutting down"
    ),
    "another message": Mistake(call_with_another_message, TypeError, "takes StringValue, not"),
    "a message where requests are due": Mistake(
        stream_one_message,
        TypeError,
        "takes an iterable of requests, not StringValue; put it in a list",
    ),
    "a loop without async": Mistake(
        loop_over_a_stream, TypeError, "a stream is read by `async for`, in a coroutine, not by"
    ),
}


@pytest.mark.parametrize("mistake", ORDER)
def test_a_mistake_in_the_order_of_things(mistake: str) -> None:
    told(ORDER[mistake])
