"""The mistakes that people make in the order of things: each is told at once, in words that help.

Each row says the type of the error, and words of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from google.protobuf.wrappers_pb2 import Int32Value
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from zmq import ZMQError

from tests.rpc.ends import Outcome
from tests.rpc.given import server, untyped
from tests.rpc.mistaken import Mistake, told
from tests.rpc.service import ADDRESS, ECHO, MISSING, Echo, Waiting, World, text
from tests.rpc.streaming import StreamWorld
from txzmq import ZmqFactory, ZmqREPConnection
from txzmq.rpc import (
    Channel,
    DeadlineExceeded,
    ResponseMetadata,
    Server,
    Unavailable,
    Unimplemented,
)
from txzmq.testing import MemoryNetwork


def listen_twice() -> None:
    network = MemoryNetwork()
    for _ in range(2):
        Server(network, [Echo()]).listen(ADDRESS)


def listen_after_the_end() -> None:
    stopped = server(Echo())
    stopped.stop()
    stopped.listen(ADDRESS)


def of_a_closed_factory(make: Callable[[ZmqFactory], object]) -> Callable[[], None]:
    def mistake() -> None:
        factory = ZmqFactory()
        factory.shutdown()
        make(factory)

    return mistake


def listen_at_a_closed_factory() -> None:
    factory = ZmqFactory()
    late = Server(factory, [Echo()])
    factory.shutdown()
    late.listen("tcp://127.0.0.1:*")


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


def metadata_within_itself() -> None:
    with ResponseMetadata() as metadata, metadata:
        raise AssertionError("it cannot be entered again")


CLOSED: Final = "the ZmqFactory was shut down; make a new one"

ORDER: Final = {
    "the same metadata within itself": Mistake(
        metadata_within_itself, RuntimeError, "a ResponseMetadata is entered already"
    ),
    "a channel of a closed factory": Mistake(
        of_a_closed_factory(lambda factory: Channel(factory, ADDRESS)), ZMQError, CLOSED
    ),
    "a channel to a name of a closed factory": Mistake(
        of_a_closed_factory(lambda factory: Channel(factory, "dns:///name:5")), ZMQError, CLOSED
    ),
    "a server of a closed factory": Mistake(
        of_a_closed_factory(lambda factory: Server(factory, [Echo()])), ZMQError, CLOSED
    ),
    "a socket of a closed factory": Mistake(
        of_a_closed_factory(ZmqREPConnection), ZMQError, CLOSED
    ),
    "to listen by a closed factory": Mistake(listen_at_a_closed_factory, ZMQError, CLOSED),
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
