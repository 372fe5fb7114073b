"""A stream of responses over gRPC."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import grpc.aio
from twisted.internet.defer import CancelledError, Deferred

from txzmq.rpc._client.call import Call, CallRegistry, answer_of
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc._core.asyncio_loop import empty_context
from txzmq.rpc._core.stream_state import OPEN, OPENING
from txzmq.rpc._grpc.heads import StreamingRpc, broken, refusal, success
from txzmq.rpc._grpc.requests import GrpcRequests
from txzmq.rpc._grpc.statuses import metadata_of
from txzmq.rpc._wire.headers import OpenStream, ResponseHead
from txzmq.rpc.client import CallSpec
from txzmq.rpc.errors import Code, DeadlineExceeded
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.records import Tally

__all__ = ["Carrier", "GrpcStream", "StreamCall", "is_deadline"]

#: Seconds before a deadline in which gRPC's own timer may have noticed it already.
_ABOUT: Final = 0.01
#: Seconds in which the status of a stream may come along with its beginning.
_COMES_ALONG: Final = 0.01


class Carrier(NamedTuple):
    """What gRPC makes of a stream.

    :ivar rpc: gRPC's call.
    :ivar loop: where its coroutines run.
    :ivar ready: fires when there is a connection; cancelled where nobody waits for that any more.
    :ivar refused: called where a server says that it does not know who calls.
    """

    rpc: StreamingRpc
    loop: asyncio.AbstractEventLoop
    ready: Deferred[None]
    refused: Callable[[], None]


class StreamCall(Call):
    """Brings a stream to gRPC, as a call that waits for a token perhaps; then its part is over."""

    __slots__ = ("requests",)

    def __init__(self, requests: GrpcRequests | None, *arguments: Any) -> None:
        """:param arguments: as a :class:`Call`'s."""
        super().__init__(*arguments)
        self.requests = requests

    def carried(self, carrier: Carrier) -> None:
        """It is with gRPC."""
        self._end()
        self.deferred.callback(carrier)


class GrpcStream(ReceivedStream):
    """A stream of responses.

    What arrives is read ahead, as far as the window goes. Past it nothing is read, and HTTP/2 holds
    up the server. It is open as soon as there is a connection for it. That the server has it is
    known later, by its initial metadata.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_opening",
        "_peer",
        "_ready",
        "_refused",
        "_request",
        "_requests",
        "_room",
        "_rpc",
        "_sent",
        "_taken_bytes",
        "_task",
        "_waiting_bytes",
        "_waking",
        "_window",
    )

    def __init__(
        self,
        registry: CallRegistry,
        spec: CallSpec,
        response_size: int,
        window: OpenStream,
        requests: GrpcRequests | None,
    ) -> None:
        """
        :param response_size: bytes that an item may have.
        :param window: how much may wait here.
        :param requests: None where there is one.
        """
        super().__init__(registry, spec, response_size, deque())
        self._window = window
        self._requests = requests
        self._request = (0, 0)
        self._opening: StreamCall | None = None
        # None before gRPC has it, and when it has ended.
        self._rpc: StreamingRpc | None = None
        self._ready: Deferred[None] | None = None
        self._refused: Callable[[], None] = _nobody
        # Whether the server has it, as far as is known.
        self._begun = False
        self._task: asyncio.Task[ResponseHead] | None = None
        self._peer = ""
        self._sent = 0
        # How many items have arrived, their bytes, and those that were not read.
        self._count = self._taken_bytes = self._waiting_bytes = 0
        # Set while there is room in the window.
        self._room = asyncio.Event()
        # Whether its reader is about to be told of an item.
        self._waking = False

    # -- opening -----------------------------------------------------------------------------

    def open(self, call: StreamCall) -> None:
        """Have a call bring it to gRPC."""
        self._opening = call
        self._request = (1, len(call.body))
        self._register()
        call.deferred.addCallbacks(self._carried, self._not_carried)
        self._registry.begun(call)
        self._registry.start(call)

    def _carried(self, carrier: Carrier) -> None:
        opening, self._opening = self._opening, None
        if opening is not None and opening.route is not None:
            self._peer = opening.route.address
        self._rpc, loop, self._ready, self._refused = carrier
        self._sent = 1
        self._ready.addCallbacks(self._opens, _ignore)
        receiving = self._receive(self._rpc, loop)
        self._task = loop.create_task(receiving, context=empty_context())
        self._task.add_done_callback(self._received, context=empty_context())

    # Any: pyright knows a Failure in parts only.
    def _not_carried(self, failure: Any) -> None:
        self._opening = None
        if not self.is_over:
            self._finish(failure.value)

    def _opens(self, _: object) -> None:
        """There is a connection, by which the request goes."""
        if self.state is OPENING:
            self._enter(OPEN)
            self._tell_opened()

    def _begins(self, initial: Metadata) -> None:
        """The server has it."""
        self._opens(None)
        if self.outcome is None and not self._begun:
            self._begun = True
            self._set_initial(initial)
            self._tell_milestones()

    def _tell_milestones(self) -> None:
        milestones = self._milestones
        if milestones is not None and self._begun:
            milestones.opened.reach(None)
            milestones.metadata.reach(self.initial)

    # -- arriving ----------------------------------------------------------------------------

    async def _receive(self, rpc: StreamingRpc, loop: asyncio.AbstractEventLoop) -> ResponseHead:
        """Read until the end; how the call has ended. In a task of asyncio's.

        No code of a user's runs in it, which is none of asyncio's tasks: the loop calls that later.
        """
        items = self.items
        try:
            initial = await rpc.initial_metadata()
            # Where a call is refused, the status comes along, and such a stream never begins.
            reading = loop.create_task(rpc.read())
            await asyncio.wait([reading], timeout=_COMES_ALONG)
            if not (reading.done() and reading.exception()):
                loop.call_soon(self._begins, metadata_of(initial), context=empty_context())
            item = await reading
            while item is not grpc.aio.EOF:
                assert isinstance(item, bytes), "nothing parses it"
                items.append(item)
                self._count += 1
                self._taken_bytes += len(item)
                self._waiting_bytes += len(item)
                if not self._waking:
                    self._waking = True
                    loop.call_soon(self._arrived, context=empty_context())
                while not self._has_room:
                    self._room.clear()
                    await self._room.wait()
                item = await rpc.read()
            return success(initial, await rpc.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return refusal(error)

    @property
    def _has_room(self) -> bool:
        window = self._window
        return len(self.items) < window.window_items and self._waiting_bytes < window.window_bytes

    def _arrived(self) -> None:
        self._waking = False
        self._wake()

    def _received(self, task: asyncio.Task[ResponseHead]) -> None:
        """The server's last word is there, or gRPC's."""
        if task.cancelled():
            if not self.is_over:
                self._finish(CancelledError("gRPC cancelled the call"))
            return
        error = task.exception()
        if self.is_over:
            return
        self._rpc = None
        head = task.result() if error is None else broken(error)
        if is_deadline(head, self.deadline, self._registry.clock.seconds()):
            self.too_late()
            return
        if head.code is Code.OK:
            self._begins(head.initial)
            if self.outcome is not None:
                return  # by who was told that it is open
            self._set_trailing(head.trailing)
            self._finish(StopAsyncIteration())
            return
        if head.code is Code.UNAUTHENTICATED:
            self._refused()
        if not self._begun:
            self._set_initial(head.initial)
        self._set_trailing(head.trailing)
        self._finish(answer_of(head))

    # -- reading -----------------------------------------------------------------------------

    def take(self) -> bytes:
        """The next item that has arrived; there is one."""
        item = self.items.popleft()
        self._waiting_bytes -= len(item)
        if self._has_room:
            self._room.set()
        return item

    @property
    def arrived_items(self) -> int:
        """How many items have arrived, those that are not read included."""
        return self._count

    def skip_gaps(self, told: Callable[[int], object] | None) -> None:
        """Nothing is done: gRPC has no streams that lose items."""

    def tally(self) -> Tally:
        """What it has sent and received."""
        requests = self._requests
        sent = self._request if requests is None else (requests.count, requests.size)
        return Tally(self._sent, self._peer, *sent, self._taken_bytes)

    # -- the end -----------------------------------------------------------------------------

    def cancel(self, error: BaseException | None = None, *, keep: bool = False) -> None:
        """End it, and tell the server; the reader gets *error*, None for ``CancelledError``.

        :param keep: whether what has arrived may be read before.
        """
        error = error or CancelledError("the stream was cancelled")
        if self.is_over:
            self._cancel_unread(error)
            return
        if not keep:
            self.items.clear()
        self._finish(error)

    def too_late(self) -> None:
        """Its time is up: what was not read is dropped."""
        opening = self._opening
        why = "" if opening is None or opening.route is None else opening.route.obstacle
        self.cancel(DeadlineExceeded(f"the stream's time was up{why and f' ({why})'}"))

    def _finish(self, outcome: BaseException) -> None:
        opening, ready, rpc, task = self._opening, self._ready, self._rpc, self._task
        self._opening = self._ready = self._rpc = self._task = None
        self._settle(outcome)
        self._release()
        if opening is not None:
            opening.deferred.cancel()
        if ready is not None:
            ready.cancel()
        if rpc is not None:
            rpc.cancel()
        if task is not None:
            task.cancel()
        if self._requests is not None:
            self._requests.stop()
        self._tell_end(outcome)


def is_deadline(head: ResponseHead, deadline: float | None, now: float) -> bool:
    """Whether a call has ended by its deadline, which gRPC may notice a little sooner."""
    return head.code is Code.DEADLINE_EXCEEDED and deadline is not None and now > deadline - _ABOUT


def _nobody() -> None:
    """Nobody has to be told."""


def _ignore(_: object) -> None:
    """Who cancelled it knows."""
