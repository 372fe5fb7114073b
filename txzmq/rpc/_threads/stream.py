"""A stream of responses that a thread reads."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from txzmq._guard import Guard, WrongThreadError, refuse_to_block
from txzmq.rpc._threads.patience import Patience
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.streams import BlockingStream, ResponseStream

__all__ = ["ThreadedStream"]

T = TypeVar("T")
#: What follows the last item.
_END: Final = object()


class _Reading:
    """Reads a stream in the reactor's thread, a few items ahead of the thread that wants them.

    The queue has the items, and an end behind the last one.
    """

    # Any: the method types what a stream gives.
    def __init__(self, stream: ResponseStream[Any], ahead: int, patience: Patience) -> None:
        self.stream = stream
        self.patience = patience
        self.items: SimpleQueue[Any] = SimpleQueue()
        #: How it has ended; None for well. To be looked at behind the last item.
        self.error: BaseException | None = None
        self._ahead = ahead
        # How many items were put and taken. Each is changed by one thread.
        self._put = self._taken = 0
        # What the reactor's thread waits for, if too many items wait. As with requests, one of the
        # two threads sees what the other has done.
        self._room: Deferred[None] | None = None
        self._is_full = False

    # -- in the reactor's thread -------------------------------------------------------------

    async def read(self) -> None:
        """Read it to its end."""
        try:
            async for item in self.stream:
                self.items.put(item)
                self._put += 1
                if self._put - self._taken >= self._ahead:
                    await self._wait_for_room()
        except BaseException as error:  # noqa: BLE001 - the thread raises it
            self.error = error
        self.items.put(_END)

    async def _wait_for_room(self) -> None:
        room: Deferred[None] = Deferred(self._cancelled)
        self._room = room
        self._is_full = True
        if self._put - self._taken < self._ahead:
            self.go_on()
        await room

    def _cancelled(self, _: Deferred[None]) -> None:
        self._room = None

    def go_on(self) -> None:
        """There is room for more items."""
        self._is_full = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def cancel(self) -> None:
        """End the stream."""
        self.stream.cancel()
        self.go_on()

    # -- in the thread that reads ------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the reactor's thread is to be told that it may go on."""
        return self._is_full and self._put - self._taken <= self._ahead // 2

    def took(self) -> None:
        """An item was taken out of the queue."""
        self._taken += 1


class ThreadedStream(BlockingStream[T]):
    """Takes the items that :class:`_Reading` has read."""

    def __init__(self, reading: _Reading, guard: Guard) -> None:
        self._reading = reading
        self._guard = guard
        self._lock = threading.Lock()
        self._is_over = self._is_cancelled = False

    @classmethod
    # Any: as above.
    def of(
        cls, stream: ResponseStream[Any], guard: Guard, ahead: int, patience: Patience
    ) -> ThreadedStream[Any]:
        """Begin to read a stream, in the reactor's thread."""
        reading = _Reading(stream, ahead, patience)
        Deferred.fromCoroutine(reading.read())
        return cls(reading, guard)

    def __next__(self) -> T:
        if self._guard.forked:
            self._guard.check()
        if self._guard.is_owner() and self._guard.reactor().running:
            raise WrongThreadError(
                "the reactor's own thread would wait for itself for ever: use async for"
            )
        refuse_to_block()
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a stream has one reader at a time")
        try:
            return self._next()
        except BaseException as error:
            if not isinstance(error, StopIteration):
                self.cancel()
            raise
        finally:
            self._lock.release()

    def _next(self) -> T:
        if self._is_cancelled:
            raise CancelledError("the stream was cancelled")
        reading = self._reading
        if not self._is_over:
            item = self._wait()
            if self._is_cancelled:
                raise CancelledError("the stream was cancelled")
            if item is not _END:
                reading.took()
                if reading.has_room:
                    self._guard.reactor().callFromThread(reading.go_on)
                found: T = item
                return found
            self._is_over = True
        if reading.error is None:
            raise StopIteration
        raise reading.error

    # Any: an item, or the end.
    def _wait(self) -> Any:
        items = self._reading.items
        found: list[Any] = []

        def wait(seconds: float) -> bool:
            try:
                found.append(items.get(timeout=seconds) if seconds else items.get_nowait())
            except Empty:
                return False
            return True

        if not wait(0):
            given_up = self._reading.patience.wait(wait)
            if given_up is not None:
                raise given_up.error_with("the stream is cancelled")
        return found[0]

    def cancel(self) -> None:
        if self._is_over or self._is_cancelled:
            return
        self._is_cancelled = True
        if not self._guard.forked:
            self._guard.reactor().callFromThread(self._reading.cancel)

    def __del__(self) -> None:
        # Garbage is found at any time: the reactor may have ended, and be garbage itself.
        if not getattr(self, "_is_over", True) and getattr(self._guard.reactor(), "running", False):
            self.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        return self._reading.stream.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        return self._reading.stream.trailing_metadata
