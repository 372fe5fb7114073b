"""Subscribers of the ticker, and what they see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from generated.demo.ticker.v1.ticker_pb2 import WatchRequest, WatchResponse
from generated.demo.ticker.v1.ticker_txzmq import TickerClient
from txzmq.rpc import ResponseStream

#: Seconds after which a price is late.
LATE = 0.25


class Subscriber:
    """Takes prices until it leaves, and counts."""

    # Any: Twisted types reactors with zope interfaces.
    def __init__(
        self, name: str, clock: Any, pause: float = 0, tell: Callable[[str], object] = print
    ) -> None:
        """
        :param pause: seconds for which it does something else after each price; a slow subscriber
            is one that takes longer than the time between two prices.
        :param tell: called with a line, when the subscriber has lost prices.
        """
        self.name = name
        self.received = 0
        self.lost = 0
        #: Prices that took longer than `LATE`, and seconds of the one that took longest.
        self.late = 0
        self.slowest = 0.0
        #: The number of the last price.
        self.number = 0
        #: Fires with the first price.
        self.joined: Deferred[None] = Deferred()
        self._clock = clock
        self._pause = pause
        self._tell = tell
        self._since = 0.0
        self._stream: ResponseStream[WatchResponse] | None = None

    def follow(self, client: TickerClient) -> Deferred[None]:
        """Subscribe.

        :return: fires when the subscriber has left, and fails if the stream does.
        """
        self._since = self._clock.seconds()
        self._stream = client.watch(WatchRequest()).skip_gaps(self._lose)
        return self._stream.each(self._take)

    def leave(self) -> None:
        """End the stream; the Deferred of `follow` then fails with CancelledError."""
        if self._stream is not None:
            self._stream.cancel()

    def count_anew(self) -> None:
        """Forget the delays until now."""
        self.late, self.slowest = 0, 0.0

    def _take(self, price: WatchResponse) -> Deferred[None] | None:
        self.received += 1
        self.number = price.number
        # Those who join get the last prices first; these are old, and not late.
        if price.published_at >= self._since:
            delay = self._clock.seconds() - price.published_at
            self.slowest = max(self.slowest, delay)
            self.late += delay > LATE
        if not self.joined.called:
            self.joined.callback(None)
        # The next price waits for a Deferred.
        return deferLater(self._clock, self._pause, lambda: None) if self._pause else None

    def _lose(self, count: int) -> None:
        self.lost += count
        self._tell(f"{self.name} was too slow: it has lost {count} prices, and goes on")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a number of subscribers have seen."""

    subscribers: int
    #: The most that one subscriber has received, and what all have together.
    events: int
    deliveries: int
    lost: int
    late: int
    #: Who had the longest delay, and its seconds.
    slowest: str
    delay: float

    @classmethod
    def of(cls, subscribers: Iterable[Subscriber]) -> Figures:
        """Add up what subscribers have counted; one at least."""
        everybody = list(subscribers)
        slowest = max(everybody, key=lambda each: each.slowest)
        return cls(
            subscribers=len(everybody),
            events=max(each.received for each in everybody),
            deliveries=sum(each.received for each in everybody),
            lost=sum(each.lost for each in everybody),
            late=sum(each.late for each in everybody),
            slowest=slowest.name,
            delay=slowest.slowest,
        )

    def since(self, before: Figures, seconds: float) -> str:
        """A line about the time since *before*, which was some seconds ago."""
        return (
            f"{(self.events - before.events) / seconds:,.0f} events/s, "
            f"{(self.deliveries - before.deliveries) / seconds:,.0f} deliveries/s, "
            f"slowest: {self.slowest}, {self.delay * 1000:.0f} ms, {self.late:,} late"
        )
