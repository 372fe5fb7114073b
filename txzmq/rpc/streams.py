"""Streams of messages: what a streaming client method returns, what a streaming handler gets."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq.rpc._wire.metadata import Metadata

if TYPE_CHECKING:
    from txzmq.rpc._client_streams import ClientStream

__all__ = [
    "InterceptedStream",
    "OpenResponseStream",
    "RequestStream",
    "ResponseStream",
    "close_source",
]

T = TypeVar("T")


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


class OpenResponseStream(ResponseStream[T]):
    """A stream of a channel: reads what has arrived. Who forgets it cancels it."""

    __slots__ = ("_core", "_items")

    def __init__(self, core: ClientStream) -> None:
        self._core = core
        self._items = core.items

    async def __anext__(self) -> T:
        core = self._core
        while not self._items:
            outcome = core.outcome
            if outcome is not None:
                raise outcome
            try:
                await core.more()
            except GeneratorExit:
                core.reader_is_gone()  # or what its `finally` does would wake it
                raise
        item: T = core.parse(core.take())
        return item

    def __del__(self) -> None:
        core: ClientStream | None = getattr(self, "_core", None)
        if core is not None and core.outcome is None:
            core.forgotten()

    def cancel(self) -> None:
        """End the stream early."""
        self._core.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item."""
        return self._core.initial

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one."""
        return self._core.trailing

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream when its reader has to wait for an item for longer."""
        self._core.set_silence(seconds)
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost."""
        self._core.skip_gaps(told)
        return self


class InterceptedStream(ResponseStream[T]):
    """A stream that is yet to come: from the last interceptor, or never."""

    __slots__ = ("_error", "_pending", "_settings", "_stream", "_waiter")

    def __init__(self, pending: Deferred[ResponseStream[T]]) -> None:
        self._pending: Deferred[ResponseStream[T]] | None = pending
        self._stream: ResponseStream[T] | None = None
        self._error: BaseException | None = None
        self._waiter: Deferred[None] | None = None
        # What is to be said to the stream.
        self._settings: list[Callable[[ResponseStream[T]], object]] = []
        pending.addCallbacks(self._opened, self._failed)

    def _opened(self, stream: ResponseStream[T]) -> None:
        self._pending = None
        self._stream = stream
        for do in self._settings:
            do(stream)
        self._settings.clear()
        self._wake()

    def _failed(self, failure: Failure) -> None:
        self._pending = None
        self._error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def __anext__(self) -> T:
        while self._stream is None:
            if self._error is not None:
                raise self._error
            if self._waiter is not None:
                raise RuntimeError("a stream has one reader at a time")
            self._waiter = Deferred(self._reader_cancelled)
            try:
                await self._waiter
            except GeneratorExit:
                self._waiter = None  # or what its `finally` does would wake it
                raise
        return await self._stream.__anext__()

    def _reader_cancelled(self, _: Deferred[None]) -> None:
        self._waiter = None
        self.cancel()

    def cancel(self) -> None:
        """End it, or do not begin it."""
        if self._stream is not None:
            self._stream.cancel()
        elif self._pending is not None:
            self._pending.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item."""
        return () if self._stream is None else self._stream.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one."""
        return () if self._stream is None else self._stream.trailing_metadata

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream when its reader has to wait for an item for longer."""
        return self._then(lambda stream: stream.max_silence(seconds))

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost."""
        return self._then(lambda stream: stream.skip_gaps(told))

    def _then(self, do: Callable[[ResponseStream[T]], object]) -> Self:
        if self._stream is not None:
            do(self._stream)
        else:
            self._settings.append(do)
        return self


class RequestStream(abc.ABC, AsyncIterator[T], Generic[T]):
    """The requests of one client-streaming call, in the order in which the client sent them.

    ``async for`` reads it in a handler; it ends when the client has sent its last request.
    """

    __slots__ = ()


async def close_source(source: Any) -> None:
    """Have what gave items clean up: a generator, for instance, that is not at its end."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
        return
    close = getattr(source, "close", None)
    if close is not None:
        close()
