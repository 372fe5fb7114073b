"""The mistakes that people make in their first hour: each is told at once, in words that help.

Of values, that is; test_mistaken_addresses.py and test_mistaken_order.py have other tables. Each
row says the type of the error, and words of it. That *every* wrong value is told with the name of
its parameter is tried in tests/house, and in test_wrong_results.py what handlers give.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.given import channel, server, untyped
from tests.rpc.mistaken import Mistake, told
from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import StreamWorld
from txzmq import ZmqFactory
from txzmq.rpc import (
    Blocking,
    Channel,
    Context,
    EndpointChange,
    Liveness,
    NotFound,
    Observer,
    RoundRobin,
    RpcError,
    Server,
    ServerLimits,
    Service,
    ServiceConfig,
    SocketOptions,
    StaticResolver,
    StreamWriter,
    Watched,
)
from txzmq.rpc.service_config import ServiceConfigError
from txzmq.rpc.v1.control_txzmq import ControlClient
from txzmq.testing import MemoryNetwork


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


class Awaited(Observer):
    async def started(self, source: Watched) -> None:  # type: ignore[override]  # that is what is tried
        raise AssertionError("nobody awaits it")


class ShortObserver(Observer):
    def endpoint_changed(self, change: EndpointChange) -> None:  # type: ignore[override]  # that is what is tried
        raise AssertionError("it cannot be called")


async def awaited(number: int) -> None:
    raise AssertionError("nobody awaits it")


class AwaitedPolicy:
    async def picker(self, endpoints: object, ready: object) -> None:
        raise AssertionError("nobody awaits it")


class ShortResolver(StaticResolver):
    def start(self, clock: object) -> None:  # type: ignore[override]  # that is what is tried
        raise AssertionError("it cannot be called")


async def nothing() -> None:
    raise AssertionError("nobody awaits it")


def not_awaited(caller: Any) -> None:
    coroutine = nothing()
    try:
        caller(coroutine)
    finally:
        coroutine.close()


class Misnamed:
    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO,))

    def ehco(self, request: StringValue, context: Context) -> StringValue:
        return request


class Underscored:
    __txzmq_service__ = Misnamed.__txzmq_service__
    echo_ = Misnamed.ehco


class Private:
    __txzmq_service__ = Misnamed.__txzmq_service__
    _echo = Misnamed.ehco


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
        (
            "policy must be a balancing policy, such as RoundRobin(), not the class RoundRobin; "
            "pass an instance, RoundRobin(...)"
        ),
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
    "a handler with an underscore behind its name": Mistake(
        lambda: server(Underscored()),
        TypeError,
        (
            "services: Underscored.echo is no method, and /test.Echo/Echo needs one; did you mean "
            "echo_?"
        ),
    ),
    "only a private method with a handler's name": Mistake(
        lambda: server(Private()),
        TypeError,
        "services: Private.echo is no method, and /test.Echo/Echo needs one",
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
    "a producer that is none": Mistake(
        lambda: untyped(StreamWriter()).registerProducer(object(), True),
        TypeError,
        "producer must be a producer, which has resumeProducing(), not an object of type object",
    ),
    "an asynchronous function that nobody would await": Mistake(
        lambda: StreamWorld().open(1).skip_gaps(awaited),
        TypeError,
        "told must be a function of (number), not an async def, which nobody would await",
    ),
    "an observer that nobody would await": Mistake(
        lambda: channel(observer=Awaited()),
        TypeError,
        "observer.started must be a function of (source), not an async def, which nobody would",
    ),
    "an observer of wrong arity": Mistake(
        lambda: channel(observer=ShortObserver()),
        TypeError,
        "observer.endpoint_changed must be a function of (source, change), and takes (change)",
    ),
    "metadata that are text": Mistake(
        lambda: untyped(channel()).unary_unary(ECHO, text("x"), metadata=b"tenant"),
        TypeError,
        "metadata must be a mapping, or pairs of key and value, not b'tenant'",
    ),
    "a policy that nobody would await": Mistake(
        lambda: channel(policy=AwaitedPolicy()),
        TypeError,
        "policy.picker must be a function of (endpoints, ready), not an async def, which nobody",
    ),
    "a resolver of wrong arity": Mistake(
        lambda: untyped(Channel)(MemoryNetwork(), ShortResolver(ADDRESS)),
        TypeError,
        "endpoint.start must be a function of (clock, listener), and takes (clock)",
    ),
    "a resolver's class": Mistake(
        lambda: untyped(Channel)(MemoryNetwork(), StaticResolver),
        TypeError,
        "endpoint must be a resolver, not the class StaticResolver; pass an instance, StaticRes",
    ),
    "the class of a request": Mistake(
        lambda: untyped(channel()).unary_unary(ECHO, StringValue),
        TypeError,
        "takes StringValue, not the class StringValue; pass an instance, StringValue(...)",
    ),
    "a request that is not there yet": Mistake(
        lambda: untyped(channel()).unary_unary(ECHO, Deferred()),
        TypeError,
        "takes StringValue, not Deferred; await it first",
    ),
    "requests that are not there yet": Mistake(
        lambda: untyped(StreamWorld()).collect(Deferred()),
        TypeError,
        "takes an iterable of requests, not Deferred; await it first",
    ),
    "a coroutine of requests": Mistake(
        lambda: not_awaited(StreamWorld().collect),
        TypeError,
        "takes an iterable of requests, not coroutine; await it first",
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
