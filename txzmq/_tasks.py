"""Runs coroutines as Tasks of asyncio's, which may await Deferreds of any kind.

It is loaded where there is one to run, for the reason that ``_task_wait`` gives.

A Task begins in the loop's next turn. Most handlers have nothing to wait for, and an answer that
comes in a turn of its own is sent on its own, which costs more than all else of a call. So here the
coroutine takes its first step at once, with its Task as the current one, and the Task goes on from
where that has come to (docs/decisions/0016-awaiting-in-tasks.md).
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Task, current_task, get_running_loop

# Private in name, but documented, for whoever makes Tasks of other kinds ("Extending").
from asyncio.tasks import (
    _enter_task as enter_task,  # pyright: ignore[reportPrivateUsage]
)
from asyncio.tasks import (
    _leave_task as leave_task,  # pyright: ignore[reportPrivateUsage]
)
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txzmq._task_deferred import TaskDeferred, leave
from txzmq._task_wait import Wait

__all__ = ["begin_task", "start_task"]

T = TypeVar("T")


# Any, here and below: what it awaits is Twisted's or asyncio's.
def start_task(
    awaiting: Coroutine[Any, Any, T],
    loop: AbstractEventLoop | None = None,
    context: Context | None = None,
) -> Deferred[T]:
    """Run a coroutine as a Task, in which it may await Deferreds of any kind, too.

    It runs until it waits for the first time; the rest is done in turns of the loop.

    :param loop: None for the one that runs in this thread.
    :param context: None for a copy of the current one.
    :return: fires with the result, when the Task has ended. To cancel it cancels the Task; it fires
        when the Task has cleaned up, and may be cancelled again until then.
    :raises RuntimeError: if no loop runs.
    """
    result = begin_task(awaiting, loop, context)
    return cast("Deferred[T]", result) if isinstance(result, Deferred) else succeed(result)


def begin_task(
    awaiting: Coroutine[Any, Any, T],
    loop: AbstractEventLoop | None = None,
    context: Context | None = None,
) -> Deferred[T] | T:
    """As :func:`start_task`, but a coroutine that waits for nothing gives its result itself."""
    if loop is None:
        try:
            loop = get_running_loop()
        except RuntimeError:
            awaiting.close()
            raise
    if context is None:
        context = copy_context()
    steps = _Steps(awaiting, loop)
    # The name is what Tasks are shown by.
    name = getattr(awaiting, "__qualname__", None)
    task: Task[T] = loop.create_task(steps, name=name, context=context)
    if not steps.has_begun:  # which only a factory of eager Tasks has done already
        steps.take_first(task, context)
        if steps.is_over:
            error = steps.error
            if error is not None:
                task.add_done_callback(_ask_for_error)
                return fail(error)
            if not task.cancelling():  # or it has cancelled itself, and ends as cancelled
                return cast("T", steps.value)
    return _TaskResult(task)


class _TaskResult(TaskDeferred[T]):
    """Fires with the result of a Task."""

    def __init__(self, task: Task[T]) -> None:
        super().__init__()
        self._task = task
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel the Task; may be called again while it cleans up."""
        self._task.cancel()

    def _ended(self, task: Task[T]) -> None:
        try:
            result = task.result()
        except BaseException:  # noqa: BLE001 - whatever the coroutine has raised
            self.errback(Failure())  # type: ignore[no-untyped-call]  # Twisted's
        else:
            self.callback(result)


def _ask_for_error(task: Task[Any]) -> None:
    """Have asyncio not complain that nobody has: whoever waits for the coroutine has it."""
    if not task.cancelled():
        task.exception()


class _Steps(Coroutine[Any, Any, T]):
    """The steps of a coroutine: the first one at once, the rest by a Task, which has this."""

    __slots__ = (
        "_awaited",
        "_awaiting",
        "_goes_on",
        "_loop",
        "error",
        "has_begun",
        "is_over",
        "value",
    )

    def __init__(self, awaiting: Coroutine[Any, Any, T], loop: AbstractEventLoop) -> None:
        self._awaiting = awaiting
        self._loop = loop
        # What the coroutine waits for; None for the loop's next turn.
        self._awaited: Any = None
        # Whether the Task has taken its own first step.
        self._goes_on = False
        self.has_begun = False
        #: Whether the first step has been the last one, with a value or an error.
        self.is_over = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def take_first(self, task: Task[T], context: Context) -> None:
        """Take the first step as *task* would, whose own first step has only been scheduled."""
        self.has_begun = True
        loop = self._loop
        outer = current_task(loop)
        if outer is not None:
            leave_task(loop, outer)
        enter_task(loop, task)
        try:
            self._awaited = context.run(self._awaiting.send, None)
        except StopIteration as end:
            self.is_over, self.value = True, end.value
        except BaseException as error:  # noqa: BLE001 - whatever the coroutine raises
            self.is_over, self.error = True, error
        finally:
            leave_task(loop, task)
            if outer is not None:
                enter_task(loop, outer)

    def send(self, value: Any) -> Any:
        """Take the Task's next step."""
        if self._goes_on:
            return self._yielded(self._awaiting.send(None))
        self._goes_on = True
        if self.is_over:
            if self.error is not None:
                raise self.error
            raise StopIteration(self.value)
        if not self.has_begun:
            self.has_begun = True
            return self._yielded(self._awaiting.send(None))
        # For a turn of the loop, too: what the coroutine has scheduled before has a turn then.
        return self._still_awaited()

    # Any: as Coroutine has it.
    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Take the Task's next step, which gives the coroutine an error."""
        error: BaseException = typ if val is None else val
        if self._goes_on:
            if _is_deferred(self._awaited):
                leave(self._awaited, self._loop)
            return self._yielded(self._awaiting.throw(error))
        self._goes_on = True
        if self.is_over:
            raise self.error or error
        if self.has_begun and _has_cancelled(self._awaited, error, self._loop):
            # The coroutine hears of it when that has ended, as in any Task.
            return self._still_awaited()
        self.has_begun = True
        return self._yielded(self._awaiting.throw(error))

    def close(self) -> None:
        """Close the coroutine."""
        self._awaiting.close()

    def __await__(self) -> Generator[Any, Any, T]:
        """As the coroutine's; a Task does not ask for it."""
        return self._awaiting.__await__()

    # What Tasks are shown by, and their stacks: the coroutine's.
    def __getattr__(self, name: str) -> Any:
        if name.startswith("cr_") or name in ("__name__", "__qualname__"):
            return getattr(self._awaiting, name)
        raise AttributeError(name)

    def _still_awaited(self) -> Any:
        """What the Task gets for what the coroutine has waited for since its first step."""
        awaited = self._awaited
        if hasattr(awaited, "_asyncio_future_blocking"):
            awaited._asyncio_future_blocking = True  # another Task may have begun to wait since
        return self._yielded(awaited)

    def _yielded(self, awaited: Any) -> Any:
        """What the Task gets for what the coroutine yields: a Deferred is awaited by a Wait."""
        self._awaited = awaited
        return Wait(awaited, self._loop) if _is_deferred(awaited) else awaited


def _is_deferred(awaited: object) -> bool:
    """Whether a Task cannot take it for a Future, as it can a Wait, and it is a Deferred."""
    if awaited is None or hasattr(awaited, "_asyncio_future_blocking"):
        return False
    return isinstance(awaited, Deferred)


# Any: of what a user awaits.
def _has_cancelled(awaited: Any, error: BaseException, loop: AbstractEventLoop) -> bool:
    """Cancel what a coroutine waits for; whether its Task has to wait for that to end."""
    if _is_deferred(awaited):
        awaited.cancel()
        leave(awaited, loop)
        return False
    return hasattr(awaited, "cancel") and awaited.cancel(*error.args) is True
