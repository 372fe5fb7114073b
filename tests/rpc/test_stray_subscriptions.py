"""Subscriptions to what there is not: libzmq keeps them, so that they have a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import zmq
from twisted.internet.defer import Deferred

from tests.rpc.raw import Deaf
from tests.rpc.service import text
from tests.rpc.streaming import COUNT, Endless, Reader, Streaming, StreamWorld, count
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Count, Server, ServerLimits
from txzmq.rpc._server.subscriptions import Subscriptions
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.testing._leftovers import leftovers

# -- the table -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Connection:
    """What a network tells of a connection."""

    open: bool = True
    was_ended: bool = False

    def is_open(self) -> bool:
        return self.open

    def taken(self) -> int | None:
        return None

    def end(self) -> None:
        self.was_ended = True
        self.open = False


class Table:
    """Some topics are used; the others are strays."""

    def __init__(self, most: int = 100, most_of_one: int = 10) -> None:
        self.used: set[bytes] = set()
        self.counted: list[str] = []
        self.looked = 0
        limits = ServerLimits(stray_subscriptions=most, stray_subscriptions_per_peer=most_of_one)
        self.table = Subscriptions(self.is_used, limits, self.counted.append)

    def is_used(self, tag: bytes) -> bool:
        self.looked += 1
        return tag in self.used

    def add(self, connection: Connection, *numbers: int, used: bool = False) -> None:
        for number in numbers:
            tag = b"%d" % number
            if used:
                self.used.add(tag)
            self.table.add(connection, tag)

    def remove(self, connection: Connection, *numbers: int) -> None:
        for number in numbers:
            self.table.remove(connection, b"%d" % number)


def test_a_long_topic_counts_as_several() -> None:
    """Libzmq needs memory for each of its bytes."""
    table, connection = Table(), Connection()
    table.table.add(connection, b"t" * 17 * 10)
    table.table.remove(connection, b"t" * 17 * 10)
    table.table.add(connection, b"t" * 17 * 10)
    assert table.counted == []
    table.table.add(connection, b"t")
    assert connection.was_ended
    assert table.counted == [Count.STRAY_SUBSCRIPTIONS]
    assert len(table.table) == 0


def test_long_topics_of_many_connections_count_as_several() -> None:
    table = Table(100, 50)
    connections = [Connection() for _ in range(20)]
    for number, connection in enumerate(connections):
        table.table.add(connection, b"%03d" % number * 170)
        table.table.remove(connection, b"nothing")
    assert 15 <= sum(connection.was_ended for connection in connections) <= 18


def test_a_connection_with_too_many_strays_is_ended() -> None:
    table, connection, other = Table(), Connection(), Connection()
    table.add(other, 1)
    table.add(connection, *range(10))
    assert not connection.was_ended
    table.add(connection, 10)
    assert (connection.was_ended, other.was_ended) == (True, False)
    assert table.counted == [Count.STRAY_SUBSCRIPTIONS]
    assert len(table.table) == 1


def test_what_is_used_is_no_stray() -> None:
    table, connection = Table(), Connection()
    table.add(connection, *range(1_000), used=True)
    table.add(connection, *range(1_000, 1_010))
    assert not connection.was_ended
    table.add(connection, *range(1_010, 1_012))
    assert connection.was_ended


def test_streams_that_end_leave_strays() -> None:
    """Whoever opens, subscribes and never unsubscribes is ended as well."""
    table, connection = Table(), Connection()
    for number in range(13):  # the last one is no stray yet, and an eighth more may come
        table.add(connection, number, used=True)
        table.used.clear()
    assert connection.was_ended


def test_a_topic_counts_once_and_until_it_is_unsubscribed() -> None:
    table, connection = Table(), Connection()
    for _ in range(100):
        table.add(connection, *range(10))
        table.remove(connection, 77)  # never subscribed
    assert len(table.table) == 10
    for number in range(1_000):
        table.remove(connection, number)
        table.add(connection, number + 10)
    assert not connection.was_ended
    table.remove(connection, *range(2_000))
    assert len(table.table) == 0
    assert leftovers(table.table) == []


def test_strays_of_all_are_limited_and_those_with_the_most_go_first() -> None:
    table = Table(most=20)
    many, few, good = Connection(), Connection(), Connection()
    table.add(good, *range(1_000, 1_200), used=True)
    table.add(few, 1, 2)
    table.add(many, *range(9))
    others: list[Connection] = []
    for _ in range(50):
        others.append(Connection())
        table.add(others[-1], *range(3))
    assert many.was_ended
    assert not good.was_ended
    assert not few.was_ended
    left = [each for each in others if not each.was_ended]
    # Not at once, where so many are used: see the next test for what it costs.
    assert 3 * len(left) <= 20 + (200 + 3 * 50) // 4
    assert len(table.counted) == 1 + len(others) - len(left)


@pytest.mark.parametrize("per_connection", [1, 50, 1_000])
def test_to_count_strays_costs_little_for_each_subscription(per_connection: int) -> None:
    """Each is looked at a few times, however many there are, and however many may be strays."""
    table = Table(most=100, most_of_one=80)
    subscriptions = 20_000
    connections = [Connection() for _ in range(subscriptions // per_connection)]
    for number in range(subscriptions):
        table.add(connections[number // per_connection], number, used=True)
    assert table.looked < 20 * subscriptions
    assert table.counted == []
    # And where a stray comes and goes, just below the limit.
    table.looked = 0
    for number in range(1_000):
        table.add(connections[0], -1 - number)
        table.remove(connections[0], -1 - number)
    assert table.looked < 50_000


def test_who_has_gone_is_forgotten() -> None:
    table = Table()
    connections = [Connection() for _ in range(100)]
    for number, connection in enumerate(connections):
        table.add(connection, number, used=True)
    for connection in connections:
        connection.open = False
        table.table.somebody_has_gone()
    assert len(table.table) <= 10
    assert len(table.table._subscribers) <= 10  # pyright: ignore[reportPrivateUsage]  # it is what is bounded


@pytest.mark.parametrize("seed", range(20))
def test_whatever_they_do_strays_are_bounded_and_the_count_is_right(seed: int) -> None:
    chance, table = Random(seed), Table(most=60, most_of_one=25)
    connections = [Connection() for _ in range(6)]
    held: dict[Connection, set[int]] = {each: set() for each in connections}
    for _ in range(3_000):
        connection = chance.choice(connections)
        if not connection.open:
            connections[connections.index(connection)] = connection = Connection()
            held[connection] = set()
        what, number = chance.random(), chance.randrange(1_000)
        if what < 0.6:
            held[connection].add(number)
            table.add(connection, number, used=chance.random() < 0.1)
        elif what < 0.9:
            held[connection].discard(number)
            table.remove(connection, number)
        elif what < 0.95:
            connection.open = False
            for _ in held[connection]:
                table.table.somebody_has_gone()
        else:
            table.used.discard(b"%d" % number)
        of_open = {each: tags for each, tags in held.items() if each.open}
        total = sum(len(tags) for tags in of_open.values())
        assert len(table.table) >= total  # some that have gone may be forgotten later
        strays = sum(b"%d" % tag not in table.used for tags in of_open.values() for tag in tags)
        assert strays <= 60 + len(table.table)
    assert table.counted


# -- a server in memory --------------------------------------------------------------------------


@pytest.fixture
def worlds() -> Iterator[Callable[..., StreamWorld]]:
    made: list[StreamWorld] = []

    def new(*arguments: Any, **limits: Any) -> StreamWorld:
        made.append(StreamWorld(*arguments, limits=ServerLimits(**limits)))
        return made[-1]

    yield new
    for world in made:
        world.close()


def test_others_go_on_while_a_stranger_subscribes(
    worlds: Callable[..., StreamWorld], logged: Logged
) -> None:
    endless = Endless()
    world = worlds(endless, stray_subscriptions_per_peer=100)
    good = world.run()
    stranger = Deaf(world)
    world.network.run()
    for number in range(200):
        stranger.transport.subscribe(b"%d" % number)
    world.network.run()
    endless.give()
    world.network.run()
    assert len(good.items) == 1
    assert world.server.counters[Count.STRAY_SUBSCRIPTIONS] == 1
    world.network.advance(2)  # it comes back, again and again
    assert world.server.counters[Count.STRAY_SUBSCRIPTIONS] > 5
    lines = [event for event in logged if event.get("name") == Count.STRAY_SUBSCRIPTIONS]
    assert 0 < len(lines) < 5
    stranger.close()
    good.stream.cancel()
    world.network.run()


def test_who_never_unsubscribes_is_cut_and_its_other_streams_go_on(
    worlds: Callable[..., StreamWorld],
) -> None:
    world = worlds(stray_subscriptions_per_peer=8)
    for _ in range(10):
        assert world.run(3).ended == "well"
    assert world.server.counters[Count.STRAY_SUBSCRIPTIONS] == 0
    careless = Deaf(world)
    world.network.run()
    for _ in range(12):
        assert careless.open().stream is not None
    assert world.server.counters[Count.STRAY_SUBSCRIPTIONS] == 0
    world.network.advance(25)  # it acknowledges nothing, and its streams end
    for _ in range(12):
        assert careless.open().stream is not None
    assert world.server.counters[Count.STRAY_SUBSCRIPTIONS] == 1
    assert world.run(3).ended == "well"
    careless.close()
    world.network.run()


# -- and over real sockets -----------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_flood_of_subscriptions(one_loop: Loop, transport: str, tmp_path: Any) -> None:
    """What libzmq holds of it is bounded, and another client's streams go on meanwhile."""
    loop = one_loop
    tmp_path.chmod(0o700)

    async def main() -> None:
        factory = ZmqFactory(loop.reactor)
        limits = ServerLimits(stray_subscriptions_per_peer=100)
        server = Server(factory, [Streaming(count)], limits=limits)
        listen = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/server"
        endpoint = server.listen(listen)
        channel = Channel(factory, endpoint)
        publisher: Any = server._listeners[0].publisher  # pyright: ignore[reportPrivateUsage]  # where to attack
        with zmq.Context() as strange, strange.socket(zmq.SUB) as stranger:
            stranger.setsockopt(zmq.SNDHWM, 0)
            stranger.setsockopt(zmq.RECONNECT_IVL, 5)
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(publisher.endpoint)
            for number in range(400):
                stranger.setsockopt(zmq.SUBSCRIBE, b"%d" % number + SEPARATOR)
            while server.counters[Count.STRAY_SUBSCRIPTIONS] < 2:
                reader = Reader(channel.unary_stream(COUNT, text("5")))
                await reader.done
                assert reader.ended == "well"
                assert len(publisher._subscriptions) < 300
                stranger.getsockopt(zmq.EVENTS)  # or it does not notice that it has come back
        await loop.until(lambda: len(publisher._subscriptions) < 10)
        channel.close()
        await server.stop(0)
        factory.shutdown()

    loop.run(main)


def test_streams_of_a_client_that_is_cut_lose_nothing(one_loop: Loop) -> None:
    loop = one_loop

    async def main() -> None:
        factory = ZmqFactory(loop.reactor)
        endless = Endless()
        server = Server(factory, [Streaming(endless)])
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        reader = Reader(channel.unary_stream(COUNT, text("")))
        await loop.until(lambda: endless.waiting)
        publisher: Any = server._listeners[0].publisher  # pyright: ignore[reportPrivateUsage]  # what cuts
        for number in range(20):
            endless.give()
            if number % 5 == 0:
                for connection in list(publisher._subscriptions._subscribers):
                    connection.end()
            await loop.until(lambda at=number: len(reader.items) > at)  # type: ignore[misc]  # mypy: of the lambda's default
        assert reader.items == [str(number) for number in range(1, 21)]
        reader.stream.cancel()
        waiting: Deferred[Any] = reader.done
        await waiting
        channel.close()
        await server.stop(0)
        factory.shutdown()

    loop.run(main)
