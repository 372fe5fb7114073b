"""Calls of one channel that share a stream have one subscription; what befalls it befalls all.

In virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rpc.service import made
from tests.rpc.sharing import Ticker, World, Worlds, numbers
from tests.rpc.streaming import PUBLISHER
from txzmq.rpc import Unavailable

CALLS = 3


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(World)


def lose_server(world: World) -> None:
    world.die()


def lose_publisher(world: World) -> None:
    world.network.die(PUBLISHER)


def lose_address(world: World) -> None:
    """Something else answers at the publisher's address, which is none of this network then."""

    def refuse(*_: object) -> None:
        raise ValueError("no such address")

    network: Any = world.network
    (subscriber,) = network.publisher(PUBLISHER).subscribers
    network.subscribe = refuse
    subscriber.handler.failed("it speaks HTTP")


@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (lose_server, "connection"),
        (lose_publisher, "was not reached"),
        (lose_address, "no such address"),
    ],
)
def test_all_are_told_of_a_loss(make: Worlds, lose: Callable[[World], None], reason: str) -> None:
    world = make(Ticker())
    readers = [world.subscribe() for _ in range(CALLS)]
    lose(world)
    world.network.advance(10)
    for reader in readers:
        assert isinstance(reader.ended, Unavailable)
        assert reason in reader.ended.message


def test_a_channel_that_is_closed_says_goodbye_for_all(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    channel = world.another()
    for _ in range(CALLS):
        world.subscribe(channel=channel)
    assert ticker.running == 1
    channel.close()
    world.network.run()
    assert not ticker.running, "no time passes"


def test_all_ask_again_for_a_replay_that_was_lost(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker)
    first = world.subscribe()
    ticker.give(3)
    world.network.run()
    carry = world.network.carry

    def lossy(arrive: Callable[[], None], kind: Any, parts: Any) -> None:
        if not any(b"/Replay" in part for part in parts):
            carry(arrive, kind, parts)

    world.network.carry = lossy  # type: ignore[method-assign]  # there is no fault of this kind
    late = [world.subscribe() for _ in range(CALLS)]
    assert not any(reader.items for reader in late)
    world.network.carry = carry  # type: ignore[method-assign]  # as it was
    world.network.advance(3)
    for reader in (first, *late):
        assert reader.items == numbers(0, 3)
