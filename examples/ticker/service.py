"""The ticker's service: one run of the handler makes the prices that all subscribers get."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.task import deferLater

from generated.demo.ticker.v1.ticker_pb2 import WatchRequest, WatchResponse
from generated.demo.ticker.v1.ticker_txzmq import TickerBase
from txzmq.rpc import Context

#: Cents at which the shares begin.
SHARES = {"ACME": 10_000, "BOLT": 2_500, "CORE": 700}


class Ticker(TickerBase):
    """Publishes prices while anybody watches."""

    # Any: Twisted types reactors with zope interfaces.
    def __init__(self, clock: Any, rate: float, seed: int | None = None) -> None:
        """
        :param rate: prices per second.
        :param seed: the same one makes the same prices; None for others each time.
        """
        self._clock = clock
        self._rate = rate
        self._random = random.Random(seed)
        self._prices = dict(SHARES)
        #: How many prices there were; it goes on where nobody watches for a while.
        self.published = 0
        #: How many times the handler was started.
        self.runs = 0

    async def watch(self, request: WatchRequest, context: Context) -> AsyncIterator[WatchResponse]:
        # Called for the first subscriber; the others join this run, until the last one leaves.
        self.runs += 1
        due = self._clock.seconds()
        while True:
            yield self._next()
            due += 1 / self._rate
            # A busy reactor is late for one price, and not for all that follow.
            await deferLater(self._clock, max(0.0, due - self._clock.seconds()), lambda: None)

    def _next(self) -> WatchResponse:
        symbol = self._random.choice(list(self._prices))
        cents = max(1, self._prices[symbol] + self._random.randint(-20, 20))
        self._prices[symbol] = cents
        self.published += 1
        published_at = self._clock.seconds()
        return WatchResponse(
            number=self.published, symbol=symbol, cents=cents, published_at=published_at
        )
