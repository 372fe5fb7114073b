"""A client's calls, from the moment they are made until their Deferreds have fired."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq.rpc._client.retry_policy import pushback_of
from txzmq.rpc._core.deadlines import TICK, Deadlines
from txzmq.rpc._wire.headers import OK, RequestHead, ResponseHead, to_us
from txzmq.rpc.client import ResponseMetadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, DeadlineExceeded, Internal, ResourceExhausted, RpcError
from txzmq.rpc.method import Method

__all__ = [
    "Call",
    "CallBook",
    "Carrier",
    "Compound",
    "end_of",
    "outcome_of",
    "too_large",
]


class Carrier(Protocol):
    """Where a call waits to be sent, or was sent."""

    def withdraw(self, call: Call) -> None:
        """Do not send it, or do not wait for its reply."""
        ...

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`, and tell the server that nobody waits."""
        ...


class Compound(Protocol):
    """A call that is made of calls."""

    deadline: float | None
    tick: int

    def too_late(self) -> None:
        """Its time is up, and its calls have not ended it."""
        ...

    def give_up(self, error: Exception) -> None:
        """End it, and its calls."""
        ...


class CallBook:
    """The calls of one channel that have a deadline or are made of others.

    :ivar guard: says which thread may end calls.
    :ivar start: gives a call to a connection.
    :ivar size: bytes of the requests of those that wait.
    :ivar end: with what all of them ended, when the channel is closed.
    """

    def __init__(self, clock: Clock, guard: Guard, start: Callable[[Call], None]) -> None:
        self.clock = clock
        self.guard = guard
        self.start = start
        self.size = 0
        self.end: Exception | None = None
        self._deadlines: Deadlines[Call | Compound] = Deadlines(clock, _too_late)
        # Ordered sets.
        self._compounds: dict[Compound, None] = {}
        self._resting: dict[Call, None] = {}

    def begun(self, call: Call) -> None:
        """A call waits from now on."""
        self.size += len(call.body)
        if call.deadline is not None:
            call.tick = self._deadlines.set(call, call.deadline)

    def ended(self, call: Call) -> None:
        """A call has ended, well or badly."""
        self.size -= len(call.body)
        if call.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def compound_begun(self, call: Compound) -> None:
        """A call that is made of others begins."""
        self._compounds[call] = None
        if call.deadline is not None:
            # Later than the call itself, which can say better what became of it.
            call.tick = self._deadlines.set(call, call.deadline + 2 * TICK)

    def compound_ended(self, call: Compound) -> None:
        """It has ended."""
        if self._compounds.pop(call, call) is None and call.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def rests(self, call: Call) -> None:
        """No connection has a call that has not ended, for a while."""
        self._resting[call] = None

    def goes_on(self, call: Call) -> None:
        """A connection has it again, or it has ended."""
        self._resting.pop(call, None)

    def close(self, error: Exception) -> None:
        """End the calls that no connection has, and leave nothing in the reactor."""
        self.end = error
        for call in list(self._compounds):
            call.give_up(error)
        for resting in list(self._resting):
            resting.fail(error)
        self._deadlines.close()


def outcome_of(error: Exception, method: Method[Any, Any]) -> Exception:
    """The error with which a call fails, knowing which call it was."""
    if isinstance(error, RpcError):
        error.method = method.path
    return error


def _too_late(call: Call | Compound) -> None:
    call.too_late()


class Call:
    """A call to one server; its Deferred is the caller's, or the last interceptor's."""

    __slots__ = (
        "body",
        "book",
        "carrier",
        "counter",
        "deadline",
        "deferred",
        "head",
        "method",
        "parent",
        "response_metadata",
        "response_size",
        "tick",
        "used",
        "wait_for_ready",
    )

    def __init__(
        self,
        book: CallBook,
        # Any: a channel has calls of any methods; the caller's signature typed the result.
        method: Method[Any, Any],
        head: RequestHead,
        body: bytes,
        deadline: float | None,
        wait_for_ready: bool,
        parent: Context | None,
        response_metadata: ResponseMetadata | None,
        response_size: int,
    ) -> None:
        self.book = book
        self.method = method
        #: With the whole timeout; what is left of it is computed anew if the call had to wait.
        self.head = head
        #: The serialised request, kept for the case that a server refuses it.
        self.body = body
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        #: The call whose handler made this one.
        self.parent = parent
        #: Where the caller wants the response's metadata.
        self.response_metadata = response_metadata
        #: Bytes that the response may have.
        self.response_size = response_size
        self.deferred: Deferred[Any] = Deferred(self._cancelled)
        self.tick = 0
        #: Where it is, between being made and its end.
        self.carrier: Carrier | None = None
        #: Which of the connection's requests it is; 0 before it is sent.
        self.counter = 0
        #: The endpoints that earlier attempts went to.
        self.used: Collection[Any] = ()

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there; nothing happens if the call has ended."""
        if self.deferred.called:
            return  # by who waits for a change of the channel's state, which the reply brought
        if self.response_metadata is not None:
            self.response_metadata.initial = head.initial
            self.response_metadata.trailing = head.trailing
        if head is not OK and head.code is not Code.OK:
            self.refused(
                head,
                RpcError(head.code, head.message, details=head.details, metadata=head.trailing),
            )
            return
        if len(body) > self.response_size:
            self.fail(too_large("response", len(body), self.response_size))
            return
        try:
            response = self.method.response_type.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self.fail(Internal(f"the response of {self.method.path} cannot be parsed"))
            return
        self._end()
        self.deferred.callback(response)

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error.

        A server that is about to go and has not begun with the call loses it to another one, once
        (gRFC A6, "Transparent Retries").
        """
        if (
            head.not_executed
            and head.code is Code.UNAVAILABLE
            and not self.used
            and pushback_of(head.trailing) is None
        ):
            self.used = (self.carrier,)
            self.counter = 0
            self.has_waited(self.book.clock.seconds())
            self.book.start(self)
        else:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """There will be no reply; nothing happens if the call has ended."""
        if self.deferred.called:
            return  # by what another call's caller did, while all of a connection were ended
        self._end()
        self.deferred.errback(outcome_of(error, self.method))

    def too_late(self) -> None:
        """Its time is up; a reply may still come."""
        sent = "may have been" if self.counter else "was not"
        if self.carrier is not None:
            self.carrier.withdraw(self)
        self.fail(DeadlineExceeded(f"the call's time was up; it {sent} executed"))

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the time."""
        if self.deadline is not None:
            left = max(1, to_us(self.deadline - now))
            self.head = self.head._replace(timeout_us=left)

    def _cancelled(self, _: Deferred[Any]) -> None:
        self.book.guard.check()
        if self.carrier is not None:
            self.carrier.cancel(self)
        self._end()  # Twisted fires the Deferred

    def _end(self) -> None:
        self.book.ended(self)
        if self.parent is not None:
            self.parent.release(self.deferred)


def end_of(cancelled: Callable[[Deferred[Any]], None]) -> Deferred[Any]:
    """The Deferred of a call, which its method types."""
    return Deferred(cancelled)


def too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    """A message is over the client's limit."""
    return ResourceExhausted(
        f"the {what} has {size} bytes, over the client's limit of {limit} (Channel's message_size)"
    )
