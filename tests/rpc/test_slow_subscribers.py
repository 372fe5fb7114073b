"""Those who have subscribed to shared streams and do not read: what waits for them has a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.task import Clock

from tests.rpc.service import text
from tests.rpc.streaming import TICKS, Reader, Streaming
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Count, Server, ServerLimits
from txzmq.rpc._server.slow_subscribers import SlowSubscribers
from txzmq.testing._leftovers import leftovers

LIMIT = 8_000


# -- the table -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Connection:
    """What a network tells of a connection."""

    bytes_taken: int | None = 0
    was_ended: bool = False

    def is_open(self) -> bool:
        return self.bytes_taken is not None

    def taken(self) -> int | None:
        return self.bytes_taken

    def takes(self, size: int) -> None:
        self.bytes_taken = (self.bytes_taken or 0) + size

    def end(self) -> None:
        self.was_ended = True
        self.bytes_taken = None


class Table:
    """Publishes a thousand bytes at a time."""

    def __init__(self, messages: int = 1_000) -> None:
        self.clock = Clock()
        self.counted: list[str] = []
        limits = ServerLimits(backlog_per_peer=LIMIT)
        self.table = SlowSubscribers(self.clock, limits, self.counted.append)
        self.table.keep_for_each(messages)

    def connection(self, *topics: bytes, taken: int | None = 0) -> Connection:
        connection = Connection(taken)
        for topic in topics:
            self.table.add(connection, topic)
        return connection

    def publish(self, topic: bytes, times: int = 1, *takers: Connection, takes: int = 0) -> None:
        """Publish; each of some connections takes so many bytes, or all."""
        for _ in range(times):
            self.table.published(topic, 1_000)
            for taker in takers:
                taker.takes(takes or 1_000)


def test_who_takes_nothing_is_ended_and_who_takes_all_is_not() -> None:
    table = Table()
    slow, good = table.connection(b"a"), table.connection(b"a")
    table.publish(b"a", 8, good)
    assert table.clock.getDelayedCalls() == []
    table.publish(b"a", 2, good)
    assert len(table.clock.getDelayedCalls()) == 1  # over the limit
    table.clock.pump([1.0])
    assert not slow.was_ended
    table.clock.pump([1.0])
    assert (slow.was_ended, good.was_ended) == (True, False)
    assert table.counted == [Count.SLOW_SUBSCRIBER]
    assert table.clock.getDelayedCalls() == []
    table.publish(b"a", 100, good)
    assert len(table.table) == 1


@pytest.mark.parametrize(("takes", "is_ended"), [(499, True), (500, False)])
def test_who_takes_an_eighth_of_the_limit_in_two_seconds_may_go_on(
    takes: int, is_ended: bool
) -> None:
    table = Table()
    slow = table.connection(b"a")
    table.publish(b"a", 20)
    for _ in range(8):
        if not slow.was_ended:
            slow.takes(takes)
        table.clock.advance(1.0)
    assert slow.was_ended is is_ended


def test_who_takes_less_than_is_published_is_ended_at_last() -> None:
    table = Table()
    slow = table.connection(b"a")
    for _ in range(20):
        table.publish(b"a", 4)
        slow.takes(2_000)
        table.clock.advance(1.0)
    assert slow.was_ended


def test_who_catches_up_slowly_may_go_on() -> None:
    table = Table()
    slow = table.connection(b"a")
    table.publish(b"a", 40)
    for _ in range(40):
        table.publish(b"a", 1)
        slow.takes(2_000)
        table.clock.advance(1.0)
        assert not slow.was_ended
    assert table.clock.getDelayedCalls() == []


def test_nobody_is_ended_because_the_server_stood_still() -> None:
    table = Table()
    reader = table.connection(b"a")
    table.publish(b"a", 20)
    table.clock.advance(60.0)  # the process was stopped, and libzmq's thread with it
    assert not reader.was_ended
    table.clock.advance(1.0)
    assert not reader.was_ended
    table.clock.advance(1.0)
    assert reader.was_ended  # it has had its two seconds now


def test_who_has_caught_up_begins_anew() -> None:
    table = Table()
    slow = table.connection(b"a")
    for _ in range(10):
        table.publish(b"a", 10)
        table.clock.advance(1.0)
        slow.takes(10_000)
        table.clock.advance(1.0)
        assert table.clock.getDelayedCalls() == []
    assert not slow.was_ended


def test_only_what_is_published_under_its_own_topics_counts() -> None:
    table = Table()
    table.publish(b"a", 20)
    slow, other = table.connection(b"a"), table.connection(b"b")
    table.publish(b"a", 7)
    for _ in range(50):  # who joins and leaves again and again
        table.table.remove(slow, b"a")
        table.publish(b"a", 7)
        table.table.add(slow, b"a")
    table.clock.pump([1.0] * 5)
    assert not slow.was_ended
    table.publish(b"a", 2)  # 9,000 in all
    table.clock.pump([1.0] * 5)
    assert (slow.was_ended, other.was_ended) == (True, False)


def test_what_waited_when_it_unsubscribed_still_waits() -> None:
    table = Table()
    slow = table.connection(b"a", b"b")
    table.publish(b"a", 5)
    table.table.remove(slow, b"a")
    table.table.remove(slow, b"never")
    table.table.remove(Connection(), b"a")
    table.publish(b"b", 5)
    table.clock.pump([1.0] * 5)
    assert slow.was_ended


def test_messages_that_libzmq_drops_do_not_wait() -> None:
    table = Table(messages=8)
    slow = table.connection(b"a")
    table.publish(b"a", 1_000)
    table.clock.pump([1.0] * 10)
    assert not slow.was_ended


def test_where_nobody_knows_nobody_is_ended() -> None:
    table = Table()
    unknown = table.connection(b"a", taken=None)
    table.publish(b"a", 1_000)
    assert (len(table.table), unknown.was_ended) == (0, False)
    assert leftovers(table.table) == []


def test_nothing_is_kept_of_who_has_gone_and_of_old_topics() -> None:
    table = Table()
    gone, left = table.connection(b"a"), table.connection(b"b")
    table.publish(b"a", 5)
    gone.bytes_taken = None
    table.table.remove(left, b"b")
    table.publish(b"b", 5)
    assert len(table.table) == 0  # they were looked at
    table.clock.advance(1.0)
    assert leftovers(table.table) == []
    over = table.connection(b"a")
    table.publish(b"a", 20)
    table.table.clear()
    assert table.clock.getDelayedCalls() == []
    assert leftovers(table.table) == []
    assert not over.was_ended


def test_who_has_gone_is_forgotten_also_where_nothing_is_published() -> None:
    table = Table()
    for _ in range(100):
        connection = table.connection(b"a", b"b")
        connection.bytes_taken = None
        table.table.somebody_has_gone()
        assert len(table.clock.getDelayedCalls()) == 1
    table.clock.advance(1.0)
    assert leftovers(table.table) == []
    assert table.clock.getDelayedCalls() == []


def test_who_has_unsubscribed_is_forgotten_when_nothing_waits_for_it_any_more() -> None:
    table = Table()
    slow, good = table.connection(b"a"), table.connection(b"a")
    table.publish(b"a", 5, good)
    table.table.remove(good, b"a")
    table.table.remove(slow, b"a")
    table.clock.advance(1.0)
    assert len(table.table) == 1
    for _ in range(3):
        slow.takes(1_000)
        table.clock.advance(1.0)
        assert len(table.table) == 1
    slow.takes(2_000)
    table.clock.advance(1.0)
    assert leftovers(table.table) == []
    assert table.clock.getDelayedCalls() == []


# -- and over real sockets -----------------------------------------------------------------------


def test_a_subscriber_that_never_reads_holds_no_more_than_the_limit(one_loop: Loop) -> None:
    loop = one_loop
    size = 65_536

    async def feed(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            yield text("x" * size)
            await loop.sleep(0)

    async def main() -> None:
        factory = ZmqFactory(loop.reactor)
        limits = ServerLimits(backlog_per_peer=32 * size)
        server = Server(factory, [Streaming(feed)], limits=limits)
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        reader = Reader(channel.unary_stream(TICKS, text("")))
        await loop.until(lambda: reader.items)
        publisher: Any = server._listeners[0].publisher  # pyright: ignore[reportPrivateUsage]  # where to attack
        (topic,) = publisher._slow._published
        with zmq.Context() as strange, strange.socket(zmq.SUB) as stranger:
            stranger.setsockopt(zmq.RCVHWM, 1)
            stranger.setsockopt(zmq.RCVBUF, size)
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.setsockopt(zmq.SUBSCRIBE, topic)
            stranger.connect(publisher.endpoint)
            await loop.until(lambda: server.counters[Count.SLOW_SUBSCRIBER])
        items = len(reader.items)
        await loop.until(lambda: len(reader.items) > items + 100)
        assert server.counters[Count.SLOW_SUBSCRIBER] == 1
        reader.stream.cancel()
        await reader.done
        channel.close()
        await server.stop(0)
        factory.shutdown()

    loop.run(main)
