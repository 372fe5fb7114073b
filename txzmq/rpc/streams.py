"""Streams of messages: what a streaming client method returns, what a streaming handler gets."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]
)

from txzmq.rpc.metadata import Metadata

__all__ = ["RequestStream", "ResponseStream", "StreamResult", "StreamWriter"]

T = TypeVar("T")

#: What a handler of a method with a stream of responses may return; an async generator is one.
StreamResult: TypeAlias = (
    Iterable[T]
    | AsyncIterable[T]
    | Iterable[Deferred[T]]
    | Deferred[Iterable[T]]
    | Deferred[AsyncIterable[T]]
)

#: Items that wait in a writer before its producer is paused, and before an item is refused.
_ENOUGH: Final = 256
_LIMIT: Final = 65_536


class ResponseStream(abc.ABC, AsyncIterator[T], Generic[T]):
    """The responses of one streaming call, in the order in which the server sent them.

    ``async for`` reads it; it ends when the server's handler ends, and raises
    :class:`~txzmq.rpc.RpcError` where that failed. What has arrived before is read first. One
    reader at a time. The call is made at once, whether the stream is read or not; whoever does not
    read it to its end cancels it, by :meth:`cancel`, or by ``async with``::

        async with client.watch(WatchRequest()) as ticks:
            async for tick in ticks:
                if tick.price > limit:
                    break
    """

    __slots__ = ()

    @abc.abstractmethod
    def cancel(self) -> None:
        """End the stream early: nothing more arrives, and the server's handler is cancelled.

        Who reads on gets :class:`~twisted.internet.defer.CancelledError`. Does nothing when the
        stream has ended.
        """

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item, when that has arrived."""
        return ()

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one, or with the error, when that has arrived."""
        return ()

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream with DEADLINE_EXCEEDED when its reader has to wait for an item for longer.

        ``async for tick in client.watch(request).max_silence(5): ...``

        :param seconds: None for no such limit.
        :return: the stream itself.
        """
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost, instead of failing with DATA_LOSS.

        Only a shared stream loses any: to a client that is too slow, or was disconnected for too
        long, so that the server does not keep them any more.

        :param told: called with the number of items that were lost, each time.
        :return: the stream itself.
        """
        return self

    def each(self, callback: Callable[[T], object]) -> Deferred[None]:
        """Call *callback* with each item, instead of ``async for``.

        A Deferred that it returns is waited for before the next item; an exception that it raises,
        or with which that Deferred fails, cancels the stream.

        :return: fires when the stream has ended, and fails with what it failed with. Cancelling it
            cancels the stream.
        """
        return Deferred.fromCoroutine(self._each(callback))

    async def _each(self, callback: Callable[[T], object]) -> None:
        try:
            async for item in self:
                result = callback(item)
                if isinstance(result, Deferred):
                    await result
        except BaseException:
            self.cancel()
            raise

    async def aclose(self) -> None:
        """As :meth:`cancel`; for ``contextlib.aclosing``."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


class RequestStream(abc.ABC, AsyncIterator[T], Generic[T]):
    """The requests of one client-streaming call, in the order in which the client sent them.

    ``async for`` reads it in a handler; it ends when the client has sent its last request.
    """

    __slots__ = ()


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
