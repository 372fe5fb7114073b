"""Every source of requests that a user may give, and every way in which it may end.

As ``test_ends_of_user_code.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.ending_sources import (
    SOURCES,
    WORLDS,
    AsyncItems,
    Items,
    SyncItems,
    both,
)
from tests.rpc.ends import SOON, TIMEOUT, Outcome, go_on, local, read
from tests.rpc.service import made, text
from tests.rpc.streaming import (
    StreamWorld,
    Worlds,
    numbers,
)
from tests.support import Logged
from txzmq.rpc import (
    DeadlineExceeded,
)


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("method", ["collect", "chat"])
def test_a_source_of_requests(
    make: Worlds,
    kind: Callable[[], BaseException],
    source: Callable[[Any], Any],
    method: str,
    logged: Logged,
) -> None:
    world = make(both)
    WORLDS[:] = [world]
    requests = source(kind)
    if method == "collect":
        outcome = Outcome(world.collect(requests, timeout=TIMEOUT))
    else:
        outcome = read(world.chat(requests, timeout=TIMEOUT))
    other = read(world.open(2, timeout=TIMEOUT))
    go_on(world)
    if source is SyncItems and kind is StopIteration:
        assert outcome.end == text("0") or outcome.end == ["0"]  # that is how it ends
    elif source is AsyncItems and kind is StopAsyncIteration:
        assert outcome.end == text("0") or outcome.end == ["0"]
    else:
        assert type(outcome.end) is local(kind)
    assert other.end == numbers(2)
    if isinstance(requests, Items) and kind is not GeneratorExit:
        assert requests.closed == 1
    assert not world.server.running


def test_a_source_of_requests_that_hangs(make: Worlds) -> None:
    closed: list[int] = []

    async def source() -> AsyncIterator[StringValue]:
        try:
            yield text("0")
            await Deferred()
        finally:
            closed.append(1)

    world = make(both)
    outcome = Outcome(world.collect(source(), timeout=TIMEOUT))
    go_on(world, TIMEOUT - SOON)
    assert not outcome.ends
    go_on(world, 2 * SOON)
    assert isinstance(outcome.end, DeadlineExceeded)
    assert closed == [1]


@pytest.mark.parametrize("method", ["collect", "chat"])
def test_a_call_ends_before_its_source_is_closed(make: Worlds, method: str, logged: Logged) -> None:
    """To clean up may take a source long, or fail: nobody waits for that."""
    release: Deferred[None] = Deferred()

    async def source() -> AsyncIterator[Any]:
        try:
            yield text("0")
            yield "no message"
        finally:
            await release
            raise ZeroDivisionError("while it cleans up")

    world = make(both)
    if method == "collect":
        outcome = Outcome(world.collect(source(), timeout=TIMEOUT))
    else:
        outcome = read(world.chat(source(), timeout=TIMEOUT))
    go_on(world)
    assert type(outcome.end) is TypeError
    release.callback(None)
    go_on(world)
    assert any("after the call had ended" in str(event["log_format"]) for event in logged)


@pytest.mark.parametrize("method", ["collect", "chat"])
def test_a_canceller_of_what_a_source_waits_for(
    make: Worlds, kind: Callable[[], BaseException], method: str, logged: Logged
) -> None:
    def canceller(_: Deferred[None]) -> None:
        raise kind()

    async def source() -> AsyncIterator[StringValue]:
        yield text("0")
        await Deferred(canceller)

    world = make(both)
    if method == "collect":
        outcome = Outcome(world.collect(source(), timeout=TIMEOUT))
    else:
        outcome = read(world.chat(source(), timeout=TIMEOUT))
    others = [read(world.open(2, timeout=2 * TIMEOUT)) for _ in range(2)]
    go_on(world)
    go_on(world, TIMEOUT)
    assert isinstance(outcome.end, DeadlineExceeded)
    assert [other.end for other in others] == [numbers(2)] * 2
