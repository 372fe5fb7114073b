"""Many deadlines, one timer."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from txzmq._reactor import Clock, Timer

__all__ = ["TICK", "Deadlines"]

T = TypeVar("T")

#: Seconds. Deadlines are met so much late at most; equal ones of a burst share an entry.
TICK: Final = 0.001


class Deadlines(Generic[T]):
    """Calls a function for each item whose time is up.

    Setting and removing cost the same for one item or a million, and the reactor sees a single
    timer, for the earliest.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], None]) -> None:
        """
        :param clock: tells the time and calls later.
        :param expired: called with each item at its time; the item is removed before. It may set
            and remove others.
        """
        self._clock = clock
        self._expired = expired
        self._buckets: dict[int, dict[T, None]] = {}
        # Every tick that has a bucket, and ticks whose bucket has gone.
        self._ticks: list[int] = []
        self._timer: Timer | None = None
        self._timer_tick: float = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def set(self, item: T, when: float) -> int:
        """Call the function with *item* at *when*, in the clock's seconds.

        :return: what :meth:`remove` wants to know.
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
        """Do not call the function with *item*; nothing happens if it was called already."""
        bucket = self._buckets.get(tick)
        if bucket is None:
            return
        bucket.pop(item, None)
        if not bucket:
            del self._buckets[tick]
            if len(self._ticks) > 2 * len(self._buckets) + 64:
                # Seldom enough that it costs a constant per removal. The timer stays as it is, and
                # finds nothing to do: setting it anew for each call would cost far more.
                self._ticks = sorted(self._buckets)

    def close(self) -> None:
        """Forget everything; leave nothing in the reactor."""
        self._buckets.clear()
        self._ticks.clear()
        self._stop_timer()

    def _start_timer(self, tick: int) -> None:
        self._stop_timer()
        self._timer_tick = tick
        delay = max(0.0, tick * TICK - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._run)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_tick = math.inf

    def _run(self) -> None:
        self._timer = None
        self._timer_tick = math.inf
        # Half a tick of grace, because the timer's own arithmetic rounds.
        now = self._clock.seconds() / TICK + 0.5
        while self._ticks and self._ticks[0] <= now:
            tick = self._ticks[0]
            if tick not in self._buckets:
                heapq.heappop(self._ticks)
                continue
            for item in list(self._buckets[tick]):
                # Not if the one before it has removed it.
                if item in self._buckets.get(tick, ()):
                    self.remove(item, tick)
                    self._expired(item)
        while self._ticks and self._ticks[0] not in self._buckets:
            heapq.heappop(self._ticks)
        if self._ticks and self._ticks[0] < self._timer_tick:
            self._start_timer(self._ticks[0])
