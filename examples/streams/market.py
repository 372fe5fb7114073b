"""Prices for any number of watchers: ``python -m examples.streams.market``.

All who watch one share have one run of the handler in common. Each price is serialised and sent
once. Who comes late gets the last price first: a cache of the last value, which is ``replay: 1``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from generated.demo.streams.v1.streams_pb2 import WatchRequest, WatchResponse
from generated.demo.streams.v1.streams_txzmq import MarketBase, MarketClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Server, StreamWriter


class Market(MarketBase):
    """Passes on the prices that it is told."""

    def __init__(self) -> None:
        self.watched: dict[str, StreamWriter[WatchResponse]] = {}

    def watch(self, request: WatchRequest, context: Context) -> StreamWriter[WatchResponse]:
        # Called for the first watcher of a share; the others join.
        print(f"the handler runs for {request.symbol}")
        writer: StreamWriter[WatchResponse] = StreamWriter()
        self.watched[request.symbol] = writer
        context.cancelled.addCallback(self.nobody_watches, request.symbol)
        return writer

    def nobody_watches(self, reason: str, symbol: str) -> None:
        del self.watched[symbol]
        print(f"nobody watches {symbol} any more")

    def set_price(self, symbol: str, cents: int) -> None:
        if symbol in self.watched:
            self.watched[symbol].write(WatchResponse(symbol=symbol, cents=cents))


async def watch(name: str, client: MarketClient, until: int) -> None:
    """Print prices up to one."""
    async with client.watch(WatchRequest(symbol="ACME")).skip_gaps() as prices:
        async for price in prices:
            print(f"{name}: {price.symbol} at {price.cents}")
            if price.cents == until:
                return


async def main(reactor: Any) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    market = Market()
    server = Server(factory, [market])
    endpoint = server.listen("tcp://127.0.0.1:*")
    channels = [Channel(factory, endpoint) for _ in range(3)]
    ann, bob, cyd = (MarketClient(channel) for channel in channels)
    watching = [Deferred.fromCoroutine(watch("Ann", ann, until=103))]
    watching.append(Deferred.fromCoroutine(watch("Bob", bob, until=103)))
    while "ACME" not in market.watched:
        await deferLater(reactor, 0.01, lambda: None)
    for cents in (101, 102):
        await deferLater(reactor, 0.2, lambda: None)
        market.set_price("ACME", cents)
    await deferLater(reactor, 0.2, lambda: None)
    await watch("Cyd, who comes late", cyd, until=102)
    market.set_price("ACME", 103)
    for each in watching:
        await each
    while market.watched:
        await deferLater(reactor, 0.01, lambda: None)
    for channel in channels:
        channel.close()
    await server.stop()


if __name__ == "__main__":
    react(main)
