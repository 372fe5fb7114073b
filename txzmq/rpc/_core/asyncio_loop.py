"""Between Twisted and libraries that run on asyncio, in one thread and on one loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._task_deferred import leave, mark_handled
from txzmq._task_wait import Wait

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


@coroutine
def wait_for(deferred: Deferred[_T]) -> Generator[Deferred[Any], None, _T]:
    """The outcome of a Deferred, of any library's, for a Task of asyncio's to await.

    Who cancels the Task meanwhile cancels the Deferred. Where somebody else has cancelled that, it
    is Twisted's ``CancelledError`` that comes out of it, which asyncio takes for any other error.
    """
    # Deferred.asFuture makes a Future and three functions for each, and takes a turn as well.
    while not deferred.called or deferred.paused:
        loop = asyncio.get_running_loop()
        try:
            yield Wait(deferred, loop)
        except BaseException:
            leave(deferred, loop)  # the Task was cancelled
            raise
    result = deferred.result
    if isinstance(result, Failure):
        mark_handled(deferred)
        error = cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        try:
            raise error
        finally:
            del deferred, result, error  # the traceback has this frame
    return cast("_T", result)


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
