"""Any number of deadlines, with one timer in the reactor."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer

__all__ = ["TICK", "Deadlines"]

T = TypeVar("T")

#: Seconds by which a deadline may be late at most. Deadlines within one tick share an entry.
TICK: Final = 0.001


class Deadlines(Generic[T]):
    """Calls a function for each item whose time is up.

    To set or remove one costs the same among a million as among few. The reactor has a single
    timer, for the earliest.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], None]) -> None:
        """
        :param clock: tells the time and calls later.
        :param expired: called with each item when its time is up, after the item was removed. It
            may set and remove others.
        """
        self._clock = clock
        self._expired = expired
        self._buckets: dict[int, dict[T, None]] = {}
        # A heap of all ticks that have a bucket, and of some whose bucket was removed.
        self._ticks: list[int] = []
        self._timer = ResettableTimer(clock, self._run)
        # When the timer runs; infinite while it does not.
        self._timer_tick: float = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def set(self, item: T, when: float) -> int:
        """Call the function with *item* at *when*, in the clock's seconds.

        :return: the tick of the item, for :meth:`remove`.
        """
        tick = math.ceil(when / TICK)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item: None}
            heapq.heappush(self._ticks, tick)
            if tick < self._timer_tick:
                self._start_timer(tick)
        else:
            bucket[item] = None
        return tick

    def remove(self, item: T, tick: int) -> None:
        """Do not call the function with *item*; does nothing if it was called already."""
        bucket = self._buckets.get(tick)
        if bucket is None:
            return
        bucket.pop(item, None)
        if not bucket:
            del self._buckets[tick]
            if len(self._ticks) > 2 * len(self._buckets) + 64:
                # So seldom that it adds a constant to each removal. The timer is not moved: that it
                # sometimes runs and finds nothing costs less than to move it with each removal.
                self._ticks = sorted(self._buckets)

    def close(self) -> None:
        """Remove all items, and leave nothing in the reactor."""
        self._buckets.clear()
        self._ticks.clear()
        self._timer.stop()
        self._timer_tick = math.inf

    def _start_timer(self, tick: int) -> None:
        self._timer_tick = tick
        self._timer.start(max(0.0, tick * TICK - self._clock.seconds()))

    def _run(self) -> None:
        self._timer_tick = math.inf
        # Half a tick more, because the timer's own arithmetic rounds.
        now = self._clock.seconds() / TICK + 0.5
        while self._ticks and self._ticks[0] <= now:
            tick = self._ticks[0]
            if tick not in self._buckets:
                heapq.heappop(self._ticks)
                continue
            for item in list(self._buckets[tick]):
                # The function may have removed it when it was called with another.
                if item in self._buckets.get(tick, ()):
                    self.remove(item, tick)
                    self._expired(item)
        while self._ticks and self._ticks[0] not in self._buckets:
            heapq.heappop(self._ticks)
        if self._ticks and self._ticks[0] < self._timer_tick:
            self._start_timer(self._ticks[0])
