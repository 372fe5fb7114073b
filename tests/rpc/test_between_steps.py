"""Between the first step of a coroutine and its Task's, and Tasks that begin within others."""

from __future__ import annotations

import asyncio
import gc

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.rpc.tasks import run_in_asyncio, turns
from tests.rpc.test_first_steps import current, fire
from txzmq._task_deferred import TaskDeferred, for_tasks
from txzmq._tasks import start_task
from txzmq.rpc._core.asyncio_loop import deferred_of


@pytest.mark.parametrize("kind", [Deferred, TaskDeferred])
@pytest.mark.parametrize("what", ["answers", "fails"])
@pytest.mark.parametrize("later", range(3))
def test_what_is_awaited_fires_before_the_task_goes_on(
    kind: type[Deferred[object]], what: str, later: int
) -> None:
    """Or a turn or two later: the coroutine gets what has become of it."""

    async def test() -> None:
        deferred = kind()

        async def program() -> object:
            try:
                return await deferred
            except ZeroDivisionError as error:
                return str(error) + ", an error"

        result = start_task(program())
        await turns(later)
        fire(deferred, what)
        expected = "fired, an error" if what == "fails" else "fired"
        assert await result.asFuture(asyncio.get_running_loop()) == expected

    run_in_asyncio(test)


def test_who_asked_a_task_for_its_end_hears_of_it() -> None:
    async def test() -> None:
        heard: list[object] = []

        async def program() -> str:
            current().set_name("mine")
            current().add_done_callback(lambda task: heard.append((task.get_name(), task.result())))
            return "value"

        assert await start_task(program()) == "value"
        await turns()
        assert heard == [("mine", "value")]

    run_in_asyncio(test)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(kind: type[BaseException]) -> None:
    async def test() -> None:
        async def program() -> None:
            raise kind

        result = start_task(program())
        failures: list[Failure] = []
        result.addErrback(failures.append)
        assert isinstance(failures[0].value, kind)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        await turns()

    with pytest.raises(kind):
        run_in_asyncio(test)


def test_tasks_within_the_first_steps_of_others() -> None:
    async def test() -> None:
        this = current()
        ended: list[int] = []

        async def program(depth: int) -> int:
            mine = current()
            assert mine is not this
            if depth:
                start_task(program(depth - 1)).addBoth(lambda _: ended.append(depth))
                assert current() is mine
            if depth % 2:
                raise ZeroDivisionError
            await asyncio.sleep(0)
            assert current() is mine
            return depth

        assert await start_task(program(50)) == 50
        assert current() is this
        await turns()
        assert sorted(ended) == list(range(1, 51))

    run_in_asyncio(test)


def test_a_task_is_shown_with_the_frames_of_its_coroutine() -> None:
    async def test() -> None:
        event = asyncio.Event()

        async def program() -> None:
            await event.wait()

        shown: list[tuple[str, str]] = []
        result = start_task(program())
        for _ in range(2):  # before the Task goes on, and when it has
            (task,) = asyncio.all_tasks() - {current()}
            frame = task.get_stack()[0]
            shown.append((frame.f_code.co_name, task.get_name()))
            assert "program() running at" in repr(task)
            await turns()
        event.set()
        await result
        assert shown == [("program", program.__qualname__)] * 2

    run_in_asyncio(test)


@pytest.mark.parametrize("later", range(3))
@pytest.mark.parametrize("ours", [False, True])
def test_what_ends_later_than_it_was_cancelled_is_left_alone(ours: bool, later: int) -> None:
    """A Future that takes a while to clean up: its error is nobody's, and is not logged."""

    async def test() -> None:
        async def cleaning_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(5)

        task = asyncio.ensure_future(cleaning_up())
        await turns(2)

        async def program() -> None:
            awaited = deferred_of(task)
            await (for_tasks(awaited) if ours else awaited)

        result = start_task(program())
        await turns(later)
        result.cancel()
        await turns()
        assert task.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await result
        gc.collect()

    run_in_asyncio(test)
