"""What is said of what users give, where more than an error at the call is due.

Warnings, what one object may serve, streams that are used in another way, and programs in which
nothing can run. Mistakes that are told at once are in test_mistakes.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.programs import running, succeeds
from tests.rpc.ends import Outcome
from tests.rpc.given import channel, server, untyped
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, made, text
from tests.rpc.streaming import COLLECT, StreamWorld, Worlds
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Context,
    Method,
    Server,
    ServerLimits,
    Service,
    StreamWriter,
)
from txzmq.rpc.method import require_caller
from txzmq.testing import MemoryNetwork


def test_what_stands_for_a_channel_may_have_one_kind_of_call() -> None:
    class OfOneKind:
        def unary_unary(self) -> None:
            raise AssertionError("not called")

    require_caller(OfOneKind(), "a client")


def test_a_limit_of_a_method_that_is_not_served_is_warned_of(logged: Logged) -> None:
    server(Echo(), limits=ServerLimits(running_per_method={"/test.Echo/Ecko": 1, ECHO.path: 1}))
    (event,) = logged.warnings()
    assert event["log_format"].format(**event) == (
        "running_per_method limits /test.Echo/Ecko, which the server does not serve; did you mean "
        "/test.Echo/Echo?"
    )


def test_an_item_after_the_end_of_a_writer_is_warned_of_once(logged: Logged) -> None:
    writer: StreamWriter[StringValue] = StreamWriter()
    writer.finish()
    assert not writer.write(text("x"))
    assert not writer.write(text("y"))
    (event,) = logged.warnings()
    assert "after its end" in event["log_format"]


# -- several services of one object ------------------------------------------------------------

SHOUT = Method("/test.Shout/Shout", "shout", StringValue, StringValue)
ECHO_AGAIN = Method("/test.Again/Echo", "echo", StringValue, StringValue)
ECHO_OTHERWISE = Method("/test.Otherwise/Echo", "echo", ListValue, StringValue)


class Shout:
    __txzmq_service__: ClassVar[Service] = Service("test.Shout", (SHOUT,))

    def shout(self, request: StringValue, context: Context) -> StringValue:
        return text(request.value.upper())


class Both(Echo, Shout):
    pass


def test_one_object_serves_all_services_that_it_implements() -> None:
    network = MemoryNetwork()
    serving = Server(network, [Both()])
    serving.listen(ADDRESS)
    calling = Channel(network, ADDRESS)
    assert network.result(calling.unary_unary(ECHO, text("x"))).value == "x"
    assert network.result(calling.unary_unary(OTHER, text("x"))).value == "other x"
    assert network.result(calling.unary_unary(SHOUT, text("x"))).value == "X"
    calling.close()
    serving.stop(0)
    network.advance(1)


def test_a_subclass_may_describe_a_service_anew() -> None:
    class More(Echo):
        __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO, OTHER))

    assert server(More())


def test_one_handler_serves_two_methods_of_the_same_messages() -> None:
    class Again:
        __txzmq_service__: ClassVar[Service] = Service("test.Again", (ECHO_AGAIN,))

    class Twice(Echo, Again):
        pass

    assert server(Twice())


def test_one_handler_cannot_serve_two_methods_of_differing_messages() -> None:
    class Otherwise:
        __txzmq_service__: ClassVar[Service] = Service("test.Otherwise", (ECHO_OTHERWISE,))

    class Twice(Echo, Otherwise):
        pass

    with pytest.raises(ValueError, match=r"Twice\.echo is to serve both"):
        server(Twice())


# -- calls -------------------------------------------------------------------------------------


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.mark.parametrize(
    "wrong",
    [
        text("secret"),
        ListValue(),
        None,
        3,
        "secret",
        b"secret",
        bytearray(b"secret"),
        {"secret": text("x")},
    ],
)
def test_what_gives_no_requests_is_not_shown(make: Worlds, wrong: Any) -> None:
    world = make()
    with pytest.raises(TypeError) as caught:
        world.collect(wrong)
    name, hint = type(wrong).__name__, "; put it in a list" if hasattr(wrong, "Clear") else ""
    assert str(caught.value) == f"{COLLECT.path} takes an iterable of requests, not {name}{hint}"


async def reading_wrongly(stream: Any) -> None:
    for _ in stream:
        raise AssertionError("it cannot be read so")


async def awaiting(stream: Any) -> None:
    await stream


@pytest.mark.parametrize("read", [reading_wrongly, awaiting])
def test_a_stream_that_is_not_read_by_async_for(make: Worlds, read: Any) -> None:
    world = make()
    outcome = Outcome(Deferred.fromCoroutine(read(world.open(1))))
    assert "a stream is read by `async for`" in str(outcome.end)


def test_a_method_that_is_none() -> None:
    with pytest.raises(TypeError, match="method must be a Method of generated code, not 'echo'"):
        untyped(channel()).unary_unary("echo", text("x"))


# -- the end of each() -------------------------------------------------------------------------


def test_who_cancels_a_stream_need_not_handle_that_it_ends(make: Worlds, logged: Logged) -> None:
    world = make()
    stream = world.open(5)
    stream.each(print)
    stream.cancel()
    world.network.advance(1)
    gc.collect()
    assert not logged.failures()


def test_who_waits_for_each_is_told_that_the_stream_was_cancelled(make: Worlds) -> None:
    world = make()
    stream = world.open(5)
    done = stream.each(print)
    stream.cancel()
    world.network.advance(1)
    outcome = Outcome(done)
    assert type(outcome.end) is CancelledError


def test_what_a_callback_raises_is_to_be_handled(make: Worlds, logged: Logged) -> None:
    def fail_to_take(item: StringValue) -> None:
        raise CancelledError("of something else")

    world = make()
    world.open(5).each(fail_to_take)
    world.network.advance(1)
    gc.collect()
    assert [str(error) for error in logged.failures()] == ["of something else"]


# -- programs ----------------------------------------------------------------------------------

CALL = f"""
from google.protobuf.wrappers_pb2 import StringValue
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Method
METHOD = Method("{ECHO.path}", "echo", StringValue, StringValue)
def call():
    factory = ZmqFactory()
    Channel(factory, "inproc://nobody").unary_unary(METHOD, StringValue())
"""


SERVER = """
from txzmq import ZmqFactory
from txzmq.rpc import Server
def listen():
    Server(ZmqFactory(), []).listen("inproc://server")
def connect():
    Server(ZmqFactory(), []).connect("inproc://nobody")
"""
PROGRAMS = {
    "call": (CALL, "calls were made"),
    "listen": (SERVER, "a server was to answer"),
    "connect": (SERVER, "a server was to answer"),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_never_runs_the_reactor_is_told(what: str) -> None:
    code, said = PROGRAMS[what]
    program = f"import sys\nsys.stderr = sys.stdout\n{code}{what}()"
    assert f"{said}, and the reactor never ran" in succeeds(["-W", "default", "-c", program])


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_ends_by_an_exception_is_not_told_what_it_never_came_to(what: str) -> None:
    code, _ = PROGRAMS[what]
    with running("-W", "default", "-c", f"{code}{what}()\nraise KeyError('the port')") as program:
        assert program.wait() == 1
    assert program.output[-1] == "KeyError: 'the port'"


@pytest.mark.parametrize("what", PROGRAMS)
def test_asyncio_without_its_reactor_is_told(what: str) -> None:
    program = f"""
import asyncio, warnings
{PROGRAMS[what][0]}
async def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        {what}()
    print(*(str(warning.message)[:60] for warning in caught if warning.category is RuntimeWarning))
asyncio.run(main())
"""
    said = succeeds(["-W", "ignore", "-c", program])
    assert said == "asyncio's loop runs here, and Twisted's reactor does not: no"
