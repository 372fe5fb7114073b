"""When a gateway begins with calls: together, where many come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["Pace"]

#: Seconds for which calls wait for others, at most.
_WAIT: Final = 0.003
#: Seconds in which a call may be followed by another that is one of many.
_CLOSE: Final = 0.01
#: How many calls have to begin together for the wait to pay.
_PAYS: Final = 3
#: How much of the wait the thread has to be busy, or it had better begin.
_BUSY: Final = 0.4
#: How many calls begin at once where it did not pay, before it is tried again.
_PAUSE: Final = 64


class Pace:
    """Has a gateway's calls begin together where many come, or at once.

    A server of grpc.aio's hands calls over one by one, in turns of the loop that have no other.
    What begins in one turn goes to a server in one message, and so do the responses: that costs a
    fraction. So a call that comes close behind another, which has not ended, waits a moment for
    others. While enough come each time, and the loop has other work meanwhile, so does the next;
    otherwise, a number of calls begin at once. A client with one call at a time never waits.
    """

    __slots__ = ("_at", "_begun", "_many", "_pause", "_runs", "_thread_time", "_used", "_waiting")

    def __init__(self, used: Callable[[], float] = time.thread_time) -> None:
        """:param used: seconds of a processor that the thread has used."""
        self._thread_time = used
        # When the newest call came, which one it is, and whether it goes on.
        self._at = 0.0
        self._begun = 0
        self._runs = False
        # Whether enough began together the last time.
        self._many = False
        # What the thread had used of a processor, in seconds, when the wait began.
        self._used = 0.0
        # How many more calls begin at once.
        self._pause = 0
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self) -> tuple[int, Awaitable[None] | None]:
        """A call has come.

        :return: what :meth:`end` wants to know, and what the call has to await before it is made;
            None where it need not wait.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        close = self._runs and now - self._at < _CLOSE
        self._at, self._runs = now, True
        self._begun += 1
        if not (self._many or self._waiting):
            if not close:
                return self._begun, None
            if self._pause:
                self._pause -= 1
                return self._begun, None
        if not self._waiting:
            self._used = self._thread_time()
            loop.call_later(_WAIT, self._go)
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        return self._begun, future

    def end(self, number: int) -> None:
        """A call has ended."""
        if number == self._begun:
            self._runs = False

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, []
        used = self._thread_time() - self._used
        self._many = len(waiting) >= _PAYS and used > _BUSY * _WAIT
        if not self._many:
            self._pause = _PAUSE
        for future in waiting:
            if not future.done():  # its call was cancelled
                future.set_result(None)
