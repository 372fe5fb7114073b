"""Deferreds that a Task of asyncio's can await as a coroutine of Twisted's does.

A coroutine that waits yields something to whoever drives it: Twisted takes a Deferred, a Task takes
a Future. A coroutine cannot know who drives it: a Task may call code that drives a coroutine of
Twisted's. So in a Task it yields a :class:`Wait`, which both take
(docs/decisions/0016-awaiting-in-tasks.md).
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Task, current_task, get_running_loop
from asyncio import CancelledError as AsyncioCancelledError

# Private in name, but documented: get_running_loop() raises where none runs, which is slow.
from asyncio.events import (
    _get_running_loop as running_loop,  # pyright: ignore[reportPrivateUsage]
)
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

__all__ = [
    "TaskDeferred",
    "TaskResult",
    "error_for_driver",
    "for_tasks",
    "mark_handled",
    "start_task",
    "task_loop",
]

T = TypeVar("T")


def task_loop() -> AbstractEventLoop | None:
    """The loop whose Task runs here; None outside of Tasks."""
    loop = running_loop()
    return None if loop is None or current_task(loop) is None else loop


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
            try:
                yield Wait(self, loop)
            except BaseException:
                mark_handled(self)  # the Task was cancelled: nobody asks for the error
                raise
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


class Wait(Deferred[None]):
    """A coroutine waits for a Deferred in a Task: it yields this.

    Twisted takes it for a Deferred, and adds callbacks. A Task takes it for a Future by
    ``_asyncio_future_blocking``, and calls :meth:`get_loop` and :meth:`add_done_callback`. Either
    calls :meth:`cancel`. The coroutine finds the result in the Deferred that it waits for.
    """

    #: Has the Task know that it waits for a Future.
    _asyncio_future_blocking = True

    def __init__(self, awaited: Deferred[Any], loop: AbstractEventLoop) -> None:
        super().__init__()
        self._awaited = awaited
        self._loop = loop
        #: Whether a Task drives the coroutine; known once it has been yielded.
        self.in_task = False
        # The Task's, and the context to call it in; None where Twisted drives the coroutine.
        self._wakeup: Callable[[Any], object] | None = None
        self._context: Context | None = None
        awaited.addBoth(self._fired)

    def get_loop(self) -> AbstractEventLoop:
        """The loop on which the Task must run."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """A Task waits, and goes on when *callback* is called."""
        self.in_task = True
        self._wakeup = callback
        self._context = context
        if self.called:
            self._wake(callback)

    # Any: in a Deferred it returns None.
    def cancel(self, msg: object = None) -> Any:
        """Cancel what is waited for.

        :return: False: the Task itself has its coroutine get ``CancelledError`` when it goes on.
        """
        self._awaited.cancel()
        return False

    def _fired(self, result: object) -> object:
        if self._wakeup is None:
            self.callback(None)  # the coroutine goes on now, and takes the result
            return None
        self._wake(self._wakeup)
        return result  # the coroutine takes it in a moment

    def _wake(self, wakeup: Callable[[Any], object]) -> None:
        self._loop.call_soon(wakeup, _DONE, context=self._context)


def _error_for_driver(error: BaseException) -> Generator[Deferred[Any], Any, BaseException]:
    """The error to raise in a coroutine for *error*: of the two ``CancelledError`` its driver's."""
    loop = task_loop() if isinstance(error, CancelledError) else None
    if loop is not None:
        wait = Wait(succeed(None), loop)
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
    deferred.addCallbacks(ours.callback, ours.errback)
    return ours


class _Done:
    """What a Task asks for the result of what it waited for; the coroutine has that already."""

    def result(self) -> None:
        """Nothing to send into the coroutine, and nothing to raise there."""


_DONE: Final = _Done()


def mark_handled(deferred: Deferred[Any]) -> None:
    """Have nothing logged of an error of *deferred*."""
    # The name is private to Twisted, which offers no other way to leave the result as it is.
    info = getattr(deferred, "_debugInfo", None)
    if info is not None:
        info.failResult = None


class TaskResult(TaskDeferred[T]):
    """Fires with the result of a coroutine that runs as a Task, when that has ended.

    To cancel it cancels the Task; it fires when the Task has cleaned up. The coroutine begins in
    any case, and gets ``CancelledError`` where it waits for the first time: so it can clean up what
    it was given.
    """

    def __init__(
        self, awaiting: Coroutine[Any, Any, T], loop: AbstractEventLoop, context: Context | None
    ) -> None:
        super().__init__()
        self._awaiting = awaiting
        self._loop = loop
        self._has_begun = self._is_cancelled = False
        name = getattr(awaiting, "__qualname__", None)
        self._task = loop.create_task(self._run(), name=name, context=context)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel the Task; may be called again while it cleans up."""
        if self._has_begun:
            self._task.cancel()
        else:
            self._is_cancelled = True

    async def _run(self) -> T:
        self._has_begun = True
        if self._is_cancelled:
            self._task.cancel()
        return await _pass_on(self._awaiting, self._loop)

    def _ended(self, task: Task[T]) -> None:
        if not self._has_begun:
            self._awaiting.close()  # the loop ends, and has cancelled all Tasks
        try:
            result = task.result()
        except BaseException:  # noqa: BLE001 - whatever the coroutine has raised
            self.errback(Failure())  # type: ignore[no-untyped-call]  # Twisted's
        else:
            self.callback(result)


def start_task(
    # Any: what it awaits is Twisted's or asyncio's.
    awaiting: Coroutine[Any, Any, T],
    loop: AbstractEventLoop | None = None,
    context: Context | None = None,
) -> TaskResult[T]:
    """Run a coroutine as a Task, in which it may await Deferreds of any kind, too.

    :param loop: None for the one that runs in this thread.
    :param context: None for a copy of the current one.
    :raises RuntimeError: if no loop runs.
    """
    if loop is None:
        try:
            loop = get_running_loop()
        except RuntimeError:
            awaiting.close()
            raise
    return TaskResult(awaiting, loop, context)


@coroutine
def _pass_on(awaiting: Coroutine[Any, Any, T], loop: AbstractEventLoop) -> Generator[Any, None, T]:
    """Drive a coroutine as its Task would, which gets a :class:`Wait` for each Deferred."""
    error: BaseException | None = None
    while True:
        try:
            awaited = awaiting.send(None) if error is None else awaiting.throw(error)
        except StopIteration as end:
            return cast("T", end.value)
        # Any: of what a user awaits.
        deferred: Deferred[Any] | None = None
        if isinstance(awaited, Deferred):
            deferred = awaited  # pyright: ignore[reportUnknownVariableType]  # a user's
        error = None
        try:
            if deferred is None or isinstance(deferred, Wait):
                yield awaited
            else:
                yield Wait(deferred, loop)
        except GeneratorExit:
            awaiting.close()
            raise
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's
            if deferred is not None:
                mark_handled(deferred)
            error = raised
