"""One timer that is started, moved and stopped."""

from __future__ import annotations

from collections.abc import Callable

from txzmq._reactor import Clock, Timer

__all__ = ["ResettableTimer"]


class ResettableTimer:
    """Calls a function after a while, at most once for each :meth:`start`."""

    __slots__ = ("_call", "_clock", "_function")

    def __init__(self, clock: Clock, function: Callable[[], object]) -> None:
        """
        :param clock: tells the time and calls later.
        :param function: called when the time is up; it may start the timer again.
        """
        self._clock = clock
        self._function = function
        self._call: Timer | None = None

    @property
    def is_running(self) -> bool:
        """Whether the function is going to be called."""
        return self._call is not None

    def start(self, seconds: float) -> None:
        """Call the function in *seconds* from now, and not at the time that was set before."""
        if self._call is None:
            self._call = self._clock.callLater(seconds, self._run)
        else:
            self._call.reset(seconds)

    def stop(self) -> None:
        """Do not call the function; nothing is left in the reactor."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _run(self) -> None:
        self._call = None
        self._function()
