"""The ticker: in memory, in virtual time; and over sockets."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import CancelledError, Deferred

from examples.ticker.service import Ticker
from examples.ticker.subscribers import LATE, Figures, Subscriber
from generated.demo.ticker.v1.ticker_pb2 import WatchRequest, WatchResponse
from generated.demo.ticker.v1.ticker_txzmq import TickerClient
from txzmq.rpc import Channel, Context, StreamWriter
from txzmq.testing import MemoryNetwork, ServeBySockets, ServeInMemory

REPLAY = 50


class Told(Ticker):
    """Publishes what a test gives it."""

    writer: StreamWriter[WatchResponse]

    def watch(self, request: WatchRequest, context: Context) -> StreamWriter[WatchResponse]:
        self.writer = StreamWriter()
        return self.writer


def leave(
    network: MemoryNetwork, subscribers: list[Subscriber], ended: list[Deferred[None]]
) -> None:
    for subscriber, end in zip(subscribers, ended, strict=True):
        subscriber.leave()
        with pytest.raises(CancelledError):
            network.result(end)


def test_all_subscribers_share_one_run(serve: ServeInMemory) -> None:
    clock = serve.network.clock
    ticker = Ticker(clock, rate=10, seed=1)
    client = TickerClient(serve(ticker))
    subscribers = [Subscriber(str(number), clock) for number in range(30)]
    ended = [each.follow(client) for each in subscribers]
    serve.network.advance(5)
    assert ticker.runs == 1
    assert 45 <= ticker.published <= 51
    assert {each.received for each in subscribers} == {ticker.published}
    figures = Figures.of(subscribers)
    assert figures.deliveries == 30 * ticker.published
    assert (figures.lost, figures.late) == (0, 0)
    leave(serve.network, subscribers, ended)
    serve.network.advance(10)
    assert ticker.published <= 52  # nobody watches any more


def test_who_joins_late_gets_the_last_prices(serve: ServeInMemory) -> None:
    clock = serve.network.clock
    ticker = Ticker(clock, rate=10, seed=1)
    client = TickerClient(serve(ticker))
    first, second = Subscriber("first", clock), Subscriber("second", clock)
    ended = [first.follow(client)]
    serve.network.advance(20)
    ended.append(second.follow(client))
    serve.network.run()
    assert second.number == ticker.published
    assert second.received == REPLAY
    assert (second.lost, second.late) == (0, 0)  # old ones, which were not on their way
    leave(serve.network, [first, second], ended)


def test_a_slow_subscriber_is_told_what_it_has_lost_and_goes_on(serve: ServeInMemory) -> None:
    clock = serve.network.clock
    told: list[str] = []
    ticker = Told(clock, rate=1)
    channel = serve(ticker, make_channel=partial(Channel, stream_window=4))
    quick, slow = Subscriber("quick", clock), Subscriber("slow", clock, 1.0, tell=told.append)
    clients = [TickerClient(serve.connect(channel.target)), TickerClient(channel)]
    ended = [each.follow(client) for each, client in zip((quick, slow), clients, strict=True)]
    serve.network.run()
    for number in range(1, 601):  # 20 each second
        ticker.writer.write(WatchResponse(number=number, published_at=clock.seconds()))
        serve.network.advance(0.05)
    serve.network.advance(120)  # time for the prices that are left
    assert (quick.received, quick.lost) == (600, 0)
    assert slow.received + slow.lost == slow.number == 600
    assert slow.lost > 300
    assert len(told) > 1, "it went on, and was told again"
    assert told[0].startswith("slow was too slow: it has lost ")
    leave(serve.network, [quick, slow], ended)


@pytest.mark.parametrize(("delay", "late"), [(LATE - 0.01, 0), (LATE + 0.01, 1)])
def test_a_late_price_is_counted(serve: ServeInMemory, delay: float, late: int) -> None:
    clock = serve.network.clock
    ticker = Told(clock, rate=1)
    client = TickerClient(serve(ticker))
    subscriber = Subscriber("one", clock)
    ended = subscriber.follow(client)
    serve.network.advance(1)
    ticker.writer.write(WatchResponse(number=1, published_at=clock.seconds() - delay))
    serve.network.run()
    assert subscriber.late == late
    assert subscriber.slowest == pytest.approx(delay)
    subscriber.count_anew()
    assert (subscriber.late, subscriber.slowest) == (0, 0)
    leave(serve.network, [subscriber], [ended])


def test_figures_are_of_the_time_between() -> None:
    before = Figures(
        subscribers=2, events=10, deliveries=20, lost=0, late=0, slowest="1", delay=0.001
    )
    after = Figures(
        subscribers=2, events=30, deliveries=2_060, lost=0, late=7, slowest="2", delay=0.3
    )
    assert after.since(before, 2) == ("10 events/s, 1,020 deliveries/s, slowest: 2, 300 ms, 7 late")


@pytest.mark.txzmq
async def test_over_sockets(serve_sockets: ServeBySockets) -> None:
    from twisted.internet import reactor

    ticker = Ticker(reactor, rate=200, seed=1)
    client = TickerClient(serve_sockets(ticker))
    subscribers = [Subscriber(str(number), reactor) for number in range(50)]
    ended = [each.follow(client) for each in subscribers]
    for each in subscribers:
        await each.joined
    assert ticker.runs == 1
    for subscriber, end in zip(subscribers, ended, strict=True):
        subscriber.leave()
        with pytest.raises(CancelledError):
            await end
