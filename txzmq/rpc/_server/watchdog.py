"""Notices that the reactor stood still, and what may have lain in the sockets meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer

__all__ = ["Watchdog"]

#: Seconds in which what had arrived meanwhile is read, once the reactor goes on. The I/O thread may
#: have been stopped too, and needs a moment; so much longer while there is more to read.
_CATCH_UP: Final = 0.1
#: Seconds after which a server that still has more to read is taken for one that is overloaded.
_LONGEST_CATCH_UP: Final = 2.0


class Watchdog:
    """A timer that comes late when the process was stopped or its reactor blocked.

    The reactor may read sockets before it calls the timer. So whoever reads compares the time with
    :attr:`late_after`, which is all that this costs per message.

    What is read first afterwards may have been sent at any time since the reactor was last seen.
    Where one pause follows the other, it may have been before the first one; but not for ever, or
    a server whose handlers block all the time would in the end take nothing on that has a deadline.

    :ivar late_after: the time past which the reactor has stood still; infinite for never.
    :ivar lain_us: for how long what is read now may have lain, in microseconds; 0 as a rule.
    """

    __slots__ = (
        "_caught_up",
        "_clock",
        "_give_up_at",
        "_has_input",
        "_late",
        "_limit",
        "_look",
        "_noticed_at",
        "_overloaded_at",
        "_seen",
        "_since",
        "_tick",
        "lain_us",
        "late_after",
    )

    def __init__(
        self,
        clock: Clock,
        limit: float | None,
        late: Callable[[float], None],
        has_input: Callable[[], bool],
        caught_up: Callable[[], None],
    ) -> None:
        """
        :param limit: how long the reactor may stand still, in seconds; None for any time.
        :param late: called with the time when a timer came late, for it to call :meth:`noticed`.
        :param has_input: whether there is more to read.
        :param caught_up: called when what is read has not lain any more.
        """
        self._clock = clock
        self._limit = limit
        self._late = late
        self._has_input = has_input
        self._caught_up = caught_up
        self._tick = ResettableTimer(clock, self._ticked)
        self._look = ResettableTimer(clock, self._looked)
        # When the reactor was last seen to work; and then, before it stood still.
        self._seen = 0.0
        self._since = 0.0
        # When it went on.
        self._noticed_at = 0.0
        # From when on a further pause is taken for overload; and more to read after the last one.
        self._overloaded_at = 0.0
        self._give_up_at = 0.0
        self.late_after = math.inf
        self.lain_us = 0

    def start(self) -> None:
        """Watch from now on; may be called again."""
        if self._limit is not None and not self._tick.is_running:
            self._saw(self._limit, self._clock.seconds())

    def _saw(self, limit: float, now: float) -> None:
        self._seen = now
        self.late_after = now + limit
        self._tick.start(limit / 2)

    def _ticked(self) -> None:
        now = self._clock.seconds()
        if now > self.late_after:
            self._late(now)
        elif self._limit is not None:
            self._saw(self._limit, now)

    def noticed(self, now: float) -> float:
        """The reactor goes on at *now*, which is past :attr:`late_after`.

        :return: for how many seconds it stood still, at most.
        """
        assert self._limit is not None, "nothing is late where there is no limit"
        stood_still = now - self._seen
        is_first = not self.lain_us
        is_overloaded = not is_first and self._seen >= self._overloaded_at
        if is_first:
            self._noticed_at = now
        if is_first or is_overloaded:
            self._since, self._overloaded_at = self._seen, now + _LONGEST_CATCH_UP
        self._saw(self._limit, now)
        self._give_up_at = now + _LONGEST_CATCH_UP
        self._catch_up(now)
        if is_overloaded:
            self._caught_up()  # or handlers that block all the time would have it wait for ever
        return stood_still

    def lain(self, read_at: float) -> int:
        """As :attr:`lain_us`, for what was read at a time: it may have been before the pause."""
        return self.lain_us if read_at >= self._noticed_at else 0

    def _catch_up(self, now: float) -> None:
        self.lain_us = math.ceil((now + _CATCH_UP - self._since) * 1_000_000)
        self._look.start(_CATCH_UP)

    def _looked(self) -> None:
        now = self._clock.seconds()
        if now > self.late_after:
            self._late(now)
        elif now < self._give_up_at and self._has_input():
            self._catch_up(now)
        else:
            self.catch_up_now()

    def catch_up_now(self) -> None:
        """Take nothing for late any more."""
        self._look.stop()
        if self.lain_us:
            self.lain_us = 0
            self._caught_up()

    def stop(self) -> None:
        """Watch no more, and leave nothing in the reactor."""
        self._tick.stop()
        self._look.stop()
        self.late_after = math.inf
