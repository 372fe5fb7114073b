"""Between Twisted and libraries that run on asyncio, in one thread and on one loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred

__all__ = [
    "deferred_of",
    "empty_context",
    "next_item",
    "run",
    "wait_for",
]

_T = TypeVar("_T")


def empty_context() -> contextvars.Context:
    """For what asyncio runs: it belongs to no caller, as what the reactor runs does not."""
    return contextvars.Context()


def run(coroutine: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> Deferred[_T]:
    """Run a coroutine of asyncio's, which belongs to no call."""
    return deferred_of(loop.create_task(coroutine, context=empty_context()))


def deferred_of(future: asyncio.Future[_T]) -> Deferred[_T]:
    """The outcome of a future of asyncio's; to cancel it cancels the future."""
    return cast("Deferred[_T]", Deferred.fromFuture(future))  # pyright: ignore[reportUnknownMemberType]  # Twisted's


def wait_for(deferred: Deferred[_T]) -> asyncio.Future[_T]:
    """The outcome of a Deferred, for asyncio to await; cancelled if nobody waits for it."""
    return deferred.asFuture(asyncio.get_running_loop())


async def next_item(stream: AsyncIterator[_T]) -> _T | None:
    """The next item of a stream that Twisted reads; None at the end.

    If it is there already, nobody waits.
    """
    results: list[_T | None] = []
    reading = Deferred.fromCoroutine(_read(stream))
    reading.addCallback(results.append)
    if results:
        return results[0]
    await wait_for(reading)
    return results[0]


async def _read(stream: AsyncIterator[_T]) -> _T | None:
    return await anext(stream, None)
