"""What runs a stream's coroutine, without a stream."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from txzmq.rpc._core.coroutines import CoroutineRunner

_variable: ContextVar[str] = ContextVar("tests.pump", default="")


class Ends:
    """Runs coroutines, and notes how they end."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []
        self.threads: list[threading.Thread] = []

    def run(
        self, coroutine: Coroutine[object, Any, None], surroundings: Context | None = None
    ) -> CoroutineRunner[str]:
        pump = CoroutineRunner(coroutine, surroundings or Context(), self._ended, "it")
        pump.start()
        return pump

    def _ended(self, result: Failure | None, subject: str) -> None:
        assert subject == "it"
        self.threads.append(threading.current_thread())
        value = None if result is None else cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        self.errors.append(value)


@pytest.fixture
def ends() -> Ends:
    return Ends()


class Given:
    """Awaits a Deferred that a test fires, and what it gave."""

    def __init__(self, canceller: Callable[[Deferred[str]], None] | None = None) -> None:
        self.deferred: Deferred[str] = Deferred(canceller)
        self.got: object = None

    async def __call__(self) -> None:
        try:
            self.got = await self.deferred
        except BaseException as error:
            self.got = error
            raise


def test_a_coroutine_that_waits_for_nothing_has_ended_at_once(ends: Ends) -> None:
    async def nothing() -> None:
        pass

    ends.run(nothing())
    assert ends.errors == [None]


def test_it_goes_on_with_what_it_awaited(ends: Ends) -> None:
    given = Given()
    ends.run(given())
    assert (given.got, ends.errors) == (None, [])
    given.deferred.callback("value")
    assert (given.got, ends.errors) == ("value", [None])
    results: list[object] = []
    given.deferred.addBoth(results.append)
    assert results == [None]  # as after any callback


def test_a_failure_is_raised_where_it_is_awaited(ends: Ends) -> None:
    given, error = Given(), ValueError("no")
    ends.run(given())
    given.deferred.errback(error)
    assert given.got is error
    assert ends.errors == [error]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), GeneratorExit()])
def test_what_it_raises_is_its_end(ends: Ends, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    ends.run(fail())
    assert ends.errors == [error]


class Yielding:
    """What gives an object in place of a Deferred to wait for."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Generator[object, object, object]:
        return (yield self._value)


def test_deferreds_that_are_there_at_once_go_no_deeper(ends: Ends) -> None:
    total = 0

    async def wait() -> None:
        nonlocal total
        for _ in range(10_000):
            total += cast("int", await Yielding(succeed(1)))

    ends.run(wait())
    assert total == 10_000
    assert ends.errors == [None]


def test_what_is_no_deferred_cannot_be_awaited(ends: Ends) -> None:
    caught: list[str] = []

    async def wait() -> None:
        try:
            await Yielding(3)
        except TypeError as error:
            caught.append(str(error))
        await Yielding(None)

    ends.run(wait())
    assert caught == ["a handler can await Deferreds, not an object that yields int"]
    assert [type(error) for error in ends.errors] == [TypeError]


# -- cancelling --------------------------------------------------------------------------------


def test_cancelling_cancels_what_it_waits_for(ends: Ends) -> None:
    given = Given()
    pump = ends.run(given())
    pump.cancel()
    assert [type(error) for error in ends.errors] == [CancelledError]
    assert type(given.got) is CancelledError
    pump.cancel()  # it is over
    assert len(ends.errors) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_cancelling_by_the_coroutine_cancels_what_it_waits_for_next(ends: Ends, steps: int) -> None:
    first: Deferred[None] = Deferred()
    pumps: list[CoroutineRunner[str]] = []
    ready: list[str] = []

    async def wait() -> None:
        await first
        pumps[0].cancel()
        for _ in range(steps):
            await succeed(None)
            await Yielding(succeed(None))
        ready.append("before")
        try:
            await Deferred[None]()
        finally:
            ready.append("cancelled")
            await last

    last: Deferred[None] = Deferred()
    pumps.append(ends.run(wait()))
    first.callback(None)
    assert ready == ["before", "cancelled"]
    assert ends.errors == []  # once is enough: it may take its time to clean up
    last.callback(None)
    assert [type(error) for error in ends.errors] == [CancelledError]


def test_a_coroutine_may_go_on_though_it_was_cancelled(ends: Ends) -> None:
    second: Deferred[None] = Deferred()

    async def wait() -> None:
        try:
            await Deferred[None]()
        except CancelledError:
            await second

    pump = ends.run(wait())
    pump.cancel()
    assert ends.errors == []
    second.callback(None)
    assert ends.errors == [None]


def test_a_canceller_that_raises_is_the_end_whatever_comes(ends: Ends) -> None:
    error = ValueError("no")

    def canceller(_: Deferred[str]) -> None:
        raise error

    given = Given(canceller)
    pump = ends.run(given())
    pump.cancel()
    assert ends.errors == [error]
    given.deferred.callback("late")
    assert given.got == "late"
    assert ends.errors == [error]


# -- where it runs -----------------------------------------------------------------------------


def test_all_its_steps_run_in_the_surroundings_given(ends: Ends) -> None:
    first: Deferred[None] = Deferred()
    seen: list[str] = []
    surroundings = Context()
    surroundings.run(_variable.set, "given")

    async def wait() -> None:
        seen.append(_variable.get())
        _variable.set("its own")
        await first
        seen.append(_variable.get())

    ends.run(wait(), surroundings)
    _variable.set("the test's")
    first.callback(None)
    assert seen == ["given", "its own"]
    assert _variable.get() == "the test's"


def test_the_end_is_told_in_the_thread_of_the_last_deferred(ends: Ends) -> None:
    given = Given()
    ends.run(given())
    thread = threading.Thread(target=given.deferred.callback, args=("value",))
    thread.start()
    thread.join()
    assert ends.threads == [thread]


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy closes no coroutine that waits and is garbage"
)
def test_what_never_fires_is_garbage_and_the_coroutine_cleans_up(ends: Ends) -> None:
    ways: list[BaseException] = []

    async def wait() -> None:
        never: Deferred[None] = Deferred()
        try:
            await never
        except BaseException as error:
            ways.append(error)
            raise

    ends.run(wait())
    gc.collect()
    assert [type(error) for error in ways] == [GeneratorExit]
    assert ends.errors == []
