"""A service of well-known types, so that no test of the runtime needs the generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import ClassVar, ParamSpec, Protocol, TypeVar

from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred

from txzmq.rpc import (
    Caller,
    Channel,
    Context,
    Kind,
    Method,
    Observer,
    Server,
    Service,
    UnaryResult,
)
from txzmq.rpc.limits import ServerLimits
from txzmq.testing import Faults, MemoryNetwork

ADDRESS = "inproc://service"

ECHO = Method("/test.Echo/Echo", "echo", StringValue, StringValue)
OTHER = Method("/test.Echo/Other", "other", StringValue, StringValue)
MISSING = Method("/test.Echo/Missing", "missing", StringValue, StringValue)
WATCH = Method("/test.Echo/Watch", "watch", StringValue, StringValue, kind=Kind.UNARY_STREAM)
#: What clients of another version of the proto take the methods for.
ECHO_AS_BYTES = Method("/test.Echo/Echo", "echo", BytesValue, BytesValue)
OTHER_AS_ANY = Method("/test.Echo/Other", "other", StringValue, ListValue)


def text(value: str) -> StringValue:
    return StringValue(value=value)


class Echo:
    """Handlers that tests replace; by default they answer at once."""

    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO, OTHER, WATCH))

    def __init__(self) -> None:
        #: The requests that reached a handler.
        self.seen: list[str] = []
        self.contexts: list[Context] = []

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        return text(request.value)

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        return text(f"other {request.value}")

    def watch(self, request: StringValue, context: Context) -> list[StringValue]:
        raise AssertionError("streams are not served")

    def note(self, request: StringValue, context: Context) -> None:
        self.seen.append(request.value)
        self.contexts.append(context)


class Waiting(Echo):
    """Answers when the test says so: it fires ``results``, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Deferred[StringValue]] = []

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        return self.wait()

    def wait(self) -> Deferred[StringValue]:
        """A result that the test fires."""
        self.results.append(Deferred())
        return self.results[-1]


class Stubborn(Waiting):
    """Goes on when it is cancelled."""

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        while True:
            with suppress(CancelledError):
                return await self.wait()


class World:
    """A server and a channel in memory."""

    def __init__(
        self,
        service: Echo | None = None,
        *,
        limits: ServerLimits | None = None,
        debug: bool = False,
        faults: Faults | None = None,
        serve: bool = True,
        batching: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self.network = MemoryNetwork(faults)
        self.service = Echo() if service is None else service
        self.server = Server(
            self.network,
            [self.service],
            limits=limits,
            debug=debug,
            batching=batching,
            observer=observer,
        )
        if serve:
            self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, batching=batching, observer=observer)

    def call(
        self,
        value: str = "x",
        *,
        method: Method[StringValue, StringValue] = ECHO,
        timeout: float | None = None,
        metadata: dict[str, str | bytes] | None = None,
        wait_for_ready: bool | None = None,
        caller: Caller | None = None,
    ) -> Deferred[StringValue]:
        return (caller or self.channel).unary_unary(
            method, text(value), timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(1)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()


Worlds = Callable[..., World]


class Closable(Protocol):
    """What a test has to close; closing it checks that nothing is left of it."""

    def close(self) -> None: ...


AnyWorld = TypeVar("AnyWorld", bound=Closable)
Parameters = ParamSpec("Parameters")


def closing() -> Iterator[list[World]]:
    """For a fixture: a list to put worlds in, which are closed at the end."""
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        world.close()


def made(build: Callable[Parameters, AnyWorld]) -> Iterator[Callable[Parameters, AnyWorld]]:
    """For a fixture: a function that makes worlds, which are closed at the end."""
    worlds: list[AnyWorld] = []

    def make(*arguments: Parameters.args, **options: Parameters.kwargs) -> AnyWorld:
        worlds.append(build(*arguments, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
