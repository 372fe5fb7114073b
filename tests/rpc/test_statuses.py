"""What leaves a server whose handler fails, and what is kept in its log."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import defer, error
from twisted.internet.defer import CancelledError
from twisted.logger import formatEvent, textFileLogObserver

from tests.rpc.raising import SECRET, Raising, everything, logged_under, outcome
from tests.rpc.service import ECHO, OTHER, Echo, Stubborn, World, closing, text
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
    Unknown,
)
from txzmq.rpc.interceptors import ClientProceed


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    yield from closing()


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


STYLES = ["at once", "coroutine", "deferred"]


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
