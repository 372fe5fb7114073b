"""Functions around calls, on both sides, in memory and in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.leftovers import leftovers
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, Waiting, World, text
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientInterceptor,
    ClientProceed,
    Context,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResponseMetadata,
    RpcError,
    Server,
    ServerInterceptor,
    ServerProceed,
    Unauthenticated,
    Unavailable,
    Unknown,
    detached,
)
from txzmq.testing import MemoryNetwork


class Intercepted(World):
    """A server and a channel whose calls go through interceptors."""

    def __init__(
        self,
        service: Echo | None = None,
        *,
        client: list[ClientInterceptor] | None = None,
        server: list[ServerInterceptor] | None = None,
        serve: bool = True,
    ) -> None:
        self.network = MemoryNetwork()
        self.service = Echo() if service is None else service
        self.server = Server(self.network, [self.service], interceptors=server or [])
        if serve:
            self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, interceptors=client or [])


class Worlds:
    """Makes worlds and ends them."""

    def __init__(self) -> None:
        self.made: list[World] = []

    def __call__(
        self,
        service: Echo | None = None,
        *,
        client: list[ClientInterceptor] | None = None,
        server: list[ServerInterceptor] | None = None,
        serve: bool = True,
    ) -> Intercepted:
        world = Intercepted(service, client=client, server=server, serve=serve)
        self.made.append(world)
        return world


@pytest.fixture
def make() -> Iterator[Worlds]:
    """Make a server and a channel; at the end nothing of them may be left."""
    worlds = Worlds()
    yield worlds
    for world in worlds.made:
        world.close()


def at_client(name: str, seen: list[str]) -> ClientInterceptor:
    async def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        seen.append(f"{name} {call.method.path} {call.request.value}")
        try:
            response = await proceed(call)
        except RpcError as error:
            seen.append(f"{name} {error.code.name}")
            raise
        seen.append(f"{name} {response.value}")
        return response

    return interceptor


def at_server(name: str, seen: list[str]) -> ServerInterceptor:
    async def interceptor(request: Any, context: Context, proceed: ServerProceed) -> Any:
        seen.append(f"{name} {context.method} {request.value}")
        try:
            response = await proceed(request)
        except BaseException as error:
            seen.append(f"{name} {error!r}")
            raise
        seen.append(f"{name} {response.value}")
        return response

    return interceptor


def test_the_first_one_is_outermost(make: Worlds) -> None:
    seen: list[str] = []
    world = make(
        client=[at_client("c1", seen), at_client("c2", seen)],
        server=[at_server("s1", seen), at_server("s2", seen)],
    )
    assert world.network.result(world.call("x", method=OTHER)).value == "other x"
    path = OTHER.path
    assert seen == [
        f"c1 {path} x",
        f"c2 {path} x",
        f"s1 {path} x",
        f"s2 {path} x",
        "s2 other x",
        "s1 other x",
        "c2 other x",
        "c1 other x",
    ]


def test_they_see_errors_and_may_answer_with_others(make: Worlds) -> None:
    seen: list[str] = []

    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise NotFound("nobody")

    def hide(request: Any, context: Context, proceed: ServerProceed) -> Deferred[Any]:
        def hidden(failure: Any) -> None:
            failure.trap(NotFound)
            raise PermissionDenied("nothing to see")

        return proceed(request).addErrback(hidden)

    world = make(Service(), client=[at_client("c", seen)], server=[hide, at_server("s", seen)])
    with pytest.raises(PermissionDenied, match="nothing to see"):
        world.network.result(world.call())
    assert seen[1:] == [
        f"s {ECHO.path} x",
        "s <NotFound NOT_FOUND: nobody>",
        "c PERMISSION_DENIED",
    ]


def test_they_may_answer_without_going_on(make: Worlds) -> None:
    def cached(call: ClientCall, proceed: ClientProceed) -> Any:
        return text("cached") if call.request.value == "x" else proceed(call)

    def greet(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return text("greeted") if request.value == "y" else proceed(request)

    world = make(client=[cached], server=[greet])
    assert world.network.result(world.call("x")).value == "cached"
    assert world.network.result(world.call("y")).value == "greeted"
    assert world.service.seen == []
    assert world.network.result(world.call("z")).value == "z"


def test_they_may_change_the_request_and_its_metadata(make: Worlds) -> None:
    def client(call: ClientCall, proceed: ClientProceed) -> Any:
        changed = call.replace(
            request=text(f"{call.request.value}!"),
            metadata={**dict(call.metadata), "added": "1"},
            wait_for_ready=True,
        )
        assert changed.wait_for_ready
        assert changed.deadline == call.deadline
        return proceed(changed)

    def server(request: Any, context: Context, proceed: ServerProceed) -> Any:
        context.set_trailing_metadata({"seen": "yes"})
        return proceed(text(f"{request.value}?"))

    world = make(client=[client], server=[server])
    with ResponseMetadata() as metadata:
        answer = world.call("x", metadata={"own": "2"})
    assert world.network.result(answer).value == "x!?"
    assert world.service.contexts[0].metadata == (("own", "2"), ("added", "1"))
    assert metadata.trailing == (("seen", "yes"),)


def test_going_on_again_gives_no_more_time(make: Worlds) -> None:
    attempts: list[float | None] = []

    async def insist(call: ClientCall, proceed: ClientProceed) -> Any:
        while True:
            attempts.append(call.time_remaining())
            try:
                return await proceed(call.replace(timeout=2))
            except DeadlineExceeded:
                if not call.time_remaining():
                    raise

    world = make(Waiting(), client=[insist])
    errors: list[Any] = []
    world.call(timeout=5).addErrback(errors.append)
    world.network.advance(5.1)
    assert attempts == pytest.approx([5, 3, 1], abs=0.01)
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_the_deadline_ends_an_interceptor_that_waits_for_something_else(make: Worlds) -> None:
    ended: list[str] = []

    async def hang(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            await Deferred[None]()
        except CancelledError:
            ended.append("cancelled")
        return text("too late to matter")

    world = make(client=[hang])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert ended == ["cancelled"]
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_a_call_in_time_says_itself_what_became_of_it(make: Worlds) -> None:
    seen: list[str] = []
    world = make(Waiting(), client=[at_client("c", seen)])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert seen[1:] == ["c DEADLINE_EXCEEDED"]
    assert "may have been executed" in str(errors[0].value)


def test_cancelling_and_closing_end_calls_that_interceptors_have(make: Worlds) -> None:
    ended: list[str] = []

    async def hang(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            await Deferred[None]()
        except CancelledError:
            ended.append(call.request.value)
            raise

    world = make(client=[hang])
    errors: list[Any] = []
    first, second = world.call("1"), world.call("2")
    first.addErrback(errors.append)
    second.addErrback(errors.append)
    first.cancel()
    assert [error.type for error in errors] == [CancelledError]
    world.channel.close()
    assert [error.type for error in errors] == [CancelledError, CancelledError]
    assert ended == ["1", "2"]
    with pytest.raises(Unavailable, match="closed"):
        world.network.result(world.call("3"))


def test_cancelling_reaches_the_server_through_interceptors(make: Worlds) -> None:
    seen: list[str] = []
    service = Waiting()
    world = make(service, client=[at_client("c", seen)], server=[at_server("s", seen)])
    answer = world.call()
    answer.addErrback(lambda _: text("cancelled"))
    world.network.run()
    answer.cancel()
    world.network.run()
    assert seen[-1].startswith("s CancelledError(")
    assert world.server.running == 0


def test_what_is_wrong_with_an_interceptor_is_told_its_own_side(make: Worlds) -> None:
    def crash(*_: object) -> Any:
        raise ZeroDivisionError("mine")

    def wrong(*_: object) -> Any:
        return BytesValue()

    world = make(client=[crash])
    with pytest.raises(ZeroDivisionError):
        world.network.result(world.call())
    world = make(client=[wrong])
    with pytest.raises(TypeError, match="with BytesValue, not StringValue"):
        world.network.result(world.call())


def test_an_interceptor_of_the_server_that_crashes_is_logged(
    make: Worlds, logged: list[dict[str, Any]]
) -> None:
    def crash(request: Any, context: Context, proceed: ServerProceed) -> Any:
        raise ZeroDivisionError("mine")

    world = make(server=[crash])
    with pytest.raises(Unknown) as caught:
        world.network.result(world.call())
    assert "mine" not in str(caught.value)
    assert logged.pop()["log_failure"].type is ZeroDivisionError


def test_a_token_fetched_by_an_interceptor_does_not_disturb_the_metadata(make: Worlds) -> None:
    other = Echo()

    def stamp(request: Any, context: Context, proceed: ServerProceed) -> Any:
        context.send_initial_metadata({"from": request.value})
        return proceed(request)

    tokens = make(other, server=[stamp])

    async def authenticate(call: ClientCall, proceed: ClientProceed) -> Any:
        token = await tokens.call("token")
        response = await proceed(call.replace(metadata={"authorization": token.value}))
        await tokens.call("another")
        return response

    world = make(client=[authenticate], server=[stamp])
    with ResponseMetadata() as metadata:
        answer = world.call("x")
    tokens.network.run()
    world.network.run()
    tokens.network.run()
    assert world.network.result(answer).value == "x"
    assert metadata.initial == (("from", "x"),)
    assert "from" in repr(metadata)


# -- the metadata of a response, without interceptors ------------------------------------------


def test_metadata_arrives_with_a_success_and_with_an_error(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.send_initial_metadata([("first", "1"), ("raw-bin", b"\0\xff")])
            context.set_trailing_metadata([("last", "2"), ("last", "3")])
            if request.value == "fail":
                raise NotFound("nobody", metadata=[("why", "4")])
            return request

    world = make(Service())
    for value in ("x", "fail"):
        with ResponseMetadata() as metadata:
            answer = world.call(value)
        assert not metadata.initial
        answer.addErrback(lambda _: text("failed"))
        world.network.run()
        assert metadata.initial == (("first", "1"), ("raw-bin", b"\0\xff"))
        why = (("why", "4"),) if value == "fail" else ()
        assert metadata.trailing == (("last", "2"), ("last", "3"), *why)


def test_metadata_in_a_coroutine_is_its_own(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.set_trailing_metadata({"of": request.value})
            return request

    world = make(Service())
    seen: dict[str, object] = {}

    async def ask(value: str) -> None:
        with ResponseMetadata() as metadata:
            await world.call(value)
        seen[value] = metadata.trailing
        await world.call("unobserved")

    asked = [Deferred.fromCoroutine(ask(value)) for value in ("a", "b")]
    world.network.run()
    assert all(deferred.called for deferred in asked)
    assert seen == {"a": (("of", "a"),), "b": (("of", "b"),)}


# -- worked examples ---------------------------------------------------------------------------


def test_retry_on_auth(make: Worlds) -> None:
    """A client renews its token once when the server does not take it any more."""
    from examples.interceptors import Authenticate, TokenSource

    valid = {"2"}
    fetched: list[str] = []

    def fetch() -> str:
        fetched.append(str(len(fetched) + 1))
        return fetched[-1]

    world = make(client=[TokenSource(fetch)], server=[Authenticate(valid.__contains__)])
    assert world.network.result(world.call("x")).value == "x"
    assert world.network.result(world.call("y")).value == "y"
    assert fetched == ["1", "2"]
    valid.clear()
    with pytest.raises(Unauthenticated):
        world.network.result(world.call("z"))
    assert fetched == ["1", "2", "3"]
    assert world.service.seen == ["x", "y"]


def test_authentication_refuses_without_a_token(make: Worlds) -> None:
    from examples.interceptors import Authenticate

    world = make(server=[Authenticate({"t"}.__contains__)])
    with pytest.raises(Unauthenticated):
        world.network.result(world.call("x"))
    answer = world.call("x", metadata={"authorization": "Bearer t"})
    assert world.network.result(answer).value == "x"
    assert world.service.seen == ["x"]


def test_logging(make: Worlds, logged: list[dict[str, Any]]) -> None:
    from examples.interceptors import log_calls, log_requests

    service = Waiting()
    world = make(service)
    logging = make(
        service,
        client=[log_calls(world.network.clock)],
        server=[log_requests(world.network.clock)],
    )
    answer = logging.call("x")
    logging.network.run()
    world.network.clock.advance(0.25)
    service.results.pop().callback(text("y"))
    assert logging.network.result(answer).value == "y"
    calls = [event for event in logged if "path" in event]  # not the lines about connections
    lines = [(event["path"], event["outcome"], event["seconds"]) for event in calls]
    assert lines == [(ECHO.path, "OK", 0.25), (ECHO.path, "OK", 0.25)]
    logged.clear()
    own, anothers = NotFound("not here"), Unavailable("not there")
    anothers.method = OTHER.path
    for error in (own, anothers, CancelledError()):
        answer = logging.call("x")
        logging.network.run()
        service.results.pop().errback(error)
        with pytest.raises(RpcError):
            logging.network.result(answer)
    outcomes = [event["outcome"] for event in logged if "outcome" in event]
    assert outcomes == ["NOT_FOUND", "NOT_FOUND", "UNKNOWN", "UNKNOWN", "CANCELLED", "CANCELLED"]
    logged.clear()


def test_a_call_with_interceptors_ends_with_the_handler_that_made_it(make: Worlds) -> None:
    ended: list[str] = []
    errors: list[Any] = []

    async def hang(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            await Deferred[None]()
        except CancelledError:
            ended.append(call.request.value)
            raise
        return await proceed(call)

    inner = make(client=[hang])

    class Outer(Waiting):
        def echo(self, request: StringValue, context: Context) -> Any:
            # It waits for something else first.
            inner.call("nested").addErrback(errors.append)
            return super().echo(request, context)

    outer = make(Outer())
    answer = outer.call()
    outer.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(answer)
    outer.network.run()
    assert ended == ["nested"]
    assert [error.type for error in errors] == [CancelledError]
    assert leftovers(*outer.service.contexts) == []


def test_an_interceptor_cannot_go_on_with_a_call_that_is_over(make: Worlds) -> None:
    errors: list[BaseException] = []

    async def tries_again(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            return await proceed(call)
        except Exception:  # noqa: BLE001 - as careless ones do: the CancelledError is one, too
            try:
                return await proceed(call.replace(metadata={"again": "yes"}))
            except CancelledError as error:
                errors.append(error)
                raise

    service = Waiting()
    world = make(service, client=[tries_again])
    answer = world.call("once")
    world.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    world.network.run()
    assert service.seen == ["once"]
    assert len(errors) == 1


def goes_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    """Does nothing else."""
    return proceed(call)


@pytest.mark.parametrize("interceptors", [[goes_on], [goes_on, goes_on]])
def test_where_they_only_go_on_a_call_ends_as_one_without_them(
    make: Worlds, interceptors: list[ClientInterceptor]
) -> None:
    seen: list[ClientCall] = []

    def keep(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        seen.append(call)
        return proceed(call)

    service = Waiting()
    world = make(service, client=[*interceptors, keep])
    errors: list[Any] = []
    world.call("late", timeout=1).addErrback(errors.append)
    cancelled, answered, closed = world.call("2"), world.call("3"), world.call("4")
    for call in (cancelled, closed):
        call.addErrback(errors.append)
    assert [call.over for call in seen] == [False] * 4
    world.network.advance(1.1)
    cancelled.cancel()
    world.network.run()
    service.results[2].callback(text("there"))
    assert world.network.result(answered).value == "there"
    assert [call.over for call in seen] == [True, True, True, False]
    world.channel.close()
    assert [error.type for error in errors] == [DeadlineExceeded, CancelledError, CancelledError]
    assert [call.over for call in seen] == [True] * 4


def test_a_longer_time_of_an_interceptors_own_is_not_the_callers(make: Worlds) -> None:
    def takes_longer(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        return proceed(call.replace(timeout=100))

    world = make(Waiting(), client=[goes_on, takes_longer])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_what_an_interceptor_does_with_the_response_does_not_hold_up_the_deadline(
    make: Worlds,
) -> None:
    ended: list[str] = []

    def hangs(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        never: Deferred[Any] = Deferred(lambda _: ended.append("cancelled"))
        return proceed(call).addCallback(lambda _: never)

    world = make(client=[goes_on, hangs, goes_on])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert [error.type for error in errors] == [DeadlineExceeded]
    assert ended == ["cancelled"]


@pytest.mark.parametrize("waits", [False, True])
def test_an_interceptor_may_close_the_channel(make: Worlds, waits: bool) -> None:
    ended: list[str] = []

    def closes(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        world.channel.close()
        assert call.over
        return Deferred(lambda _: ended.append("cancelled")) if waits else proceed(call)

    world = make(client=[closes])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    assert [error.type for error in errors] == [CancelledError]
    assert ended == ["cancelled"] * waits


def test_a_call_detached_by_an_interceptor_ends_with_its_handler_all_the_same(
    make: Worlds,
) -> None:
    def detach(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        with detached():
            return proceed(call)

    slow = Waiting()
    inner = make(slow, client=[detach])
    errors: list[Any] = []

    class Outer(Waiting):
        def echo(self, request: StringValue, context: Context) -> Any:
            inner.call("nested").addErrback(errors.append)
            return super().echo(request, context)

    outer = make(Outer())
    answer = outer.call()
    outer.network.run()
    inner.network.run()
    answer.addErrback(lambda _: None)
    answer.cancel()
    outer.network.run()
    assert [error.type for error in errors] == [CancelledError]


def test_a_call_made_when_its_handler_is_just_over_ends_at_once(make: Worlds) -> None:
    ended: list[str] = []
    contexts: list[Context] = []

    def ends_the_handler(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        contexts[0].cancel("for a test")
        return Deferred(lambda _: ended.append("cancelled"))

    inner = make(client=[ends_the_handler])
    errors: list[Any] = []

    class Outer(Waiting):
        def echo(self, request: StringValue, context: Context) -> Any:
            contexts.append(context)
            inner.call("nested").addErrback(errors.append)
            return super().echo(request, context)

    outer = make(Outer())
    outer.call().addErrback(lambda _: None)
    outer.network.run()
    assert [error.type for error in errors] == [CancelledError]
    assert ended == ["cancelled"]


def test_a_call_as_interceptors_see_it_is_not_changed(make: Worlds) -> None:
    seen: list[ClientCall] = []

    def keep(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        seen.append(call)
        return proceed(call)

    world = make(client=[keep])
    assert world.network.result(world.call("x")).value == "x"
    (call,) = seen
    for name in ("method", "request", "deadline", "metadata", "wait_for_ready", "response"):
        with pytest.raises(AttributeError):
            setattr(call, name, None)
    assert ECHO.path in repr(call)
