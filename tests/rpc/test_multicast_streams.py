"""Shared streams over multicast, in virtual time; test_multicast_sockets.py has real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import ADDRESS, made, text
from tests.rpc.sharing import GROUP, Group, Ticker, Worlds, numbers
from tests.rpc.streaming import PUBLISHER, Reader
from txzmq.rpc import Context, FailedPrecondition, InsecureBindError, Server
from txzmq.rpc._net.addresses import announced, is_multicast, reachable
from txzmq.testing import MemoryNetwork


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(Group)


def test_an_item_is_sent_once_to_the_group(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    group, others = world.frames(GROUP), world.frames(PUBLISHER)
    readers = [world.subscribe(channel=world.another()) for _ in range(5)]
    readers += [world.subscribe() for _ in range(3)]
    for _ in range(10):
        ticker.give()
        world.network.run()
    assert ticker.runs == ["x"]
    assert all(reader.items == numbers(0, 10) for reader in readers)
    assert not others
    items = [frame for frame in group if len(frame) > 20]  # all but heartbeats
    assert len(items) == 10


def test_a_stream_of_ones_own_does_not_go_to_the_group(make: Worlds) -> None:
    world = make(Ticker())
    shared = world.subscribe()
    group, others = world.frames(GROUP), world.frames(PUBLISHER)

    async def count(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(3):
            yield text(str(number))

    world.service.handler = count
    private = world.run()
    assert private.items == numbers(0, 3)
    assert private.ended == "well"
    assert others
    assert not group
    assert not shared.has_ended


def test_the_run_begins_though_the_first_word_of_it_is_lost(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.network.run()
    carry, held = world.network.carry, list[Callable[[], None]]()

    def hold(arrive: Callable[[], None], kind: object, parts: object) -> None:
        held.append(arrive)

    world.network.carry = hold  # type: ignore[method-assign]  # to let by what it shall
    reader = Reader(world.watch())
    for _ in range(2):  # the call and its answer
        world.network.run()
        held.pop()()
    world.network.run()
    assert len(held) == 1  # and what asks for a replay is lost
    world.network.carry = carry  # type: ignore[method-assign]  # as it was
    assert not ticker.runs
    world.network.advance(3)
    assert ticker.runs
    ticker.give()
    world.network.run()
    assert reader.items == ["0"]


def test_a_group_is_left_with_its_last_stream(make: Worlds) -> None:
    world = make(Ticker())
    publisher = world.network.publisher(GROUP)
    assert publisher is not None
    readers = [world.subscribe(), world.subscribe("y")]
    for reader in readers:
        assert len(publisher.subscribers) == 1
        reader.stream.cancel()
        world.network.run()
    assert not publisher.subscribers
    assert not world.subscribe().has_ended


def test_a_client_that_cannot_join_is_told(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    subscribe = world.network.subscribe

    def refuse(address: str, handler: Any, options: Any) -> Any:
        if is_multicast(address):
            raise RuntimeError("no PGM here")
        return subscribe(address, handler, options)

    world.network.subscribe = refuse  # type: ignore[method-assign]  # this one's libzmq is another
    reader = world.subscribe()
    assert isinstance(reader.ended, FailedPrecondition)
    assert "cannot join the group epgm://239.192.1.1:5555: no PGM here" in reader.ended.message
    assert not ticker.running
    assert world.read().ended is None


def test_a_group_is_where_strangers_are() -> None:
    server = Server(MemoryNetwork(), [])
    with pytest.raises(InsecureBindError):
        server.listen(ADDRESS, multicast="epgm://lo;239.192.1.1:5555")
    with pytest.raises(ValueError, match="no multicast group"):
        server.listen(ADDRESS, multicast="tcp://127.0.0.1:*", insecure=True)
    with pytest.raises(ValueError, match="do not go to a group"):
        server.listen(ADDRESS, publisher=GROUP, insecure=True)


def test_a_group_has_an_interface_on_each_side() -> None:
    assert announced("epgm://eth0;239.192.1.1:5555") == GROUP
    assert announced(GROUP) == GROUP
    assert announced("tcp://127.0.0.1:5555") == "tcp://127.0.0.1:5555"
    assert reachable(GROUP, "tcp://127.0.0.1:1") == "epgm://127.0.0.1;239.192.1.1:5555"
    assert reachable(GROUP, "tcp://example.org:1") == GROUP
    assert reachable(GROUP, "ipc:///tmp/x") == GROUP
    assert reachable("epgm://eth9;239.192.1.1:5555", "tcp://127.0.0.1:1").startswith("epgm://eth9;")


def test_a_stream_that_is_cancelled_while_it_is_read_is_cancelled_on_the_server() -> None:
    """The last stream of a group leaves it, and what is to be said must not leave with it."""
    ticker = Ticker()
    world = Group(ticker)
    stream = world.watch()
    items: list[str] = []

    async def read() -> None:
        async for item in stream:
            items.append(item.value)
            stream.cancel()

    reading = Deferred.fromCoroutine(read())
    reading.addErrback(lambda _: None)
    world.network.advance(2)
    ticker.give()
    world.network.advance(1)
    assert items == ["0"]
    assert not ticker.running
    world.close()


def test_a_group_whose_socket_is_closed_can_be_left(make: Worlds) -> None:
    """As a factory does that shuts down before the channel is closed."""
    ticker = Ticker()
    world = make(ticker)
    publisher = world.network.publisher(GROUP)
    assert publisher is not None
    readers = [world.subscribe(), world.subscribe("y"), world.subscribe("z")]
    for subscriber in list(publisher.subscribers):
        subscriber.close()
        subscriber.handler.closed()
    for reader in readers:
        reader.stream.cancel()
        world.network.run()
        assert isinstance(reader.ended, CancelledError)
    assert not ticker.running
    again = world.subscribe()
    ticker.give()
    world.network.run()
    assert again.items == ["0"]
