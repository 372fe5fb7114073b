"""Deferreds that a Task of asyncio's can await as a coroutine of Twisted's does.

A coroutine that waits yields something to whoever drives it: Twisted takes a Deferred, a Task takes
a Future. A coroutine cannot know who drives it: a Task may call code that drives a coroutine of
Twisted's. So in a Task it yields a ``Wait``, which both take
(docs/decisions/0016-awaiting-in-tasks.md).
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, current_task
from asyncio import CancelledError as AsyncioCancelledError

# Private in name, but documented: get_running_loop() raises where none runs, which is slow.
from asyncio.events import (
    _get_running_loop as running_loop,  # pyright: ignore[reportPrivateUsage]
)
from collections.abc import Awaitable, Callable, Generator
from functools import cache
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from txzmq._task_wait import Wait

__all__ = [
    "TaskDeferred",
    "error_for_driver",
    "for_tasks",
    "leave",
    "mark_handled",
    "task_loop",
]

T = TypeVar("T")


def task_loop() -> AbstractEventLoop | None:
    """The loop whose Task runs here; None outside of Tasks."""
    loop = running_loop()
    return None if loop is None or current_task(loop) is None else loop


@cache
def _wait_class() -> type[Wait]:
    """Loaded when the first Task waits, and not before: its module says why."""
    from txzmq._task_wait import Wait

    return Wait


class TaskDeferred(Deferred[T]):
    """A Deferred that coroutines of Twisted's and Tasks of asyncio's can await.

    The Task must run on the loop of the reactor that fires it. Who cancels the Task while it waits
    cancels the Deferred. A Task that awaits a Deferred which somebody else has cancelled gets
    asyncio's ``CancelledError``, as of a Future.
    """

    def __await__(self) -> Generator[Deferred[Any], None, T]:
        # As Twisted's, but for what is yielded in a Task.
        while not self.called or self.paused:
            loop = running_loop()
            if loop is None or current_task(loop) is None:
                yield self
                continue
            wait = _wait_class()(self, loop)
            try:
                yield wait
            except BaseException:
                leave(self, loop)  # the Task was cancelled
                raise
            wait.has_gone_on = True
            del wait  # it has the Task
        result = self.result
        if isinstance(result, Failure):
            mark_handled(self)
            error = cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
            if isinstance(error, CancelledError):
                error = yield from _error_for_driver(error)
            try:
                raise error
            finally:
                del self, result, error  # the traceback has this frame
        return cast("T", result)


def _error_for_driver(error: BaseException) -> Generator[Deferred[Any], Any, BaseException]:
    """The error to raise in a coroutine for *error*: of the two ``CancelledError`` its driver's."""
    loop = task_loop() if isinstance(error, CancelledError) else None
    if loop is not None:
        wait = _wait_class()(succeed(None), loop)
        yield wait  # which is how one finds out who drives the coroutine
        if wait.in_task:
            try:
                raise AsyncioCancelledError(*error.args) from error
            except AsyncioCancelledError as cancelled:
                return cancelled
    return error


#: As a function to await.
error_for_driver: Callable[[BaseException], Awaitable[BaseException]] = coroutine(_error_for_driver)


def for_tasks(deferred: Deferred[T]) -> TaskDeferred[T]:
    """A Deferred that fires with the result of *deferred*, and cancels it when it is cancelled."""
    ours: TaskDeferred[T] = TaskDeferred(lambda _: deferred.cancel())

    def fire(result: T | Failure) -> None:
        if not ours.called:  # or it was cancelled, and this ends later than that
            ours.callback(cast("T", result))

    deferred.addBoth(fire)
    return ours


def mark_handled(deferred: Deferred[Any]) -> None:
    """Have nothing logged of an error of *deferred*."""
    # The name is private to Twisted, which offers no other way to leave the result as it is.
    info = getattr(deferred, "_debugInfo", None)
    if info is not None:
        info.failResult = None


def leave(deferred: Deferred[Any], loop: AbstractEventLoop) -> None:
    """Have nothing logged of an error of *deferred*, now or when it comes: who waited has gone.

    Others who wait get it all the same.
    """
    if deferred.called and not deferred.paused:
        mark_handled(deferred)
        return

    # It was cancelled, and ends later: a Future's Task, for instance, cleans up.
    def failed(failure: Failure) -> Failure:
        if not loop.is_closed():
            loop.call_soon(mark_handled, deferred)  # when it has the failure back
        return failure

    deferred.addErrback(failed)
