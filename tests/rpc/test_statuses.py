"""What leaves a server whose handler fails, and what is kept in its log."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import LogEvent, formatEvent, textFileLogObserver

from tests.rpc.service import ECHO, OTHER, Echo, Stubborn, World, text
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Aborted,
    Cancelled,
    Channel,
    ClientCall,
    Code,
    Context,
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    RpcError,
    Server,
    UnaryResult,
    Unavailable,
    Unknown,
)
from txzmq.rpc.interceptors import ClientProceed
from txzmq.testing import FakeCaller

SECRET = "the password is swordfish"
#: What a stranger might send to forge a line of the log, or to move a terminal's cursor.
HOSTILE = "x\n2026-01-01T00:00:00+0000 [-] all is well\r\x1b[2J{log_time}%s\u2028"


class QuotaExceeded(ResourceExhausted):
    def __init__(self, quota: int) -> None:
        super().__init__(f"no more than {quota}", details=[text("5")], metadata={"quota": "5"})
        self.quota = quota


class WithoutConstructor(NotFound):
    def __init__(self) -> None:
        pass


class Unreadable(NotFound):
    def __getattribute__(self, name: str) -> Any:
        if name == "details":
            raise RuntimeError(SECRET)
        return super().__getattribute__(name)


class Raising(Echo):
    """Raises what a test gives it: at once, from a coroutine, or by a Deferred."""

    def __init__(self, make: Callable[[], BaseException], style: str = "at once") -> None:
        super().__init__()
        self.make = make
        self.style = style

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if self.style == "coroutine":
            return self.coroutine()
        if self.style == "deferred":
            return fail(self.make())
        raise self.make()

    async def coroutine(self) -> StringValue:
        raise self.make()


STYLES = ["at once", "coroutine", "deferred"]


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    """To put worlds in; at the end nothing of them may be left."""
    made: list[World] = []
    yield made
    for world in made:
        world.close()


def outcome(world: World, **kwargs: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        world.network.result(world.call(**kwargs))
    return caught.value


def everything(error: RpcError) -> str:
    """All that the caller got, as text."""
    return f"{error} {error.details} {error.metadata} {vars(error)}"


def logged_under(logged: Logged, error: RpcError) -> LogEvent:
    (event,) = [e for e in logged if "identifier" in e and e["identifier"] in error.message]
    return event


# -- what a handler chooses --------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_an_error_of_the_users_own_class_is_an_answer(worlds: list[World], style: str) -> None:
    world = World(Raising(lambda: QuotaExceeded(5), style))
    worlds.append(world)
    error = outcome(world)
    assert type(error) is ResourceExhausted
    assert (error.message, error.metadata) == ("no more than 5", (("quota", "5"),))
    assert error.detail(StringValue) == text("5")
    assert error.method == ECHO.path


def test_an_error_that_was_not_constructed_is_its_classs_code(worlds: list[World]) -> None:
    world = World(Raising(WithoutConstructor))
    worlds.append(world)
    error = outcome(world)
    assert (type(error), error.message) == (NotFound, "")


def not_an_error() -> RpcError:
    error = NotFound("no")
    error.code = Code.OK
    return error


@pytest.mark.parametrize("make", [lambda: Unreadable(SECRET), not_an_error])
def test_an_error_that_is_none_is_unknown(
    worlds: list[World], logged: Logged, make: Callable[[], BaseException]
) -> None:
    world = World(Raising(make))
    worlds.append(world)
    error = outcome(world)
    assert type(error) is Unknown
    assert SECRET not in everything(error)
    assert isinstance(logged_under(logged, error)["log_failure"].value, NotFound)


def test_what_cannot_be_sent_is_internal_and_stays_out_of_the_log(
    worlds: list[World], logged: Logged
) -> None:
    world = World(Raising(lambda: NotFound("no", metadata={"Token": SECRET, "b": SECRET})))
    worlds.append(world)
    assert type(outcome(world)) is Internal
    (event,) = [event for event in logged if "log_failure" in event]
    assert "cannot be sent" in formatEvent(event)
    assert SECRET not in str(event["log_failure"].getTraceback())


# -- what it does not --------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        TimeoutError,
        asyncio.TimeoutError,
        defer.TimeoutError,
        error.TimeoutError,
        error.ConnectionLost,
        SystemExit,
        GeneratorExit,
        asyncio.InvalidStateError,
    ],
)
def test_anything_else_is_unknown_and_nothing_of_it_leaves(
    worlds: list[World], logged: Logged, kind: type[BaseException], style: str
) -> None:
    world = World(Raising(lambda: kind(SECRET), style))
    worlds.append(world)
    error = outcome(world)
    assert type(error) is Unknown
    assert SECRET not in everything(error)
    assert kind.__name__ not in everything(error)
    assert "the server logged it as" in error.message
    event = logged_under(logged, error)
    assert SECRET in event["log_failure"].getTraceback()
    assert world.network.result(world.call(method=OTHER)).value == "other x", "it serves on"


def test_ctrl_c_is_for_the_process_and_the_call_is_answered(
    worlds: list[World], logged: Logged
) -> None:
    world = World(Raising(KeyboardInterrupt))
    worlds.append(world)
    answer = world.call()
    with pytest.raises(KeyboardInterrupt):
        world.network.run()
    with pytest.raises(Unknown):
        world.network.result(answer)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", [CancelledError, asyncio.CancelledError])
def test_a_cancellation_that_nobody_asked_for_is_told_and_logged(
    worlds: list[World], logged: Logged, kind: type[BaseException], style: str
) -> None:
    world = World(Raising(lambda: kind(SECRET), style))
    worlds.append(world)
    error = outcome(world)
    assert type(error) is Cancelled
    assert SECRET not in everything(error)
    assert isinstance(logged_under(logged, error)["log_failure"].value, kind)


def test_what_fails_after_the_end_of_the_call_is_logged(
    worlds: list[World], logged: Logged
) -> None:
    service = Stubborn()
    world = World(service)
    worlds.append(world)
    endings: list[Exception] = [ValueError("while cleaning up"), CancelledError(), Aborted("x")]
    for index, ending in enumerate(endings):
        answer = world.call(timeout=1)
        world.network.advance(1)
        with pytest.raises(DeadlineExceeded):
            world.network.result(answer)
        service.results[-1].errback(ending)
        if isinstance(ending, CancelledError):  # it goes on when it is cancelled
            service.results[-1].callback(text("at last"))
        assert world.server.running == 0, index
    (event,) = [event for event in logged if "log_failure" in event]
    assert event["log_failure"].value is endings[0]
    assert formatEvent(event) == "/test.Echo/Echo failed for memory, after the call had ended"


# -- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
def test_the_log_line_names_method_peer_and_id(
    worlds: list[World], logged: Logged, debug: bool
) -> None:
    world = World(Raising(lambda: ValueError(SECRET)), debug=debug)
    worlds.append(world)
    error = outcome(world)
    event = logged_under(logged, error)
    line = formatEvent(event)
    assert line == f"/test.Echo/Echo failed for memory ({event['identifier']})"
    assert (SECRET in error.message) is debug
    first, second = outcome(world), outcome(world)
    assert first.message != second.message, "each failure has an id of its own"


def test_the_debug_switch_sends_text_but_no_traceback(worlds: list[World], logged: Logged) -> None:
    world = World(Raising(lambda: ValueError(SECRET)), debug=True)
    worlds.append(world)
    error = outcome(world)
    assert error.message.endswith(f": ValueError: {SECRET}")
    assert "Traceback" not in everything(error)
    assert __file__ not in everything(error)


def test_a_stranger_cannot_forge_a_line_of_the_log(worlds: list[World], logged: Logged) -> None:
    class Repeating(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise ValueError(request.value)

    world = World(Repeating())
    worlds.append(world)
    error = outcome(world, value=HOSTILE)
    assert "all is well" not in everything(error)
    event = logged_under(logged, error)
    assert formatEvent(event).isprintable()
    # Of the whole event only the traceback has the text, and observers indent what follows the
    # first line.
    file = io.StringIO()
    textFileLogObserver(file)(event)
    lines = file.getvalue().split("\n")
    assert lines[0].endswith(formatEvent(event))
    assert all(line.startswith("\t") for line in lines[1:] if line)


# -- calls to others ---------------------------------------------------------------------------


class Front(Echo):
    """Asks another server before it answers."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.back: Channel | None = None

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        return self.ask(request) if self.style == "deferred" else self.coroutine(request)

    def ask(self, request: StringValue) -> Deferred[StringValue]:
        assert self.back is not None
        return self.back.unary_unary(ECHO, request, wait_for_ready=request.value == "wait")

    async def coroutine(self, request: StringValue) -> StringValue:
        try:
            return await self.ask(request)
        except RpcError as error:
            if self.style == "passes it on":
                raise RpcError(error.code, error.message, details=error.details) from error
            raise


class Chain:
    """A client's world whose handler calls a second server."""

    def __init__(self, style: str, back: Echo, *, debug: bool = False) -> None:
        self.front = Front(style)
        self.world = World(self.front, debug=debug)
        self.server = Server(self.world.network, [back])
        self.front.back = Channel(self.world.network, self.server.listen("inproc://back"))

    def close(self) -> None:
        assert self.front.back is not None
        self.front.back.close()
        self.server.stop(0)
        self.world.close()


@pytest.fixture
def chain(request: pytest.FixtureRequest) -> Iterator[Callable[..., Chain]]:
    made: list[Chain] = []

    def make(style: str, back: Echo, **kwargs: Any) -> Chain:
        made.append(Chain(style, back, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def secretive() -> NotFound:
    return NotFound(SECRET, details=[text(SECRET)], metadata={"token": SECRET})


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
def test_the_outcome_of_a_call_to_another_server_does_not_leave(
    chain: Callable[..., Chain], logged: Logged, style: str
) -> None:
    it = chain(style, Raising(secretive))
    error = outcome(it.world)
    assert type(error) is Unknown
    assert SECRET not in everything(error)
    cause = logged_under(logged, error)["log_failure"].value
    assert isinstance(cause, NotFound)
    assert (cause.message, cause.method) == (SECRET, ECHO.path)
    debugged = chain(style, Raising(secretive), debug=True)
    assert f"NotFound: NOT_FOUND: {SECRET}" in outcome(debugged.world).message


def test_a_handler_passes_it_on_by_a_new_error(chain: Callable[..., Chain]) -> None:
    it = chain("passes it on", Raising(secretive))
    error = outcome(it.world)
    assert (type(error), error.message) == (NotFound, SECRET)
    assert error.detail(StringValue) == text(SECRET)
    assert error.metadata == ()


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
def test_where_another_server_is_does_not_leave_either(
    chain: Callable[..., Chain], logged: Logged, style: str
) -> None:
    it = chain(style, Echo())
    it.world.network.run()
    it.server.stop(0)
    it.world.network.advance(1)
    error = outcome(it.world)
    assert type(error) is Unknown, "UNAVAILABLE would say of this server to try again"
    assert "inproc" not in everything(error)
    assert isinstance(logged_under(logged, error)["log_failure"].value, Unavailable)


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
@pytest.mark.parametrize("timeout", [0.25, 1.0, 1 / 3, 2.0005])
@pytest.mark.parametrize("value", ["x", "wait"])
def test_time_that_is_up_is_told_as_such_through_all_hops(
    chain: Callable[..., Chain], style: str, timeout: float, value: str
) -> None:
    it = chain(style, Stubborn())
    it.world.network.run()
    if value == "wait":
        it.server.stop(0)
        it.world.network.advance(0.5)
    # With time of its own, so that the server's answer counts and not the client's deadline.
    patient = it.world.channel
    answer = patient.unary_unary(ECHO, text(value), timeout=timeout)
    it.world.network.advance(timeout + 0.01)
    with pytest.raises(DeadlineExceeded):
        it.world.network.result(answer)


@pytest.mark.parametrize("before", [0.0, 0.001])
def test_the_nested_call_may_notice_first_that_time_is_up(
    worlds: list[World], before: float
) -> None:
    class Late(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            answer: Deferred[StringValue] = Deferred()
            error = DeadlineExceeded(SECRET)
            error.method = "/other.Service/Method"
            left = context.time_remaining()
            assert left is not None
            world.network.clock.callLater(left - before, answer.errback, error)
            return answer

    world = World(Late())
    worlds.append(world)
    answer = world.call(timeout=1)
    world.network.advance(1)
    with pytest.raises(DeadlineExceeded) as caught:
        world.network.result(answer)
    assert SECRET not in everything(caught.value)


def test_another_servers_deadline_is_not_this_ones(worlds: list[World], logged: Logged) -> None:
    def late() -> DeadlineExceeded:
        error = DeadlineExceeded("it allows a second only")
        error.method = "/other.Service/Method"
        return error

    world = World(Raising(late))
    worlds.append(world)
    assert type(outcome(world, timeout=10)) is Unknown
    assert logged.failures()


def test_a_fake_client_fails_as_a_real_one_does(worlds: list[World], logged: Logged) -> None:
    class Faked(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            return FakeCaller({"other": secretive()}).unary_unary(OTHER, request)

    world = World(Faked())
    worlds.append(world)
    assert type(outcome(world)) is Unknown
    assert logged.failures()


def test_every_error_of_a_call_says_which_call(worlds: list[World]) -> None:
    world = World(serve=False)
    worlds.append(world)
    for timeout in (1.0, 0.0):
        error = outcome(world, timeout=timeout)
        assert error.method == ECHO.path, error
    world.channel.close()
    assert outcome(world).method == ECHO.path

    def refuse(call: ClientCall, proceed: ClientProceed) -> NoReturn:
        raise NotFound("an interceptor says so")

    channel = Channel(world.network, "inproc://nowhere", interceptors=[refuse])
    error = outcome(world, caller=channel)
    assert (type(error), error.method) == (NotFound, ECHO.path)
    channel.close()
    assert NotFound("raised here").method == ""


def test_over_a_socket_the_log_has_the_clients_address(one_loop: Loop, logged: Logged) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        failing = Server(factory, [Raising(lambda: ValueError(SECRET))])
        channel = Channel(factory, failing.listen("tcp://127.0.0.1:*"))
        with pytest.raises(Unknown) as caught:
            await channel.unary_unary(ECHO, text("x"))
        assert SECRET not in everything(caught.value)
        event = logged_under(logged, caught.value)
        identifier = event["identifier"]
        assert formatEvent(event) == f"/test.Echo/Echo failed for 127.0.0.1 ({identifier})"
        answering = Server(factory, [Raising(lambda: QuotaExceeded(5))])
        channel = Channel(factory, answering.listen("tcp://127.0.0.1:*"))
        with pytest.raises(ResourceExhausted) as exhausted:
            await channel.unary_unary(ECHO, text("x"))
        assert exhausted.value.detail(StringValue) == text("5")
        factory.shutdown()

    one_loop.run(main)
