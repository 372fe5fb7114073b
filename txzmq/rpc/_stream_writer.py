"""Items of a stream from code that is made of callbacks."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]
)

__all__ = ["StreamWriter"]

T = TypeVar("T")
#: Items that wait in a writer before its producer is paused, and before an item is refused.
_ENOUGH: Final = 256
_LIMIT: Final = 65_536


class StreamWriter(AsyncIterator[T], Generic[T]):
    """What a streaming handler returns that has its items from callbacks (an ``IConsumer``). ::

        def watch(self, request: WatchRequest, context: Context) -> StreamWriter[Tick]:
            writer: StreamWriter[Tick] = StreamWriter()
            unsubscribe = self.source.subscribe(writer.write)
            context.cancelled.addCallback(lambda _: unsubscribe())
            return writer

    A producer that is registered (an ``IPushProducer``, or an ``IPullProducer``) is paused while
    enough items wait, which they do while the client does not read, and stopped when nobody wants
    items any more. A client gives a method with a stream of requests one, too.
    """

    def __init__(self, *, enough: int = _ENOUGH, limit: int = _LIMIT) -> None:
        """
        :param enough: so many items wait before the producer is paused.
        :param limit: so many items wait at most.
        """
        self._enough = enough
        self._limit = limit
        self._items: deque[T] = deque()
        self._end: Exception | None = None
        # Nobody wants items any more.
        self._closed = False
        self._reader: Deferred[None] | None = None
        self._room: list[Deferred[None]] = []
        # Any: Twisted types producers with zope interfaces.
        self._producer: Any = None
        self._streaming = True
        self._paused = False

    def write(self, item: T) -> bool:
        """Add an item; after the end of the stream it is dropped.

        :return: whether more are welcome; if not, :meth:`ready` tells when they are.
        :raises BufferError: if as many wait as may: whoever writes did not stop.
        """
        if self._closed or self._end is not None:
            return False
        if len(self._items) >= self._limit:
            raise BufferError(f"{self._limit} items wait (StreamWriter's limit)")
        self._items.append(item)
        self._wake()
        if len(self._items) < self._enough:
            return True
        if self._producer is not None and self._streaming and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        return False

    def ready(self) -> Deferred[None]:
        """Wait until items are welcome; fails with ``CancelledError`` if none ever will be."""
        if self._closed or self._end is not None:
            waiting: Deferred[None] = Deferred()
            waiting.errback(CancelledError("the stream has ended"))
            return waiting
        if len(self._items) < self._enough:
            return succeed(None)
        waiting = Deferred(self._room.remove)
        self._room.append(waiting)
        return waiting

    def finish(self) -> None:
        """There are no more items; does nothing after the end."""
        self._finish(StopAsyncIteration())

    def fail(self, error: Exception) -> None:
        """The stream ends with an error, as if a handler raised it; not after the end."""
        self._finish(error)

    def _finish(self, end: Exception) -> None:
        if self._end is None:
            self._end = end
            self._wake()
            self._give_up_waiting()

    # IConsumer's names.
    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer write: ``IPushProducer`` if *streaming*, or else ``IPullProducer``.

        :raises RuntimeError: if there is one.
        """
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._streaming = bool(streaming)
        self._producer = producer
        if self._closed:
            producer.stopProducing()
        elif not self._streaming and len(self._items) < self._enough:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """The producer has written all it had; :meth:`finish` ends the stream."""
        self._producer = None
        self._paused = False

    # -- read by the runtime -----------------------------------------------------------------

    async def __anext__(self) -> T:
        while not self._items:
            if self._end is not None:
                raise self._end
            if self._closed:
                raise StopAsyncIteration
            reader: Deferred[None] = Deferred(self._reader_cancelled)
            self._reader = reader
            self._pull()
            try:
                await reader
            except GeneratorExit:
                self._reader = None  # or what its `finally` does would wake it
                raise
        item = self._items.popleft()
        if len(self._items) < self._enough:
            self._make_room()
        return item

    def _reader_cancelled(self, _: Deferred[None]) -> None:
        self._reader = None

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)

    def _pull(self) -> None:
        if self._producer is not None and not self._streaming:
            self._producer.resumeProducing()

    def _make_room(self) -> None:
        if self._paused:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        waiting, self._room = self._room, []
        for deferred in waiting:
            deferred.callback(None)

    def _give_up_waiting(self) -> None:
        waiting, self._room = self._room, []
        for deferred in waiting:
            deferred.errback(CancelledError("the stream has ended"))

    async def aclose(self) -> None:
        """Nobody wants items any more."""
        if self._closed:
            return
        self._closed = True
        self._items.clear()
        self._wake()
        self._give_up_waiting()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()


# Not the decorator: mypy and pyright lose the type of a class decorated by zope.
classImplements(StreamWriter, IConsumer)
