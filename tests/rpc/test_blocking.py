"""Calls from other threads: typed, bounded, and never a wait for ever."""

from __future__ import annotations

import contextvars
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool

from tests.rpc.service import ECHO, OTHER, Echo, text
from tests.rpc.threads import Outcome, World, until
from tests.support import PATIENCE, Logged, Loop
from txzmq import WrongThreadError, ZmqFactory
from txzmq.rpc import (
    Blocking,
    Channel,
    Context,
    DeadlineExceeded,
    NotFound,
    RpcError,
    Server,
    Unavailable,
    Unknown,
)
from txzmq.testing import MemoryNetwork


@pytest.fixture
def world(one_loop: Loop) -> Iterator[World]:
    world = World(one_loop)
    yield world
    world.factory.shutdown()


@pytest.fixture
def running(world: World) -> Iterator[World]:
    with world.loop.in_thread():
        yield world


def test_a_call(loop: Loop) -> None:
    world = World(loop)
    with loop.in_thread():
        assert world.blocking(world.other, "x").value == "other x"
        assert world.blocking(world.other, "y", timeout=5).value == "other y"
    world.factory.shutdown()


def test_many_threads_at_once(running: World) -> None:
    def work(name: str) -> list[str]:
        return [running.blocking(running.other, f"{name} {i}").value for i in range(20)]

    workers = [Outcome(lambda name=name: work(name)) for name in map(str, range(50))]  # type: ignore[misc]  # a lambda's default
    for number, worker in enumerate(workers):
        assert worker.ended() is None
        assert worker.results == [[f"other {number} {i}" for i in range(20)]]


def test_a_coroutine_function(running: World) -> None:
    async def both(first: str, second: str) -> list[str]:
        return [(await running.other(value)).value for value in (first, second)]

    assert running.blocking(both, "1", second="2") == ["other 1", "other 2"]


def test_errors_arrive_as_they_are(running: World, logged: Logged) -> None:
    with pytest.raises(NotFound, match="no such thing") as caught:
        running.blocking(running.other, "missing")
    assert caught.value.metadata == (("a", "b"),)
    lines = "".join(traceback.format_exception(caught.value))
    assert 'running.blocking(running.other, "missing")' in lines
    with pytest.raises(Unknown, match="logged it as"):
        running.blocking(running.other, "bug")
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


def test_a_function_that_raises_before_it_calls(running: World) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("in a coroutine")

    def fails_at_once() -> Deferred[None]:
        raise ZeroDivisionError("at once")

    for function, message in ((fails, "in a coroutine"), (fails_at_once, "at once")):
        with pytest.raises(ZeroDivisionError, match=message):
            running.blocking(function)
    with pytest.raises(ValueError, match="timeout must be a number"):
        running.blocking(running.echo, "x", timeout=float("nan"))


def test_the_calls_own_timeout(running: World) -> None:
    with pytest.raises(DeadlineExceeded, match="may have been executed"):
        running.blocking(running.echo, "x", timeout=0.05)
    assert running.service.seen == ["x"]


@pytest.mark.parametrize("timeout", [-1, -20.0, 10**400])
def test_a_timeout_that_is_none(running: World, timeout: float) -> None:
    """It is the channel that says what it takes it for, and not an impatient thread."""
    release = running.block()
    call = Outcome(lambda: running.blocking(running.other, "x", timeout=timeout))
    call.join(0.3)
    release()
    error = call.ended()
    assert error is None or "blocked" not in str(error)
    expected = Outcome(lambda: running.blocking(lambda: running.other("x", timeout=timeout)))
    assert repr(error) == repr(expected.ended())


@pytest.mark.parametrize("given", [None, 7, "text", object()])
def test_a_function_that_returns_nothing_to_wait_for(running: World, given: Any) -> None:
    def function() -> Any:
        return given

    with pytest.raises(TypeError, match="what function returns must be a Deferred"):
        running.blocking(function)


def test_a_reactor_that_does_not_run(world: World) -> None:
    worker = Outcome(lambda: world.blocking(world.echo, "x"))
    for error in (worker.ended(), Outcome(lambda: world.blocking(world.echo, "x")).ended()):
        assert isinstance(error, Unavailable)
        assert "does not run; the call was not made" in str(error)
    with world.loop.in_thread():
        assert world.blocking(world.other, "x").value == "other x"
    with pytest.raises(Unavailable, match="does not run"):
        world.blocking(world.other, "x")
    assert world.service.seen == ["x"]


@pytest.mark.parametrize("timeout", [None, 3600.0])
@pytest.mark.parametrize("how", ["stop", "crash"])
def test_a_reactor_that_stops_meanwhile(world: World, how: str, timeout: float | None) -> None:
    with world.loop.in_thread():
        worker = Outcome(lambda: world.blocking(world.echo, "x", timeout=timeout))
        until(lambda: world.service.seen)
        world.in_reactor(getattr(world.loop.reactor, how))
        error = worker.ended()
    assert isinstance(error, Unavailable)
    assert "the reactor has stopped; the call may have been executed" in str(error)


def test_a_factory_that_shuts_down_with_the_reactor(world: World) -> None:
    world.factory.registerForShutdown()
    with world.loop.in_thread():
        worker = Outcome(lambda: world.blocking(world.echo, "x", timeout=3600))
        until(lambda: world.service.seen)
        world.in_reactor(world.loop.reactor.stop)
        error = worker.ended()
    assert isinstance(error, (Unavailable, CancelledError))


def test_stopping_does_not_wait_for_threads_of_its_pool(world: World) -> None:
    """Twisted joins the pool while it stops, and the pool's thread waits for the reactor."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            world.blocking(world.echo, "x", timeout=3600)
        except RpcError as error:
            errors.append(error)

    with world.loop.in_thread() as thread:
        pool = world.loop.reactor.getThreadPool()
        world.in_reactor(lambda: deferToThreadPool(world.loop.reactor, pool, work))
        until(lambda: world.service.seen)
        world.in_reactor(world.loop.reactor.stop)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == [Unavailable]


@pytest.mark.parametrize(
    ("timeout", "error"), [(0.05, DeadlineExceeded), (None, Unavailable)], ids=["bounded", "not"]
)
@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_reactor_that_is_blocked(
    running: World,
    timeout: float | None,
    error: type[RpcError],
    made: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("txzmq.rpc._threads.patience._ASK", 0.01)
    blocking = Blocking(running.factory, patience=1)
    releases: list[Callable[[], None]] = []

    def call_and_block(value: str, *, timeout: float | None = None) -> Deferred[StringValue]:
        release = threading.Event()
        releases.append(release.set)
        running.loop.reactor.callLater(0, release.wait, PATIENCE)
        return running.echo(value, timeout=timeout)

    if not made:
        releases.append(running.block())
    executed = "the call may have been executed" if made else "the call was not made"
    with pytest.raises(error, match=f"blocked.*; {executed}"):
        blocking(call_and_block if made else running.echo, "x", timeout=timeout)
    releases[0]()
    # When the reactor goes on, what was not made is not made, and what was is cancelled.
    assert running.blocking(running.other, "y").value == "other y"
    until(lambda: not running.server.running)
    if not made:
        assert running.service.seen == ["y"]


def test_a_call_without_end_outlives_any_patience(
    running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = Blocking(running.channel, patience=1)
    monkeypatch.setattr("txzmq.rpc._threads.patience._ASK", 0.01)
    worker = Outcome(lambda: blocking(running.echo, "x", timeout=float("inf")))
    until(lambda: running.service.seen)
    assert not threading.Event().wait(1.5)
    assert worker.is_alive()
    running.in_reactor(lambda: running.service.results[0].callback(text("at last")))
    assert worker.ended() is None
    assert [result.value for result in worker.results] == ["at last"]


def test_the_reactors_own_thread_may_not_wait(running: World) -> None:
    async def in_reactor() -> None:
        with pytest.raises(WrongThreadError, match="wait for itself"):
            running.blocking(running.other, "x")

    running.blocking(in_reactor)
    assert running.service.seen == []


def test_ctrl_c_cancels_the_call(running: World) -> None:
    main = threading.get_ident()
    cancelled: list[str] = []

    def press() -> None:
        until(lambda: running.service.seen)
        running.service.contexts[0].cancelled.addCallback(cancelled.append)
        signal.pthread_kill(main, signal.SIGINT)

    worker = Outcome(press)
    with pytest.raises(KeyboardInterrupt):
        running.blocking(running.echo, "x", timeout=3600)
    assert worker.ended() is None
    until(lambda: cancelled)
    assert cancelled == ["the client cancelled it"]
    until(lambda: not running.server.running)


def test_a_call_for_a_handler_inherits_its_deadline(one_loop: Loop) -> None:
    seen: list[float | None] = []

    class Handler(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            pool = one_loop.reactor.getThreadPool()
            work = contextvars.copy_context().run
            return await deferToThreadPool(one_loop.reactor, pool, work, self.work)

        def work(self) -> StringValue:
            return blocking(inner, "x", timeout=3600)

        def other(self, request: StringValue, context: Context) -> StringValue:
            seen.append(context.time_remaining())
            return text("done")

    def inner(value: str, *, timeout: float) -> Deferred[StringValue]:
        return channel.unary_unary(OTHER, text(value), timeout=timeout)

    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Handler()])
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    blocking = Blocking(channel)

    def outer(*, timeout: float) -> Deferred[StringValue]:
        return channel.unary_unary(ECHO, text("x"), timeout=timeout)

    with one_loop.in_thread():
        assert blocking(outer, timeout=20).value == "done"
    factory.shutdown()
    [left] = seen
    assert left is not None
    assert 0 < left <= 20


def test_without_a_reactor_there_is_nothing_to_wait_for() -> None:
    network = MemoryNetwork()
    with pytest.raises(ValueError, match="no reactor"):
        Blocking(Channel(network, "inproc://x"))(lambda: Deferred[None]())
