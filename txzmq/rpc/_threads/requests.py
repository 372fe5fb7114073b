"""Requests that a thread gives, one by one, to a call in the reactor's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq._reactor import ThreadedReactor
from txzmq.rpc._threads.patience import GivenUp

__all__ = ["ThreadedRequests"]

#: Requests that wait to be sent before the thread has to.
_AHEAD: Final = 32


class ThreadedRequests(AsyncIterator[Any]):
    """The requests of an iterable, which a thread asks for them.

    The call reads them by ``async for``. The thread waits while :data:`_AHEAD` of them wait.
    """

    # Any: requests of any method; the caller's signature typed them.
    def __init__(self, source: Iterable[Any], reactor: ThreadedReactor) -> None:
        self._source = source
        self._reactor = reactor
        self._items: deque[Any] = deque()
        # What the call gets behind the last one; None while more may come.
        self._end: BaseException | None = None
        # Whether the call has ended, and wants no more.
        self._is_closed = False
        # Set when the thread may go on, whatever it waits for.
        self._room = threading.Event()
        # What the call waits for. The thread looks at the flag when it has given something, and the
        # call looks for something when it has set the flag: one of them sees the other.
        self._waiter: Deferred[None] | None = None
        self._is_waiting = False

    # -- in the thread that has the iterable -------------------------------------------------

    def pump_in_own_thread(self, wait: Callable[[Callable[[float], bool]], GivenUp | None]) -> None:
        """As :meth:`pump`, in a thread that does nothing else, and so can raise to nobody.

        What is for the process ends the call, too, which would else wait for requests for ever.
        """
        try:
            self.pump(wait)
        except BaseException as error:
            if self._end is not None or self._is_closed:  # the call will not raise it
                raise
            what = f"the iterable of requests raised {type(error).__name__}: {error}"
            try:
                raise RuntimeError(what.removesuffix(": ")) from error
            except RuntimeError as told:
                self._finish(told)

    def pump(self, wait: Callable[[Callable[[float], bool]], GivenUp | None]) -> None:
        """Give the call all requests, unless it ends before.

        What the iterable raises ends the call, unless it is for the process.

        :param wait: as :meth:`~txzmq.rpc._threads.patience.Patience.wait`. Where there is no hope,
            the call ends, should the reactor go on after all.
        """
        try:
            for item in self._source:
                # The iterable may change it afterwards.
                self._give(_copied(item))
                while len(self._items) >= _AHEAD and not self._is_closed:
                    self._room.clear()
                    if len(self._items) < _AHEAD:
                        break
                    given_up = wait(self._room.wait)
                    if given_up is not None:
                        self._finish(given_up.error_with("no more requests are sent"))
                        return
                if self._is_closed:
                    break
            self._finish(StopAsyncIteration())
        except Exception as error:  # noqa: BLE001 - whatever a source raises ends the call
            self._finish(error)
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _give(self, item: Any) -> None:
        self._items.append(item)
        self._tell()

    def _finish(self, end: BaseException) -> None:
        self._end = end
        self._tell()

    def _tell(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._reactor.callFromThread(self._wake)

    def call_ended(self) -> None:
        """Have the thread give no more; may be called in any."""
        self._is_closed = True
        self._room.set()

    # -- in the reactor's thread -------------------------------------------------------------

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def __anext__(self) -> Any:
        while not self._items:
            if self._end is not None and not self._items:
                raise self._end
            waiter: Deferred[None] = Deferred(self._forget)
            self._waiter = waiter
            self._is_waiting = True
            if self._items or self._end is not None:
                self._is_waiting = False
                self._wake()
            await waiter
        item = self._items.popleft()
        if len(self._items) <= _AHEAD // 2:
            self._room.set()
        return item

    def _forget(self, _: Deferred[None]) -> None:
        self._waiter = None

    async def aclose(self) -> None:
        """The call has ended."""
        self._items.clear()
        self.call_ended()


def _copied(item: Any) -> Any:
    if isinstance(item, Message):
        copy = type(item)()
        copy.CopyFrom(item)
        return copy
    return item
