"""What a coroutine yields that waits for a Deferred in a Task of asyncio's.

A module of its own, which is loaded when the first Task waits: Twisted looks through the list of
Deferred's subclasses at each callback, so that each of them costs programs that have no Tasks, too.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from twisted.internet.defer import Deferred

__all__ = ["Wait"]


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
        #: Whether the coroutine has gone on, and taken the result; it says so itself.
        self.has_gone_on = False
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
        if self._wakeup is not None:
            self._wake(self._wakeup)
            return result  # the coroutine takes it in a moment
        self.callback(None)  # a coroutine of Twisted's goes on now, and takes the result
        # Another one goes on later: its first step was taken before its Task could wait.
        return None if self.has_gone_on else result

    def _wake(self, wakeup: Callable[[Any], object]) -> None:
        self._loop.call_soon(wakeup, _DONE, context=self._context)


class _Done:
    """What a Task asks for the result of what it waited for; the coroutine has that already."""

    def result(self) -> None:
        """Nothing to send into the coroutine, and nothing to raise there."""


_DONE: Final = _Done()
