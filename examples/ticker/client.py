"""Many subscribers in one process: ``python -m examples.ticker.client ENDPOINT COUNT SECONDS``.

``--slow`` adds one that is too slow for the prices.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater, react

from examples.ticker.subscribers import Figures, Subscriber
from generated.demo.ticker.v1.ticker_txzmq import TickerClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel

#: Subscribers that share one channel, which is a connection for calls and one for items.
PER_CHANNEL = 20
#: Seconds that the slow subscriber takes for a price, and how many prices wait on its side. The
#: server keeps 50: who is behind by more loses some.
PAUSE, WINDOW = 1.0, 4


async def main(reactor: Any, endpoint: str, count: str, seconds: str, *slow: str) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    names = [f"subscriber {number}" for number in range(1, int(count) + 1)]
    subscribers = [Subscriber(name, reactor) for name in names]
    channels = [Channel(factory, endpoint) for _ in subscribers[::PER_CHANNEL]]
    following = [
        Deferred.fromCoroutine(follow(each, channels[number // PER_CHANNEL]))
        for number, each in enumerate(subscribers)
    ]
    slow_one = None
    if slow:
        channels.append(Channel(factory, endpoint, stream_window=WINDOW))
        slow_one = Subscriber("the slow subscriber", reactor, PAUSE, tell=say)
        following.append(Deferred.fromCoroutine(follow(slow_one, channels[-1])))
    watching = Deferred.fromCoroutine(watch(reactor, subscribers, slow_one, float(seconds)))
    try:
        # The first failure, of any subscription, ends it all.
        await gatherResults([watching, *following], consumeErrors=True)
    except FirstError as first:
        sys.exit(f"the subscribers gave up: {first.subFailure.getErrorMessage()}")
    for channel in channels:
        channel.close()


async def follow(subscriber: Subscriber, channel: Channel) -> None:
    """Subscribe, until the subscriber leaves."""
    with suppress(CancelledError):
        await subscriber.follow(TickerClient(channel))


async def watch(
    reactor: Any, subscribers: list[Subscriber], slow: Subscriber | None, seconds: float
) -> None:
    """Say each second what the subscribers have received in it; then all leave."""
    everybody = subscribers if slow is None else [*subscribers, slow]
    await gatherResults([each.joined for each in everybody])
    say(f"all {len(everybody):,} have joined")
    begin = then = reactor.seconds()
    before = Figures.of(subscribers)
    while then < begin + seconds:
        for each in subscribers:
            each.count_anew()
        await deferLater(reactor, 1.0, lambda: None)
        now, figures = reactor.seconds(), Figures.of(subscribers)
        say(figures.since(before, now - then))
        then, before = now, figures
    say(f"in all {before.deliveries:,} deliveries, {before.lost:,} lost")
    if slow is not None:
        say(f"{slow.name} has had {slow.received}, and lost {slow.lost}")
    for each in everybody:
        each.leave()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    react(main, sys.argv[1:])
