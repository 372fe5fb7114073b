"""A stream of requests on the server: the items that have arrived, and the handler that reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred

from txzmq._task_deferred import TaskDeferred, error_for_driver
from txzmq.rpc._server.admission import RequestBytes
from txzmq.rpc._wire.headers import OK, ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.errors import Code, Internal, ResourceExhausted, RpcError
from txzmq.rpc.limits import REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES
from txzmq.rpc.method import Method
from txzmq.rpc.streams import RequestStream
from txzmq.rpc.v1 import streams_pb2

__all__ = ["ReceivedRequests", "Replies"]

T = TypeVar("T")
#: The answer to items that come too early.
NOT_IN_ORDER: Final = ResponseHead(Code.OUT_OF_RANGE, "earlier items of the stream are missing")


#: Bytes that an item takes besides its own.
_OVERHEAD: Final = 64


class Replies(Protocol):
    """Where the replies to requests go."""

    def answer(self, key: CallKey, head: ResponseHead, body: bytes = b"") -> None:
        """Reply to a request, when the turn ends at the latest."""
        ...


class ReceivedRequests(RequestStream[Any]):
    """The requests of one call, as its handler reads them."""

    __slots__ = (
        "_acknowledgements",
        "_arrived_bytes",
        "_close",
        "_counted",
        "_end",
        "_items",
        "_message_size",
        "_method",
        "_next",
        "_next_answer",
        "_numbers",
        "_peer",
        "_request_bytes",
        "_size",
        "_slack",
        "_taken",
        "_waiter",
        "id",
        "user",
    )

    def __init__(
        self,
        # Any: a server has methods of any messages; the generated base class typed the handler.
        method: Method[Any, Any],
        id: bytes,
        message_size: int,
        close: Callable[[ReceivedRequests], None],
        user: str = "",
    ) -> None:
        """
        :param message_size: bytes that an item may have.
        :param close: called when the stream is closed.
        :param user: whose it is; empty where nobody has authenticated.
        """
        self.id = id
        self.user = user
        self._method = method
        self._message_size = message_size
        self._close = close
        self._items: deque[bytes] = deque()
        self._size = 0
        # Bytes of all items that have arrived, but for those that were dropped.
        self._arrived_bytes = 0
        # Where the items' bytes are counted, for whom, and how many were: often more than are left,
        # since the reader takes one at a time, or fewer by no more than the slack.
        self._request_bytes: RequestBytes | None = None
        self._slack = 0
        self._peer = b""
        self._counted = 0
        # The number of the item that comes next.
        self._next = 1
        self._taken = 0
        # What the reader gets behind the last item; None while more items may come.
        self._end: Exception | None = None
        self._waiter: Deferred[None] | None = None
        # Requests to answer, by the number of items that have to be taken before.
        self._acknowledgements: dict[int, tuple[Replies, CallKey]] = {}
        # Those numbers as a heap, and the smallest of them; 0 if there is none.
        self._numbers: list[int] = []
        self._next_answer = 0

    def count_by(self, request_bytes: RequestBytes, peer: bytes) -> None:
        """Have the items that were not read count as a peer's."""
        self._request_bytes = request_bytes
        self._slack = request_bytes.slack
        self._peer = peer

    @property
    def _held(self) -> int:
        """Bytes that the items take which were not read."""
        return self._size + _OVERHEAD * len(self._items)

    def _count(self) -> None:
        """Count the bytes of the items that were not read."""
        held = self._held
        change = held - self._counted
        if change and self._request_bytes is not None:
            self._request_bytes.change(self._peer, change)
            self._counted = held

    # -- what the client sends ---------------------------------------------------------------

    def receive(self, replies: Replies, key: CallKey, request: streams_pb2.SendRequest) -> None:
        """Take items; they are acknowledged when they have been read."""
        known = self._next - request.sequence
        if known < 0:
            if request.acknowledge:
                replies.answer(key, NOT_IN_ORDER)
            return
        items = request.items[known:]
        if self._end is None:
            self._items.extend(items)
            self._next += len(items)
            size = sum(map(len, items))
            self._size += size
            self._arrived_bytes += size
            if request.end:
                self._end = StopAsyncIteration()
            self._check(items)
            if abs(self._held - self._counted) > self._slack:
                self._count()
        if request.acknowledge:
            self._acknowledge_at(request.sequence + len(request.items) - 1, replies, key)
        if items or request.end:
            self._wake()

    def _check(self, items: list[bytes]) -> None:
        """Fail the stream if its client exceeds a limit."""
        for item in items:
            if len(item) > self._message_size:
                self._fail(
                    ResourceExhausted(
                        f"an item of the stream has {len(item)} bytes, over the server's limit of "
                        f"{self._message_size} (ServerLimits.message_size)"
                    )
                )
                return
        count, size = len(self._items), self._size
        last = len(self._items[-1]) if self._items else 0
        if count > REQUESTS_WINDOW or size - last >= REQUESTS_WINDOW_BYTES:
            self._fail(
                ResourceExhausted(
                    f"more than {REQUESTS_WINDOW} items or {REQUESTS_WINDOW_BYTES} bytes of the "
                    "stream were sent and not acknowledged"
                )
            )
            return
        more = self._held - self._counted
        if items and more > self._slack and self._request_bytes is not None:
            reason = self._request_bytes.why_not(self._peer, more)
            if reason is not None:
                self._fail(ResourceExhausted(reason))

    def _fail(self, error: RpcError) -> None:
        self._drop()
        self._end = error

    def _drop(self) -> None:
        """Nobody will read what was not read."""
        self._items.clear()
        self._arrived_bytes -= self._size
        self._size = 0

    def _acknowledge_at(self, taken: int, replies: Replies, key: CallKey) -> None:
        """Answer a request when so many items were taken; at most all that have been accepted.

        One request waits for each item: an earlier one that waits for the same is answered.
        """
        taken = min(taken, self._next - 1)
        if taken <= self._taken:
            self._acknowledge(replies, key)
            return
        earlier = self._acknowledgements.get(taken)
        self._acknowledgements[taken] = replies, key
        if earlier is not None:
            self._acknowledge(*earlier)
        else:
            heappush(self._numbers, taken)
            self._next_answer = self._numbers[0]

    def _answer(self) -> None:
        """Answer the request that waited for the item that was taken."""
        waiting = self._acknowledgements.pop(heappop(self._numbers))
        self._next_answer = self._numbers[0] if self._numbers else 0
        self._acknowledge(*waiting)

    def _acknowledge(self, replies: Replies, key: CallKey) -> None:
        response = streams_pb2.SendResponse(taken=self._taken)
        replies.answer(key, OK, response.SerializeToString())

    @property
    def taken(self) -> int:
        """How many items the handler was given."""
        return self._taken

    @property
    def taken_bytes(self) -> int:
        """Bytes of these items."""
        return self._arrived_bytes - self._size

    # -- what the handler reads --------------------------------------------------------------

    async def __anext__(self) -> Any:
        while not self._items:
            if self._end is not None:
                raise await error_for_driver(self._end)
            try:
                await self._more()
            except GeneratorExit:
                self._waiter = None  # or what its `finally` does would wake it
                raise
        item = self._items.popleft()
        self._size -= len(item)
        if self._counted and not self._items:
            self._count()
        self._taken += 1
        if self._taken == self._next_answer:
            self._answer()
        try:
            return self._method.request_type.FromString(item)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self._fail(Internal(f"an item of the stream to {self._method.path} cannot be parsed"))
            self._count()
            assert self._end is not None
            raise self._end from None

    def _more(self) -> Deferred[None]:
        if self._waiter is not None:
            raise RuntimeError("a stream has one reader at a time")
        self._waiter = TaskDeferred(self._forget_reader)
        return self._waiter

    def _forget_reader(self, _: Deferred[None]) -> None:
        self._waiter = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def close(self) -> None:
        """The call has ended: acknowledge what was sent, and end the stream for its reader."""
        self._close(self)
        acknowledgements, self._acknowledgements = self._acknowledgements, {}
        self._numbers.clear()
        self._next_answer = 0
        for waiting in acknowledgements.values():
            self._acknowledge(*waiting)
        self._drop()
        self._count()
        if self._end is None:
            self._end = CancelledError("the call has ended")
        self._wake()
