"""A server whose methods are raw, by a service and by a fallback, and calls of all kinds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeAlias

from twisted.internet.defer import Deferred

from tests.rpc.ends import Outcome
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS
from txzmq.rpc import (
    Caller,
    Channel,
    Context,
    Kind,
    Method,
    MethodHandler,
    RawMessage,
    Server,
    Service,
    raw_method,
)
from txzmq.rpc.method import Sharing, StreamOptions
from txzmq.testing import MemoryNetwork, assert_all_given_back

Raw: TypeAlias = Method[RawMessage, RawMessage]

#: A method of each kind that gives back what it gets.
ECHOES: dict[Kind, Raw] = {
    kind: raw_method(f"/test.Raw/{kind.name.title().replace('_', '')}", kind) for kind in Kind
}
UNARY, STREAM = ECHOES[Kind.UNARY_UNARY], ECHOES[Kind.UNARY_STREAM]
COLLECT, CHAT = ECHOES[Kind.STREAM_UNARY], ECHOES[Kind.STREAM_STREAM]
SHARED = raw_method(
    "/test.Raw/Shared", Kind.UNARY_STREAM, stream=StreamOptions(sharing=Sharing.SHARED, replay=9)
)
RESUMED = raw_method("/test.Raw/Resumed", Kind.UNARY_STREAM, stream=StreamOptions(resumable=True))
METHODS: tuple[Raw, ...] = (*ECHOES.values(), SHARED, RESUMED)


class Echoes:
    """Gives back the bytes that it gets; one item for each, and those of a stream joined."""

    __txzmq_service__: ClassVar[Service] = Service("test.Raw", METHODS)

    def __init__(self) -> None:
        #: The requests that reached a handler, and the calls.
        self.seen: list[RawMessage] = []
        self.contexts: list[Context] = []

    def UnaryUnary(self, request: RawMessage, context: Context) -> Any:
        self.seen.append(request)
        self.contexts.append(context)
        return request

    async def UnaryStream(self, request: RawMessage, context: Context) -> Any:
        self.seen.append(request)
        self.contexts.append(context)
        return [request, request]

    Shared = Resumed = UnaryStream

    async def StreamUnary(self, requests: Any, context: Context) -> RawMessage:
        self.contexts.append(context)
        async for request in requests:
            self.seen.append(request)
        return RawMessage(b"".join(self.seen))

    async def StreamStream(self, requests: Any, context: Context) -> Any:
        self.contexts.append(context)
        async for request in requests:
            self.seen.append(request)
            yield request

    def find(self, path: str) -> MethodHandler[RawMessage, RawMessage] | None:
        """As a fallback."""
        found = [method for method in METHODS if method.path == path]
        return MethodHandler(found[0], getattr(self, found[0].name)) if found else None


class RawWorld:
    """A server in memory, and a channel to it."""

    def __init__(self, *, by_fallback: bool = False, fallback: Any = None, **options: Any) -> None:
        self.network = MemoryNetwork()
        self.service = Echoes()
        channel = {"interceptors": options.pop("client_interceptors", ())}
        if by_fallback:
            fallback = self.service.find
        services: list[Any] = options.pop("services", [] if fallback else [self.service])
        self.server = Server(self.network, services, fallback=fallback, **options)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, **channel)

    def call(self, method: Raw, *items: bytes, **options: Any) -> Deferred[list[RawMessage]]:
        return called(self.channel, method, [RawMessage(item) for item in items], **options)

    def result(self, method: Raw, *items: bytes, **options: Any) -> list[RawMessage]:
        """The responses to a call."""
        call = self.call(method, *items, **options)
        self.network.advance(1)
        return self.network.result(call)

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(3)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()
        assert_all_given_back(self.channel, self.server)


# Any: methods of any messages.
def called(
    caller: Caller, method: Method[Any, Any], items: Iterable[Any], **options: Any
) -> Deferred[list[Any]]:
    """Make a call of any kind; fires with its responses."""
    given: Any = list(items)
    if not method.kind.request_streaming:
        (given,) = given
    name = method.kind.name.lower()
    make: Callable[..., Any] = getattr(caller, name)
    made = make(method, given, **options)
    if isinstance(made, Deferred):
        one: Deferred[Any] = made  # pyright: ignore[reportUnknownVariableType]  # of anything
        return one.addCallback(lambda response: [response])

    async def read() -> list[Any]:
        return [item async for item in made]

    return Deferred.fromCoroutine(read())


def answering(answer: Any) -> Callable[[str], Any]:
    """A fallback that gives the same answer for each path."""

    def find(path: str) -> Any:
        return answer

    return find


class Asked:
    """A fallback that notes what it is asked for, and answers at once or when the test says so."""

    def __init__(self, *, waits: bool = False) -> None:
        self.service = Echoes()
        self.paths: list[str] = []
        self.waiting: list[tuple[str, Deferred[Any]]] = []
        self.given_up: list[object] = []
        self._waits = waits

    def __call__(self, path: str) -> Any:
        self.paths.append(path)
        if not self._waits:
            return self.service.find(path)
        deferred: Deferred[Any] = Deferred(self.given_up.append)
        self.waiting.append((path, deferred))
        return deferred

    def answer(self) -> None:
        """Answer all that wait."""
        waiting, self.waiting = self.waiting, []
        for path, deferred in waiting:
            if not deferred.called:
                deferred.callback(self.service.find(path))


async def echo(request: RawMessage, context: Context) -> RawMessage:
    return request


def each(path: str) -> MethodHandler[RawMessage, RawMessage]:
    """Serves whatever is asked for."""
    return MethodHandler(raw_method(path), echo)


def end_of(w: RawWorld, method: Raw = UNARY, **options: Any) -> Any:
    """How a call ends."""
    outcome = Outcome(w.call(method, b"x", **options))
    w.network.advance(1)
    return outcome.end


def connected(w: RawWorld) -> RawClient:
    """A client that speaks in frames."""
    client = RawClient(w.network, ADDRESS)
    w.network.run()
    return client
