"""Something that happens once, and who waits for it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from txzmq._task_deferred import TaskDeferred

__all__ = ["Milestone"]

T = TypeVar("T")


class Milestone(Generic[T]):
    """Something that happens once, with a value, or never will, because of an error.

    Each who waits gets a Deferred of its own, and may cancel it without any effect on others.
    """

    __slots__ = ("_error", "_value", "_waiting")

    def __init__(self) -> None:
        self._value: tuple[T] | None = None
        self._error: BaseException | None = None
        # Each with what it keeps from being garbage.
        self._waiting: dict[Deferred[T], object] = {}

    def wait(self, keep: object = None) -> Deferred[T]:
        """Fires when it has happened, and fails if it never will.

        :param keep: what is not garbage as long as the Deferred waits.
        """
        if self._value is not None:
            return succeed(self._value[0])
        if self._error is not None:
            return fail(self._error)
        waiting: Deferred[T] = TaskDeferred(self._forget)
        self._waiting[waiting] = keep
        return waiting

    def _forget(self, waiting: Deferred[Any]) -> None:
        self._waiting.pop(waiting, None)

    def reach(self, value: T) -> None:
        """It has happened; does nothing if that is settled."""
        if self._value is None and self._error is None:
            self._value = (value,)
            for waiting in self._take():
                waiting.callback(value)

    def miss(self, error: BaseException) -> None:
        """It never will; does nothing if that is settled."""
        if self._value is None and self._error is None:
            self._error = error
            for waiting in self._take():
                waiting.errback(error)

    def _take(self) -> list[Deferred[T]]:
        """Those who wait, each of which is to be fired."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting)
