"""A server and a channel whose reactor runs in a thread of its own, and what other threads do."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ECHO, OTHER, WATCH, Waiting, text
from tests.rpc.streaming import CHAT, COLLECT
from tests.support import PATIENCE, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Blocking, Channel, Context, NotFound, ResponseStream, Server

T = TypeVar("T")


class Outcome(threading.Thread, Generic[T]):
    """What a function does in a thread of its own."""

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(name="worker")
        self._function = function
        self.results: list[T] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.results.append(self._function())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self) -> BaseException | None:
        """Wait for the end; what the function raised."""
        self.join(PATIENCE)
        assert not self.is_alive(), "it waits for ever"
        return self.error


class Handlers(Waiting):
    """``echo`` waits, ``other`` answers at once; ``watch`` waits until it is cancelled."""

    watching: Deferred[list[StringValue]]

    def other(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        if request.value == "missing":
            raise NotFound("no such thing", metadata={"a": "b"}.items())
        if request.value == "bug":
            raise ZeroDivisionError
        return text(f"other {request.value}")

    def watch(self, request: StringValue, context: Context) -> Deferred[list[StringValue]]:  # type: ignore[override]  # later
        self.note(request, context)
        self.watching = Deferred()
        return self.watching


class World:
    """A server, a channel and a reactor in a thread of its own."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.service = Handlers()
        self.server = Server(self.factory, [self.service])
        self.endpoint = self.server.listen("tcp://127.0.0.1:*")
        self.channel = Channel(self.factory, self.endpoint)
        self.blocking = Blocking(self.channel)

    def echo(self, value: str, *, timeout: float | None = None) -> Deferred[StringValue]:
        return self.channel.unary_unary(ECHO, text(value), timeout=timeout)

    def other(self, value: str, *, timeout: float | None = None) -> Deferred[StringValue]:
        return self.channel.unary_unary(OTHER, text(value), timeout=timeout)

    def watch(self) -> ResponseStream[StringValue]:
        return self.channel.unary_stream(WATCH, text("watched"))

    def in_reactor(self, function: Callable[[], object]) -> None:
        """Have the reactor's thread do something; does not wait for it."""
        self.loop.reactor.callFromThread(function)

    def block(self) -> Callable[[], None]:
        """Block the reactor until the function that is returned is called."""
        blocked, release = threading.Event(), threading.Event()

        def wait() -> None:
            blocked.set()
            release.wait(PATIENCE)

        self.in_reactor(wait)
        assert blocked.wait(PATIENCE)
        return release.set


def until(condition: Callable[[], object]) -> None:
    """Wait, in a thread that is not the reactor's, for what has no event."""
    end = time.monotonic() + PATIENCE
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < end
        tick.wait(0.001)


def until_garbage(condition: Callable[[], object]) -> None:
    """Wait for what comes of an object that is forgotten; PyPy does not count references."""

    def look() -> object:
        gc.collect()
        return condition()

    until(look)


def calls_of(channel: Channel) -> dict[str, Callable[[], object]]:
    """One of each kind."""
    return {
        "call": lambda: channel.unary_unary(OTHER, text("x")),
        "call with a stream of responses": lambda: channel.unary_stream(WATCH, text("x")),
        "call with a stream of requests": lambda: channel.stream_unary(COLLECT, []),
        "call with both": lambda: channel.stream_stream(CHAT, []),
    }


def uses(
    world: World, call: Deferred[StringValue], stream: ResponseStream[StringValue]
) -> dict[str, Callable[[], object]]:
    return {
        **calls_of(world.channel),
        "cancelling a call": call.cancel,
        "cancelling a stream": stream.cancel,
        "channel.close": world.channel.close,
        "a new channel": lambda: Channel(world.factory, world.endpoint),
        "listen": lambda: world.server.listen("tcp://127.0.0.1:*"),
        "stop": world.server.stop,
    }
