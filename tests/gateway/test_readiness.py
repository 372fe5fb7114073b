"""Whether a gateway can pass calls on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, Echo
from txzmq.rpc import Channel, Server
from txzmq.rpc._gateway.readiness import Readiness
from txzmq.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    """One in memory."""
    return MemoryNetwork()


@pytest.fixture
def channel(network: MemoryNetwork) -> Iterator[Channel]:
    """To a server that is not there yet."""
    channel = Channel(network, ADDRESS)
    yield channel
    channel.close()


def changes(readiness: Readiness, last: bool) -> list[bool]:
    """What those hear who wait for a change, each time anew."""
    heard: list[bool] = []

    def told(ready: bool) -> None:
        heard.append(ready)
        readiness.wait_for_change(ready).addCallback(told)

    readiness.wait_for_change(last).addCallback(told)
    return heard


def test_servers_come_and_go(network: MemoryNetwork, channel: Channel) -> None:
    readiness = Readiness(channel)
    heard = changes(readiness, False)
    network.advance(5)
    assert (readiness.is_ready, heard) == (False, [])
    server = Server(network, [Echo()])
    server.listen(ADDRESS)
    network.advance(60)
    assert (readiness.is_ready, heard) == (True, [True])
    server.stop(0)
    network.advance(5)
    assert (readiness.is_ready, heard) == (False, [True, False])
    channel.close()
    assert heard == [True, False]


def test_it_stops(network: MemoryNetwork, channel: Channel) -> None:
    Server(network, [Echo()]).listen(ADDRESS)
    network.advance(5)
    readiness = Readiness(channel)
    heard = changes(readiness, True)
    readiness.listens()
    readiness.listens()
    readiness.listens_no_more()
    assert (readiness.is_ready, readiness.has_stopped, heard) == (True, False, [])
    readiness.listens_no_more()  # the last one
    assert (readiness.is_ready, readiness.has_stopped, heard) == (False, True, [False])
    readiness.listens()
    assert (readiness.is_ready, heard) == (True, [False, True])


def next_of(readiness: Readiness) -> Deferred[Any] | None:
    """What waits at the channel: that it is left shows nowhere else."""
    waits: Deferred[Any] | None = readiness._next  # pyright: ignore[reportPrivateUsage]  # see above
    return waits


def test_nobody_waits_any_more(network: MemoryNetwork, channel: Channel) -> None:
    """Nor does anything wait at the channel then."""
    readiness = Readiness(channel)
    waiters = [readiness.wait_for_change(False) for _ in range(2)]
    following = next_of(readiness)
    assert following is not None
    for waiter in waiters:
        waiter.addErrback(lambda _: None)
        waiter.cancel()
    assert next_of(readiness) is None
    assert following.called
    again: Deferred[bool] = readiness.wait_for_change(False)
    Server(network, [Echo()]).listen(ADDRESS)
    network.advance(60)
    assert again.called
    assert next_of(readiness) is None


def test_what_tells_no_state_is_ready() -> None:
    readiness = Readiness(object())
    readiness.listens()
    assert readiness.is_ready
    waiter = readiness.wait_for_change(True)
    readiness.listens_no_more()
    assert waiter.called
