"""Runs the coroutines of a server's user as Tasks of asyncio's.

It is loaded where somebody asks for that: what it needs would cost other servers something.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import wraps
from types import CoroutineType
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._tasks import begin_task, start_task
from txzmq.rpc._core.handler_style import HandlerStyle

__all__ = ["ASYNCIO"]

T = TypeVar("T")


class TaskRunner(Generic[T]):
    """Runs a coroutine as a Task, in which it may await what is asyncio's, and Deferreds."""

    __slots__ = ("_context", "_coroutine", "_ended", "_result", "_subject")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        context: Context,
        ended: Callable[[Failure | None, T], object],
        subject: T,
    ) -> None:
        """
        :param context: the context in which the coroutine runs.
        :param ended: called once, with a Failure or None, and *subject*.
        """
        self._coroutine = coroutine
        self._context = context
        self._ended = ended
        self._subject = subject
        # None before it has started.
        self._result: Deferred[None] | None = None

    def start(self) -> None:
        """Run it until it waits for the first time; the rest in turns of the loop."""
        self._result = start_task(self._coroutine, context=self._context)
        self._result.addBoth(self._ended, self._subject)

    def cancel(self) -> None:
        """Cancel the Task."""
        if self._result is not None:
            self._result.cancel()


def _in_tasks(function: Callable[..., Any]) -> Callable[..., Any]:
    """As *function*, but its coroutines run as Tasks: it returns their results, or Deferreds."""

    @wraps(function)
    def called(*arguments: Any) -> Any:
        result = function(*arguments)
        return begin_task(result) if isinstance(result, CoroutineType) else result  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's

    return called


ASYNCIO: Final = HandlerStyle(_in_tasks, TaskRunner)
