"""Runs coroutines as Tasks of asyncio's, which may await Deferreds of any kind.

It is loaded where there is one to run, for the reason that ``_task_wait`` gives.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._task_deferred import TaskDeferred, mark_handled
from txzmq._task_wait import Wait

__all__ = ["TaskResult", "start_task"]

T = TypeVar("T")


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
