"""Between Twisted and libraries that run on asyncio, in one thread and on one loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred

from txzmq._reactor import Reactor

__all__ = [
    "deferred_of",
    "empty_context",
    "installed_reactor",
    "loop_of",
    "next_item",
    "run",
    "wait_for",
]

_T = TypeVar("_T")

#: What to do where Twisted runs on something else.
_DO: Final = (
    "needs a reactor on asyncio's loop: run twistd --reactor=asyncio, or begin the program with "
    "asyncioreactor.install(), of twisted.internet, before anything imports "
    "twisted.internet.reactor"
)


def installed_reactor(user: str) -> Reactor:
    """The reactor; none is installed here, which would take the choice from the application.

    :param user: the library that needs asyncio's loop.
    :raises RuntimeError: if there is none.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None:
        raise RuntimeError(f"no reactor is installed yet, and {user} {_DO}")
    return cast("Reactor", reactor)


def loop_of(reactor: object, user: str) -> asyncio.AbstractEventLoop:
    """The loop on which a reactor runs.

    :param user: the library that needs it.
    :raises RuntimeError: if it runs on none.
    """
    # The name is private to Twisted, which has no other for it.
    loop = getattr(reactor, "_asyncioEventloop", None)
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise RuntimeError(f"Twisted runs on {type(reactor).__name__}, and {user} {_DO}")
    return loop


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
