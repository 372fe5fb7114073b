"""Functions around calls, on both sides: what they see, change and answer; in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import formatEvent

from tests.rpc.intercepted import Intercepted, Worlds, at_client, at_server
from tests.rpc.service import ECHO, OTHER, Echo, Waiting, made, text
from tests.rpc.streaming import COUNT, StreamWorld
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Context,
    NotFound,
    PermissionDenied,
    ResponseMetadata,
    RpcError,
    ServerProceed,
    Unauthenticated,
    Unavailable,
    Unknown,
)


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(Intercepted)


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


# -- worked examples ---------------------------------------------------------------------------


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


def test_logging_a_stream(logged: list[dict[str, Any]]) -> None:
    """Which was opened at once, and whose handler takes its time."""
    from examples.interceptors import log_calls, log_requests

    async def slow(request: Any, context: Context) -> AsyncIterator[StringValue]:
        yield text("y")
        await streaming.sleep(0.25)
        raise NotFound("no more")

    for make in made(StreamWorld):
        streaming = make(slow, interceptors=[log_requests], client_interceptors=[log_calls])
        reader = streaming.run()
        streaming.network.advance(0.25)
        assert reader.items == ["y"]
        lines = [formatEvent(event) for event in logged if "outcome" in event]
        line = f"{COUNT.path} NOT_FOUND 0.250000 s, 1 requests, 1 responses"
        assert lines == [line, line]
    logged.clear()


def test_logging(make: Worlds, logged: list[dict[str, Any]]) -> None:
    from examples.interceptors import log_calls, log_requests

    service = Waiting()
    logging = make(service, client=[log_calls], server=[log_requests])
    answer = logging.call("x")
    logging.network.run()
    logging.network.advance(0.25)
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
