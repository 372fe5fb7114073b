"""Drives a client through a window: for asyncio, and in two ways for Twisted.

Tasks that await, and callbacks on Deferreds: each is the way that costs least there. Coroutines of
Twisted's are the program that the Tasks run, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from benchmarks.workload import Messages, Orders, Window

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

__all__ = [
    "AsyncioCall",
    "Rounds",
    "TwistedCall",
    "follow_in_asyncio",
    "follow_in_coroutines",
    "follow_in_twisted",
]

AsyncioCall: TypeAlias = "Callable[[EchoRequest], Awaitable[EchoReply]]"
TwistedCall: TypeAlias = "Callable[[EchoRequest], Deferred[EchoReply]]"


async def follow_in_asyncio(messages: Messages, orders: Orders, call: AsyncioCall) -> None:
    """Follow *orders* with *call*; the event loop runs on between them."""
    while (order := await asyncio.to_thread(orders.receive)) is not None:
        window = Window(messages, order)
        async with asyncio.TaskGroup() as group:
            for _ in range(order.in_flight):
                group.create_task(_go_round(window, call))
        orders.report(window.sample())


async def follow_in_coroutines(messages: Messages, orders: Orders, call: TwistedCall) -> None:
    """Follow *orders* with *call*, by the program of ``follow_in_asyncio`` as Twisted runs it."""
    while (order := await deferToThread(orders.receive)) is not None:
        window = Window(messages, order)
        rounds = [Deferred.fromCoroutine(_go_round(window, call)) for _ in range(order.in_flight)]
        await gatherResults(rounds, consumeErrors=True)
        orders.report(window.sample())


async def _go_round(window: Window, call: AsyncioCall) -> None:
    again = True
    while again:
        started, request = window.issue()
        again = window.complete(started, request, await call(request))


async def follow_in_twisted(messages: Messages, orders: Orders, call: TwistedCall) -> None:
    """Follow *orders* with *call*; the reactor runs on between them."""
    while (order := await deferToThread(orders.receive)) is not None:
        window = Window(messages, order)
        await Rounds(window, order.in_flight, call).done
        orders.report(window.sample())


class Rounds:
    """Keeps the ordered number of calls in flight until the window is over.

    :ivar done: fires when the last one is complete, or fails with the first that fails.
    """

    def __init__(self, window: Window, in_flight: int, call: TwistedCall) -> None:
        self.done: Deferred[None] = Deferred()
        self._window = window
        self._call = call
        self._going = in_flight
        for _ in range(in_flight):
            self._issue()

    def _issue(self) -> None:
        started, request = self._window.issue()
        self._call(request).addCallbacks(
            self._complete, self._fail, callbackArgs=(started, request)
        )

    def _complete(self, reply: EchoReply, started: float, request: EchoRequest) -> None:
        try:
            if self._window.complete(started, request, reply):
                self._issue()
                return
        except Exception as error:  # noqa: BLE001 - one more errback per call would cost something
            self._fail(error)
            return
        self._going -= 1
        if not self._going:
            self.done.callback(None)

    def _fail(self, failure: Failure | Exception) -> None:
        if not self.done.called:
            self.done.errback(failure)
