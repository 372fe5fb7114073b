"""Something to be done in the reactor's next turn."""

from __future__ import annotations

from asyncio import Handle
from collections.abc import Callable

from txzmq._asyncio_loop import loop_beneath
from txzmq._reactor import Clock, Timer

__all__ = ["NextTurn"]


class NextTurn:
    """Calls a function in the next turn, once for all that have asked for it.

    On asyncio's loop it asks the loop itself: there, ``callLater(0, ...)`` of Twisted's sets two
    timers, which costs several times as much.
    """

    __slots__ = ("_call", "_clock", "_function", "_handle", "_loop", "is_due")

    def __init__(self, clock: Clock, function: Callable[[], object]) -> None:
        """
        :param clock: the reactor.
        :param function: called in the next turn; it may start this again.
        """
        self._clock = clock
        self._function = function
        self._loop = loop_beneath(clock)
        self._handle: Handle | None = None
        self._call: Timer | None = None
        #: Whether the function is going to be called.
        self.is_due = False

    def start(self) -> None:
        """Have the function called in the next turn, unless it is going to be called."""
        if self.is_due:
            return
        self.is_due = True
        if self._loop is not None:
            self._handle = self._loop.call_soon(self._run)
        else:
            self._call = self._clock.callLater(0, self._run)

    def stop(self) -> None:
        """Do not call the function; nothing is left in the reactor."""
        self.is_due = False
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _run(self) -> None:
        self.is_due = False
        self._handle = self._call = None
        self._function()
