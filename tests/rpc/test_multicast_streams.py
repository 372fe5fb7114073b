"""Shared streams over multicast, in virtual time; test_multicast_sockets.py has real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, made, text
from tests.rpc.sharing import GROUP, Group, Groups, Ticker, numbers
from tests.rpc.streaming import PUBLISHER, Reader
from txzmq.rpc import Context, FailedPrecondition, InsecureBindError, NotFound, Server, Unavailable
from txzmq.rpc._net.addresses import announced, is_multicast, reachable
from txzmq.testing import Faults, MemoryNetwork


@pytest.fixture
def make() -> Iterator[Groups]:
    yield from made(Group)


def test_an_item_is_sent_once_to_the_group(make: Groups) -> None:
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


def test_a_stream_of_ones_own_does_not_go_to_the_group(make: Groups) -> None:
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


def test_who_comes_late_gets_the_last_items(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.subscribe()
    for _ in range(30):
        ticker.give()
        world.network.run()
    late = [world.subscribe(channel=world.another()), world.subscribe()]
    for reader in late:
        assert reader.items == numbers(20, 30)
    ticker.give()
    world.network.run()
    for reader in late:
        assert reader.items == numbers(20, 31)


def test_the_run_begins_when_somebody_listens(make: Groups) -> None:
    async def at_once(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(100):
            yield text(str(number))
        await Deferred()

    world = make(at_once)
    assert world.subscribe().items == numbers(0, 100)


def test_the_run_begins_though_the_first_word_of_it_is_lost(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.network.run()
    carry, held = world.network.carry, list[Callable[[], None]]()

    def hold(arrive: Callable[[], None]) -> None:
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


def test_a_run_that_nobody_listens_to_ends_with_its_call(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    world.network.run()
    stream = world.watch()
    stream.cancel()
    world.network.run()
    assert not ticker.runs
    assert not world.server.running


def test_the_last_one_that_leaves_ends_the_run(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(2)] + [world.subscribe()]
    for reader in readers:
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.run()
    assert not ticker.running
    world.subscribe()
    assert ticker.runs == ["x", "x"]


def test_a_run_ends_when_its_clients_have_died(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    channel = world.another()
    world.subscribe(channel=channel)
    world.network.faults = Faults(loss=1)
    channel.close()
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(4.9)
    assert ticker.running == 1
    world.network.advance(0.2)
    assert not ticker.running


def test_a_client_that_comes_back_is_in_the_run_again(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(), world.subscribe()]
    for _ in range(3):
        world.cut()
        world.network.advance(20)
    ticker.give()
    world.network.run()
    assert ticker.runs == ["x"]
    for reader in readers:
        assert reader.items == ["0"]
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.advance(6)
    assert not ticker.running


def test_a_gap_is_closed_by_the_server(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    reader = world.subscribe()
    ticker.give()
    world.network.run()
    world.network.faults = Faults(loss=1)
    ticker.give(5)
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(10)
    assert reader.items == numbers(0, 6)


def test_the_end_reaches_all(make: Groups) -> None:
    ticker = Ticker()
    world = make(ticker)
    readers = [world.subscribe(channel=world.another()) for _ in range(3)] + [world.subscribe()]
    ticker.give()
    world.network.faults = Faults(loss=1)
    ticker.fail()
    world.network.run()
    world.network.faults = Faults()
    world.network.advance(3)
    for reader in readers:
        assert reader.items == ["0"]
        assert isinstance(reader.ended, NotFound)


def test_a_server_that_dies_is_told(make: Groups) -> None:
    world = make(Ticker())
    reader = world.subscribe()
    world.die()
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)


def test_a_restarted_server_is_told_as_such(make: Groups) -> None:
    world = make(Ticker())
    reader = world.subscribe()
    world.die()
    world.serve()
    world.network.advance(10)
    assert isinstance(reader.ended, Unavailable)
    assert "was restarted" in reader.ended.message


def test_an_idle_stream_costs_no_control_calls(make: Groups) -> None:
    world = make(Ticker())
    world.subscribe()
    sent: list[list[bytes]] = []
    listener = world.network.listener(ADDRESS)
    assert listener is not None
    send = listener.send_message

    def noted(message: list[bytes]) -> Any:
        sent.append(message)
        return send(message)

    listener.send_message = noted  # type: ignore[method-assign]  # there is no other place to look
    world.network.advance(60)
    assert len(sent) <= 6  # answers to pings


def test_a_group_is_left_with_its_last_stream(make: Groups) -> None:
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


def test_a_client_that_cannot_join_is_told(make: Groups) -> None:
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
