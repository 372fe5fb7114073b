"""A handler that uses asyncio where no reactor runs on its loop: the log says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.logger import formatEvent

from tests.rpc.ends import Outcome, read
from tests.rpc.service import Echo, World
from tests.rpc.streaming import StreamWorld
from tests.support import Logged
from txzmq.rpc import Context, Unknown

HINT = 'make the server with handlers="asyncio"; a Task awaits Deferreds that are not txzmq\'s by'


async def sleep() -> None:
    await asyncio.sleep(1)


async def limit() -> None:
    async with asyncio.timeout(1):
        raise AssertionError("there is no loop")


async def future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def task() -> None:
    raise RuntimeError("Task got bad yield: <Deferred at 0x7f>")


async def fail() -> None:
    raise RuntimeError("the loop of the pump does not run")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("use", [sleep, limit, future, task, fail])
def test_the_log_says_what_to_do(
    logged: Logged, use: Callable[[], Coroutine[Any, Any, None]], streams: bool
) -> None:
    class Unary(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            await use()
            return request

    async def stream(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        await use()
        yield request

    world: Any = StreamWorld(stream) if streams else World(Unary())
    outcome = read(world.open(1)) if streams else Outcome(world.call())
    world.network.advance(1)
    assert type(outcome.end) is Unknown
    (event,) = [event for event in logged if "log_failure" in event]
    assert (HINT in formatEvent(event)) is (use is not fail)
    world.close()
