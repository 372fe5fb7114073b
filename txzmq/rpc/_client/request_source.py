"""Asks a caller for the requests of one call, whatever network they go to."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from contextvars import copy_context
from typing import Any, Final, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._escape import escaped
from txzmq._task_deferred import task_loop
from txzmq.rpc._client.call import Call, too_large
from txzmq.rpc._core.cancelling import cancel
from txzmq.rpc._core.coroutines import close_source, ending_error
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.method import Method
from txzmq.rpc.records import Tally

__all__ = ["CallWithRequests", "RequestSource"]

_log = Logger()
_CANCELLED: Final = (CancelledError, asyncio.CancelledError)


class RequestSource(abc.ABC):
    """What a caller gives as the requests of one call: an iterable, or an asynchronous one.

    It is asked for items one by one, and closed at the end. Where they go, its subclasses know.
    """

    __slots__ = (
        "_asking",
        "_failed",
        "_loop",
        "_method",
        "_over",
        "_size",
        "_source",
        "_task_context",
    )

    def __init__(
        self,
        # Any: the caller's signature types the items.
        method: Method[Any, Any],
        source: Any,
        size: int,
    ) -> None:
        """
        :param source: what the caller gave: an iterable, or an asynchronous one.
        :param size: bytes that an item may have.
        """
        self._method = method
        # None once it is asked, and when nothing is to be asked for any more.
        self._source: Any = source
        self._size = size
        self._failed: Callable[[BaseException], None] = _ignore
        # Whether the call has ended.
        self._over = False
        # Of the Task that makes the call, if one does: the caller may await what is asyncio's.
        self._loop = task_loop()
        self._task_context = None if self._loop is None else copy_context()
        # The coroutine that asks the caller for items, while it waits.
        self._asking: Deferred[None] | None = None

    # -- what the network knows --------------------------------------------------------------

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """How many items the caller has given."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Bytes of these items."""

    @abc.abstractmethod
    def _add(self, item: bytes) -> bool:
        """Take an item, as it is sent; whether to wait before asking for the next one."""

    @abc.abstractmethod
    def _wait(self) -> Deferred[None]:
        """Fires when there is room for the next one."""

    @abc.abstractmethod
    def _given(self) -> None:
        """The caller has given the last one."""

    # -- asking ------------------------------------------------------------------------------

    def when_failed(self, failed: Callable[[BaseException], None]) -> None:
        """Call *failed* with what asking for an item raises: the call cannot go on."""
        self._failed = failed

    def _start(self) -> bool:
        """Begin to ask; False where that has begun before."""
        if self._source is None:
            return False
        source, self._source = self._source, None
        asking: Deferred[None]
        if self._loop is not None and isinstance(source, AsyncIterable):
            from txzmq._tasks import start_task  # not before there is a Task

            asking = start_task(self._ask(source), self._loop, self._task_context)
        else:
            asking = Deferred.fromCoroutine(self._ask(source))
        if not asking.called:
            self._asking = asking
        asking.addErrback(self._asking_failed)
        return True

    async def _ask(self, source: Any) -> None:
        """Ask the caller for items, as long as there is room for them."""
        expected, most = self._method.request_type, self._size
        try:
            # The same twice, with no function for it, since each item pays for that.
            if isinstance(source, AsyncIterable):
                items: AsyncIterable[Any] = source  # pyright: ignore[reportUnknownVariableType]  # the caller's
                async for item in items:
                    if type(item) is not expected or self._over:
                        raise self._refusal(item)
                    data: bytes = item.SerializeToString()
                    if len(data) > most:
                        raise too_large("item of the stream", len(data), most)
                    if self._add(data):
                        await self._wait()
            else:
                one_by_one: Iterable[Any] = source
                for item in one_by_one:
                    if type(item) is not expected or self._over:
                        raise self._refusal(item)
                    data = item.SerializeToString()
                    if len(data) > most:
                        raise too_large("item of the stream", len(data), most)
                    if self._add(data):
                        await self._wait()
            self._given()
        except GeneratorExit:
            raise  # this coroutine is closed, and can wait for nothing; or the source raised it
        except BaseException as error:  # noqa: BLE001 - whatever a source raises ends the call
            self._asking = None
            self._source_failed(error)  # first: closing may take long, or fail
            await close_source(source)
            return
        self._asking = None
        await close_source(source)

    def _refusal(self, item: Any) -> Exception:
        """Why an item is not taken: the method takes other requests, or the call has ended."""
        expected = self._method.request_type
        if type(item) is not expected:
            return TypeError(
                f"{self._method.path} takes {expected.__name__}, not {type(item).__name__}"
            )
        return CancelledError("the call has ended")

    def _asking_failed(self, failure: Failure) -> None:
        self._source_failed(cast("BaseException", failure.value))  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    def _source_failed(self, error: BaseException) -> None:
        """End the call; what fails after its end, while the source is closed, is logged."""
        whose = f"the requests of {self._method.path}"
        if not self._over:
            self._failed(ending_error(error, whose))
        elif not isinstance(error, _CANCELLED):
            text = escaped(repr(error))
            _log.error("{whose} failed after the call had ended: {error}", whose=whose, error=text)

    def stop(self) -> None:
        """The call has ended: ask the caller for no more."""
        self._over = True
        self._source = None
        asking, self._asking = self._asking, None
        if asking is not None:
            cancel(asking, f"the requests of {self._method.path}")


class CallWithRequests(Call):
    """A call with a stream of requests and one response."""

    __slots__ = ("_response_bytes", "requests")

    def __init__(self, requests: RequestSource, *arguments: Any) -> None:
        """:param arguments: as a :class:`Call`'s."""
        super().__init__(*arguments)
        self.requests = requests
        self._response_bytes = 0

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        self._response_bytes = len(body)
        super().finish(head, body)

    def tally(self) -> Tally:
        """What it has sent and received."""
        requests = self.requests
        return (
            super()
            .tally()
            ._replace(
                requests=requests.count,
                request_bytes=requests.size,
                response_bytes=self._response_bytes,
            )
        )

    def requests_failed(self, error: BaseException) -> None:
        """The caller has no more items, because of an error."""
        if self.route is not None:
            self.route.cancel(self)
        self.fail(error)

    def _end(self) -> None:
        super()._end()
        self.requests.stop()


def _ignore(error: BaseException) -> None:
    """Nobody has to be told."""
