"""When the server is told the end of a call whose connection is made anew meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.rpc.sharing import Ticker
from tests.rpc.sharing import World as SharingWorld
from txzmq.rpc import CallRecord, Channel, Code, Context, ServerLimits, ServerProceed

#: Behind the time at which every connection has been told.
TOLD = 11.5
LIMITS = ServerLimits(connection_age=10.0, connection_age_grace=5.0, stream_grace=3.0)


class World(SharingWorld):
    """Notes how the server's calls end."""

    def __init__(self) -> None:
        self.ticker = Ticker()
        self.ends: list[CallRecord] = []
        super().__init__(self.ticker, limits=LIMITS, interceptors=[self._noting])

    def _noting(self, request: Any, context: Context, proceed: ServerProceed) -> Any:
        context.ended().addCallback(self.ends.append)
        return proceed(request)

    @property
    def codes(self) -> list[tuple[Code, int]]:
        return [(end.code, end.responses) for end in self.ends]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_shared_stream_that_moves_has_not_ended(world: World) -> None:
    readers = [world.subscribe() for _ in range(2)]
    other = world.subscribe(channel=world.another())
    for _ in range(5):
        world.ticker.give()
        world.network.advance(TOLD)
        assert world.codes == []
    assert world.ticker.runs == ["x"]
    readers[0].done.cancel()
    world.network.advance(1)
    assert world.codes == [(Code.CANCELLED, 5)]
    world.ticker.give()
    world.network.advance(1)
    world.ticker.fail()
    world.network.advance(1)
    assert world.codes == [(Code.CANCELLED, 5), (Code.NOT_FOUND, 6), (Code.NOT_FOUND, 6)]
    assert [str(each) for each in other.items] == [str(number) for number in range(6)]


def test_who_leaves_before_its_old_connection_does_is_told_of_once(world: World) -> None:
    reader, other = world.subscribe(), world.subscribe(channel=world.another())
    world.network.advance(TOLD - 2.6)  # about when it moves
    reader.done.cancel()
    world.network.advance(TOLD)
    assert world.codes == [(Code.CANCELLED, 0)]
    other.done.cancel()
    world.network.advance(TOLD)
    assert world.codes == [(Code.CANCELLED, 0)] * 2
    assert world.ticker.running == 0


def test_a_client_that_dies_after_it_has_moved_is_told_of_once(world: World) -> None:
    world.subscribe()
    dying: Channel = world.another()
    world.subscribe(channel=dying)
    world.network.advance(TOLD)
    assert world.codes == []
    dying.close()
    world.network.advance(TOLD)
    assert world.codes == [(Code.CANCELLED, 0)]
    assert world.ticker.running == 1
