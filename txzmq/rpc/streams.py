"""Streams of messages: what a streaming client method returns, what a streaming handler gets."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Self, TypeAlias, TypeVar

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]
)

from txzmq import _check
from txzmq._task_deferred import TaskDeferred, mark_handled
from txzmq.rpc.metadata import Metadata

__all__ = [
    "BlockingStream",
    "RequestStream",
    "ResponseStream",
    "StreamResult",
    "StreamWriter",
    "check_silence",
    "check_told",
]

T = TypeVar("T")

#: What a handler of a method with a stream of responses may return; an async generator is one.
StreamResult: TypeAlias = (
    Iterable[T]
    | AsyncIterable[T]
    | Iterable[Deferred[T]]
    | Deferred[Iterable[T]]
    | Deferred[AsyncIterable[T]]
)

_log = Logger()
#: Items that wait in a writer before its producer is paused, and before an item is refused.
_ENOUGH: Final = 256
_LIMIT: Final = 65_536


def check_silence(seconds: object) -> None:
    """Check what :meth:`ResponseStream.max_silence` is given."""
    if seconds is not None:
        _check.number("seconds", seconds, above=True, endless="None")


def check_told(told: object) -> None:
    """Check what :meth:`ResponseStream.skip_gaps` is given."""
    if told is not None:
        _check.function("told", told, ("number",), awaited=False)


class _ReadByAsyncFor:
    """What says how a stream is read, where somebody tries it in another way."""

    __slots__ = ()

    if not TYPE_CHECKING:  # checkers are to say that it cannot be done

        def __iter__(self) -> NoReturn:
            raise TypeError("a stream is read by `async for`, in a coroutine, not by `for`")

        def __await__(self) -> NoReturn:
            raise TypeError("a stream is read by `async for`, and cannot be awaited")


class ResponseStream(_ReadByAsyncFor, abc.ABC, AsyncIterator[T], Generic[T]):
    """The responses of one streaming call, in the order in which the server sent them.

    ``async for`` reads it; it ends when the server's handler ends, and raises
    :class:`~txzmq.rpc.RpcError` if the handler failed, behind the items that came before. One
    reader at a time. The call is made at once, whether the stream is read or not. To stop before
    the end, cancel it, by :meth:`cancel` or by ``async with``::

        async with client.watch(WatchRequest()) as ticks:
            async for tick in ticks:
                if tick.price > limit:
                    break
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def _in_thread(self) -> BlockingStream[T]:
            """What a thread reads in its place, for type checkers: see ``Blocking.__call__``."""
            ...

    @abc.abstractmethod
    def cancel(self) -> None:
        """End the stream early: nothing more arrives, and the server's handler is cancelled.

        A reader that goes on gets :class:`~twisted.internet.defer.CancelledError`. Does nothing if
        the stream has ended and is read to its end.

        :raises WrongThreadError: in another thread than the reactor's; the stream goes on.
        :raises ForkedError: in a forked child.
        """

    @property
    def initial_metadata(self) -> Metadata:
        """The metadata in front of the first item; empty until it has arrived."""
        return ()

    @property
    def trailing_metadata(self) -> Metadata:
        """The metadata of the stream's end or error; empty until that has arrived."""
        return ()

    def opened(self) -> Deferred[None]:
        """Fires when the server has the stream, and what its handler gives from here on arrives.

        So an event of which the server learns afterwards is not missed. ::

            async with client.watch(WatchRequest()) as ticks:
                await ticks.opened()
                await client.publish(PublishRequest())  # its tick arrives

        Each call returns a Deferred of its own; to cancel it does not cancel the stream. Nor is the
        stream cancelled by forgetting it, while somebody waits for the Deferred. It fails with the
        stream's error if the stream cannot be opened. To wait for it binds a stream that a retry
        policy may open again to the server that has it.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not tell when it is open")

    def received_initial_metadata(self) -> Deferred[Metadata]:
        """Fires with :attr:`initial_metadata` when it is there; with the first item at the latest.

        It fails with the stream's error if that comes before. As for :meth:`opened`, each call
        returns a Deferred of its own.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not tell of its metadata")

    def ended(self) -> Deferred[None]:
        """Fires when the stream has ended well, and fails with its error, also if nobody reads it.

        It fires when the end has arrived, which may be before all items are read. The end of a
        stream that nobody reads arrives if its items fit into the window. As for :meth:`opened`,
        each call returns a Deferred of its own. It fails with
        :class:`~twisted.internet.defer.CancelledError` if the stream is cancelled.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not tell when it has ended")

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream with DEADLINE_EXCEEDED when its reader waits longer for an item.

        ``async for tick in client.watch(request).max_silence(5): ...``

        :param seconds: None for no such limit.
        :return: the stream itself.
        :raises ValueError: if *seconds* are not above 0, or TypeError if they are no number.
        """
        check_silence(seconds)
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on after items were lost, instead of failing with DATA_LOSS.

        Only a shared stream loses items: if its client is too slow, or was disconnected for too
        long, the server does not keep them any more.

        *told* is called when the client notices the loss, which is not where the loss stands among
        the items: items that arrived before it may still be unread then, and are read afterwards.

        :param told: called at each loss, with the number of items that were lost.
        :return: the stream itself.
        :raises TypeError: if *told* is no function of one number.
        """
        check_told(told)
        return self

    def each(self, callback: Callable[[T], object]) -> Deferred[None]:
        """Call *callback* with each item, instead of ``async for``.

        If *callback* returns a Deferred or a coroutine, the next item waits for it. An exception of
        *callback*, or a failure of what it returned, cancels the stream. At the stream's deadline
        what *callback* has returned is waited for; then no other item follows.

        :return: fires when the stream has ended, and fails with the error of the stream or of
            *callback*. Cancelling it cancels the stream. Where the stream is cancelled it fails
            with ``CancelledError``, which nobody has to handle.
        :raises TypeError: if *callback* is no function of one item.
        """
        _check.function("callback", callback, ("item",))
        ended = _Each()
        reading = Deferred.fromCoroutine(self._each(callback, ended))
        return ended.when(reading)

    async def _each(self, callback: Callable[[T], object], ended: _Each) -> None:
        try:
            async for item in self:
                try:
                    result = callback(item)
                    if isinstance(result, Deferred | CoroutineType):
                        await result
                except BaseException:
                    ended.by_callback = True
                    raise
        except BaseException:
            self.cancel()
            raise

    async def aclose(self) -> None:
        """Same as :meth:`cancel`; for ``contextlib.aclosing``."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


class _Each:
    """How :meth:`ResponseStream.each` ends."""

    def __init__(self) -> None:
        #: Whether the callback has ended it.
        self.by_callback = False
        self._done: Deferred[None]

    def when(self, reading: Deferred[None]) -> Deferred[None]:
        """What the user gets for the coroutine that reads."""
        done: Deferred[None] = TaskDeferred(lambda _: reading.cancel())
        self._done = done
        reading.addCallbacks(done.callback, self._failed)
        return done

    def _failed(self, failure: Failure) -> None:
        done = self._done
        del self._done  # or the traceback would keep it from being garbage
        done.errback(failure)
        if not self.by_callback and failure.check(CancelledError):  # type: ignore[no-untyped-call]  # Twisted's
            mark_handled(done)  # somebody has cancelled the stream: no error to be handled


class BlockingStream(abc.ABC, Iterator[T], Generic[T]):
    """A stream of responses for a thread that is not the reactor's: an iterator. ::

        with blocking(client.watch, WatchRequest()) as ticks:
            for tick in ticks:
                if tick.price > limit:
                    break

    A few items are read ahead; past that, the server's handler waits as with any reader. ``with``
    ends the stream, and so does forgetting it. One thread reads at a time; any may cancel.
    """

    @abc.abstractmethod
    def __next__(self) -> T:
        """The next item.

        :raises StopIteration: behind the last one.
        :raises RpcError: the stream's own error; also DEADLINE_EXCEEDED and UNAVAILABLE, if the
            reactor is blocked or has stopped, as with calls. Then the stream is cancelled.
        :raises twisted.internet.defer.CancelledError: if the stream was cancelled.
        :raises WrongThreadError: in the reactor's own thread, which would wait for itself.
        :raises ForkedError: in a forked child.
        :raises RuntimeError: if another thread waits for an item.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """End the stream early, in any thread: the server's handler is cancelled.

        A reader that goes on gets :class:`~twisted.internet.defer.CancelledError`. Does nothing if
        the stream has ended and is read to its end.
        """

    def close(self) -> None:
        """The same as :meth:`cancel`."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    @property
    @abc.abstractmethod
    def initial_metadata(self) -> Metadata:
        """The metadata in front of the first item; empty until it has arrived."""

    @property
    @abc.abstractmethod
    def trailing_metadata(self) -> Metadata:
        """The metadata of the stream's end or error; empty until that has arrived."""


class RequestStream(_ReadByAsyncFor, abc.ABC, AsyncIterator[T], Generic[T]):
    """The requests of one client-streaming call, in the order in which the client sent them.

    ``async for`` reads it in a handler; it ends when the client has sent its last request.
    """

    __slots__ = ()


class StreamWriter(AsyncIterator[T], Generic[T]):
    """A stream for a handler to return whose items come from callbacks (an ``IConsumer``). ::

        def watch(self, request: WatchRequest, context: Context) -> StreamWriter[Tick]:
            writer: StreamWriter[Tick] = StreamWriter()
            unsubscribe = self.source.subscribe(writer.write)
            context.cancelled.addCallback(lambda _: unsubscribe())
            return writer

    A registered producer (an ``IPushProducer`` or ``IPullProducer``) is paused while *enough* items
    wait because the client does not read, and stopped when the stream is cancelled. A client may
    also pass a writer to a method that takes a stream of requests.
    """

    def __init__(self, *, enough: int = _ENOUGH, limit: int = _LIMIT) -> None:
        """
        :param enough: items that may wait before the producer is paused.
        :param limit: items that may wait before :meth:`write` raises.
        :raises ValueError: unless they are 1 or more, or TypeError if one is no integer.
        """
        _check.integer("enough", enough, 1)
        _check.integer("limit", limit, 1)
        self._enough = enough
        self._limit = limit
        self._items: deque[T] = deque()
        self._end: Exception | None = None
        # The reader wants no more items.
        self._closed = False
        # Whether it was said that an item came after the end.
        self._told = False
        self._reader: Deferred[None] | None = None
        self._room: list[Deferred[None]] = []
        # Any: Twisted types producers with zope interfaces.
        self._producer: Any = None
        self._streaming = True
        self._paused = False

    def write(self, item: T) -> bool:
        """Add an item; after the end of the stream it is dropped, which is logged once.

        (Not where the client has ended the stream, of which the writer learns at any time.)

        A message is copied: what is done to it afterwards does not change the item.

        :return: whether there is room for more; if not, :meth:`ready` fires when there is.
        :raises BufferError: if *limit* items wait, because the caller did not wait for room.
        """
        if self._closed or self._end is not None:
            self._note_late_item()
            return False
        if len(self._items) >= self._limit:
            raise BufferError(f"{self._limit} items wait (StreamWriter's limit); wait for ready()")
        if isinstance(item, Message):
            # The caller may change it before the runtime reads it.
            kept = type(item)()
            kept.CopyFrom(item)
            item = kept
        self._items.append(item)
        self._wake()
        if len(self._items) < self._enough:
            return True
        if self._producer is not None and self._streaming and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        return False

    def _note_late_item(self) -> None:
        """Say once that an item comes after the writer's own end."""
        if not self._closed and not self._told:
            self._told = True
            _log.warn("an item was written to a StreamWriter after its end, and dropped")

    def ready(self) -> Deferred[None]:
        """Fires when there is room for items; fails with ``CancelledError`` if the stream ends."""
        if self._closed or self._end is not None:
            waiting: Deferred[None] = TaskDeferred()
            waiting.errback(CancelledError("the stream has ended"))
            return waiting
        if len(self._items) < self._enough:
            return succeed(None)
        waiting = TaskDeferred(self._room.remove)
        self._room.append(waiting)
        return waiting

    def finish(self) -> None:
        """End the stream; does nothing if it has ended."""
        self._finish(StopAsyncIteration())

    def fail(self, error: Exception) -> None:
        """End the stream with an error, as if the handler raised it; nothing if it has ended.

        :raises TypeError: if *error* is no exception.
        """
        _check.instance("error", error, BaseException, "an exception")
        self._finish(error)

    def _finish(self, end: Exception) -> None:
        if self._end is None:
            self._end = end
            self._wake()
            self._give_up_waiting()

    # IConsumer's names.
    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer write: ``IPushProducer`` if *streaming*, or else ``IPullProducer``.

        :raises RuntimeError: if a producer is registered already.
        :raises TypeError: if it has none of a producer's methods.
        """
        wanted = ["resumeProducing", "stopProducing", *(["pauseProducing"] if streaming else [])]
        for name in wanted:
            if not callable(getattr(producer, name, None)):
                raise _check.wrong_type("producer", producer, f"a producer, which has {name}()")
        if self._producer is not None:
            raise RuntimeError("a producer is registered already; unregister it first")
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
            reader: Deferred[None] = TaskDeferred(self._reader_cancelled)
            self._reader = reader
            self._pull()
            try:
                await reader
            except GeneratorExit:
                self._reader = None  # a write in the reader's `finally` must not wake it
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
        if not self._streaming:
            self._resume()

    def _make_room(self) -> None:
        if self._paused:
            self._paused = False
            self._resume()
        waiting, self._room = self._room, []
        for deferred in waiting:
            deferred.callback(None)

    def _resume(self) -> None:
        if self._producer is None:
            return
        try:
            self._producer.resumeProducing()
        except StopAsyncIteration as error:  # which the reader would take for the end
            raise RuntimeError("a producer raised StopAsyncIteration") from error

    def _give_up_waiting(self) -> None:
        waiting, self._room = self._room, []
        for deferred in waiting:
            deferred.errback(CancelledError("the stream has ended"))

    async def aclose(self) -> None:
        """Stop the stream from the reader's side: drop the items that wait, stop the producer."""
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
