"""A coroutine takes its first step at once, and is a Task of asyncio's like any other else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.rpc.tasks import run_in_asyncio, turns
from txzmq._task_deferred import TaskDeferred
from txzmq._tasks import start_task

Note = Callable[[object], None]
Program = Callable[[Note], Coroutine[Any, Any, object]]
_number: ContextVar[int] = ContextVar("_number", default=0)


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def returns(note: Note) -> object:
    note("ran")
    return "value"


async def raises(note: Note) -> object:
    note("ran")
    raise ZeroDivisionError("at once")


async def raises_cancelled(note: Note) -> object:
    raise asyncio.CancelledError("at once")


async def waits_for_turns(note: Note) -> object:
    for number in range(3):
        note(number)
        await asyncio.sleep(0)
    return "value"


async def is_one_task(note: Note) -> object:
    first = current()
    await asyncio.sleep(0)
    note(current() is first)
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
    note(current() is first)
    return first in asyncio.all_tasks()


async def keeps_its_context(note: Note) -> object:
    note(_number.get())
    _number.set(1)
    await asyncio.sleep(0)
    note(_number.get())
    return await asyncio.create_task(_inherits())


async def _inherits() -> int:
    return _number.get()


async def cancels_itself_before_a_turn(note: Note) -> object:
    current().cancel("why")
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        note(error.args)
        raise
    return "value"


async def cancels_itself_before_a_future(note: Note) -> object:
    future = asyncio.get_running_loop().create_future()
    current().cancel("why")
    try:
        await future
    except asyncio.CancelledError as error:
        note(error.args)
    note(future.cancelled())
    note(current().cancelling())
    current().uncancel()
    await asyncio.sleep(0)
    return "went on"


async def cancels_itself_before_a_future_that_is_done_soon(note: Note) -> object:
    future = asyncio.get_running_loop().create_future()
    current().cancel()

    def set_result() -> None:
        if not future.cancelled():
            future.set_result("done")

    asyncio.get_running_loop().call_soon(set_result)
    try:
        note(await future)
    finally:
        note(future.cancelled())
    return "value"


async def cancels_itself_before_a_task_that_does_not_heed_it(note: Note) -> object:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await turns(5)
            note("cleaned up")
        return "stubborn"

    child = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    current().cancel()
    return await child


async def waits_with_others(note: Note) -> object:
    future = asyncio.get_running_loop().create_future()

    async def other() -> None:
        note(f"other {await future}")

    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        asyncio.get_running_loop().call_later(0, future.set_result, "done")
        note(f"this {await future}")
    return "value"


async def has_no_time(note: Note) -> object:
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(10)
    except TimeoutError:
        note("too late")
    return current().cancelling()


async def has_a_group_that_fails(note: Note) -> object:
    async def fail() -> None:
        raise ZeroDivisionError("in a child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(10)
    except* ZeroDivisionError as errors:
        note(len(errors.exceptions))
    return current().cancelling()


async def uses_anyio(note: Note) -> object:
    with anyio.move_on_after(0) as scope:
        await anyio.sleep(10)
    note(scope.cancelled_caught)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 10)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(10)
    note(scope.cancelled_caught)
    return await anyio.to_thread.run_sync(lambda: "value")


async def cancels_itself_and_returns(note: Note) -> object:
    current().cancel("why")
    return "value"


async def cancels_itself_and_raises(note: Note) -> object:
    current().cancel("why")
    raise ZeroDivisionError("at once")


async def takes_back_that_it_is_cancelled(note: Note) -> object:
    current().cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        note(current().uncancel())
    return "value"


async def shields_another(note: Note) -> object:
    other = asyncio.create_task(turns(3))
    current().cancel()
    try:
        await asyncio.shield(other)
    except asyncio.CancelledError:
        note(other.cancelled())
    await other
    return "value"


async def takes_its_context_back(note: Note) -> object:
    token = _number.set(1)
    await asyncio.sleep(0)
    note(_number.get())
    _number.reset(token)
    return _number.get()


async def leaves_a_generator_early(note: Note) -> object:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            note("closed")

    async with aclosing(numbers()) as some:
        async for number in some:
            note(number)
            break
    return "value"


def fire(deferred: Deferred[object], what: str) -> None:
    if what == "fails":
        deferred.errback(ZeroDivisionError("fired"))
    else:
        deferred.callback("fired")


async def awaits_what_fires_soon(note: Note) -> object:
    loop = asyncio.get_running_loop()
    for what in ("answers", "fails"):
        deferred: TaskDeferred[object] = TaskDeferred()
        loop.call_soon(fire, deferred, what)
        try:
            note(await deferred)
        except ZeroDivisionError as error:
            note(error)
    return "value"


async def awaits_what_nobody_can(note: Note) -> object:
    class Wrong:
        def __await__(self) -> Any:
            yield 5

    try:
        await Wrong()
    except RuntimeError as error:
        note(str(error)[-1])
    return "value"


PROGRAMS: list[Program] = [
    returns,
    raises,
    raises_cancelled,
    waits_for_turns,
    is_one_task,
    keeps_its_context,
    cancels_itself_before_a_turn,
    cancels_itself_before_a_future,
    cancels_itself_before_a_future_that_is_done_soon,
    cancels_itself_before_a_task_that_does_not_heed_it,
    waits_with_others,
    has_no_time,
    has_a_group_that_fails,
    uses_anyio,
    cancels_itself_and_returns,
    cancels_itself_and_raises,
    takes_back_that_it_is_cancelled,
    shields_another,
    takes_its_context_back,
    leaves_a_generator_early,
    awaits_what_fires_soon,
    awaits_what_nobody_can,
]


async def _events(
    program: Program, start: Callable[[Coroutine[Any, Any, object]], Awaitable[object]]
) -> list[str]:
    """What a program notes, and how it ends, if *start* starts it."""
    events: list[str] = []

    def note(event: object) -> None:
        events.append(repr(event)[:40].partition(" at 0x")[0])

    try:
        note(await start(program(note)))
    except BaseException as error:  # noqa: BLE001 - it is what is compared
        note(error)
    return events


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("within", ["a Task", "a callback"])
def test_what_a_task_does(program: Program, within: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        expected = await _events(program, _as_a_task)

        def start(coroutine: Coroutine[Any, Any, object]) -> Awaitable[object]:
            if within == "a Task":
                this = current()
                result = start_task(coroutine)
                assert current() is this
                return result.asFuture(loop)
            started: asyncio.Future[Awaitable[object]] = loop.create_future()
            loop.call_soon(lambda: started.set_result(start_task(coroutine).asFuture(loop)))
            return _both(started)

        assert await _events(program, start) == expected
        await turns()

    run_in_asyncio(test)


def _as_a_task(coroutine: Coroutine[Any, Any, object]) -> Awaitable[object]:
    return asyncio.create_task(coroutine)


async def _both(started: Awaitable[Awaitable[object]]) -> object:
    return await (await started)


def test_the_first_step_is_taken_at_once() -> None:
    async def test() -> None:
        events: list[object] = []
        waiting = start_task(waits_for_turns(events.append))
        assert events == [0]
        assert not waiting.called
        answered = start_task(returns(events.append))
        assert events == [0, "ran"]
        assert answered.called
        assert await answered == "value"
        assert await waiting == "value"

    run_in_asyncio(test)


def test_the_context_is_the_one_that_is_given() -> None:
    async def test() -> None:
        context = copy_context()
        events: list[object] = []
        assert await start_task(keeps_its_context(events.append), context=context) == 1
        assert context[_number] == 1
        assert _number.get() == 0

    run_in_asyncio(test)


@pytest.mark.parametrize("what", ["a future", "a Deferred", "a turn"])
def test_cancelled_before_the_task_has_gone_on(what: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        events: list[object] = []
        future: asyncio.Future[None] = loop.create_future()
        deferred: Deferred[None] = Deferred(lambda _: events.append("canceller"))

        async def program() -> None:
            try:
                if what == "a turn":
                    await asyncio.sleep(0)
                else:
                    await (future if what == "a future" else deferred)
            finally:
                await asyncio.sleep(0)
                events.append("clean")

        result = start_task(program())
        result.cancel()
        assert events == []
        with pytest.raises(asyncio.CancelledError):
            await result.asFuture(loop)
        assert events == (["canceller", "clean"] if what == "a Deferred" else ["clean"])
        assert future.cancelled() is (what == "a future")

    run_in_asyncio(test)


def test_a_factory_of_tasks_makes_them() -> None:
    async def test() -> None:
        made: list[str] = []

        def factory(
            loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
        ) -> asyncio.Task[Any]:
            made.append(str(options.get("name")))
            return asyncio.Task(coroutine, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        events: list[object] = []
        assert await start_task(waits_for_turns(events.append)) == "value"
        assert len(made) == 1

    run_in_asyncio(test)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has the first eager Tasks")
@pytest.mark.parametrize("program", [returns, waits_for_turns, has_no_time])
def test_a_factory_of_eager_tasks(program: Program) -> None:
    async def test() -> None:
        expected = await _events(program, _as_a_task)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - of 3.12
        assert await _events(program, lambda each: start_task(each).asFuture(loop)) == expected

    run_in_asyncio(test)


def test_a_loop_that_ends_before_the_task_goes_on() -> None:
    events: list[str] = []

    async def program() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            events.append("closed")

    def ended(failure: Failure) -> None:
        assert isinstance(failure.value, asyncio.CancelledError)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        events.append("cancelled")

    async def test() -> None:
        start_task(program()).addErrback(ended)

    run_in_asyncio(test)
    assert events == ["closed", "cancelled"]
