"""A client's calls, from the moment they are made until their Deferreds have fired."""

from __future__ import annotations

import contextvars
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._reactor import Clock
from txzmq.rpc._deadlines import TICK, Deadlines
from txzmq.rpc._wire.headers import RequestHead, ResponseHead
from txzmq.rpc.client import ResponseMetadata, wanted_metadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, DeadlineExceeded, Internal, ResourceExhausted, RpcError
from txzmq.rpc.interceptors import ClientCall, ClientProceed, start
from txzmq.rpc.method import Method

__all__ = ["Call", "CallBook", "Carrier", "InterceptedCall", "too_large"]

_US = 1_000_000


class Carrier(Protocol):
    """Where a call waits to be sent, or was sent."""

    def withdraw(self, call: Call) -> None:
        """Do not send it, or do not wait for its reply."""
        ...

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`, and tell the server that nobody waits."""
        ...


class CallBook:
    """The calls of one channel that have a deadline or are with interceptors.

    :ivar message_size: bytes that a response may have.
    """

    def __init__(self, clock: Clock, message_size: int) -> None:
        self.message_size = message_size
        self._deadlines: Deadlines[Call | InterceptedCall] = Deadlines(clock, _too_late)
        # An ordered set.
        self._intercepted: dict[InterceptedCall, None] = {}

    def begun(self, call: Call) -> None:
        """A call waits from now on."""
        if call.deadline is not None:
            call.tick = self._deadlines.set(call, call.deadline)

    def ended(self, call: Call) -> None:
        """A call has ended, well or badly."""
        if call.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def intercepted_begun(self, call: InterceptedCall) -> None:
        """Interceptors get a call."""
        self._intercepted[call] = None
        if call.deadline is not None:
            # Later than the call itself, which can say better what became of it.
            call.tick = self._deadlines.set(call, call.deadline + 2 * TICK)

    def intercepted_ended(self, call: InterceptedCall) -> None:
        """A call that interceptors had has ended."""
        if self._intercepted.pop(call, call) is None and call.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def close(self, error: Exception) -> None:
        """End the calls that interceptors have, and leave nothing in the reactor."""
        for call in list(self._intercepted):
            call.give_up(error)
        self._deadlines.close()


def _too_late(call: Call | InterceptedCall) -> None:
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
        "tick",
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
    ) -> None:
        self.book = book
        self.method = method
        #: With the whole timeout; what is left of it is computed anew if the call had to wait.
        self.head = head
        #: The serialised request; kept, for the call may have to be sent again.
        self.body = body
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        #: The call whose handler made this one.
        self.parent = parent
        #: Where the caller wants the response's metadata.
        self.response_metadata = response_metadata
        self.deferred: Deferred[Any] = Deferred(self._cancelled)
        self.tick = 0
        #: Where it is, between being made and its end.
        self.carrier: Carrier | None = None
        #: Which of the connection's requests it is; 0 before it is sent.
        self.counter = 0

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        if self.response_metadata is not None:
            self.response_metadata.initial = head.initial
            self.response_metadata.trailing = head.trailing
        if head.code is not Code.OK:
            self.fail(
                RpcError(head.code, head.message, details=head.details, metadata=head.trailing)
            )
            return
        if len(body) > self.book.message_size:
            self.fail(too_large("response", len(body), self.book.message_size))
            return
        try:
            response = self.method.response_type.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self.fail(Internal(f"the response of {self.method.path} cannot be parsed"))
            return
        self._end()
        self.deferred.callback(response)

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        self._end()
        self.deferred.errback(error)

    def too_late(self) -> None:
        """Its time is up; a reply may still come."""
        sent = "may have been" if self.counter else "was not"
        if self.carrier is not None:
            self.carrier.withdraw(self)
        self.fail(DeadlineExceeded(f"the call's time was up; it {sent} executed"))

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the time."""
        if self.deadline is not None:
            left = max(1, round((self.deadline - now) * _US))
            self.head = self.head._replace(timeout_us=left)

    def _cancelled(self, _: Deferred[Any]) -> None:
        if self.carrier is not None:
            self.carrier.cancel(self)
        self._end()  # Twisted fires the Deferred

    def _end(self) -> None:
        self.book.ended(self)
        if self.parent is not None:
            self.parent.release(self.deferred)


class InterceptedCall:
    """A call that goes through interceptors: what its caller waits for."""

    __slots__ = ("_book", "_outcome", "deadline", "deferred", "method", "tick")

    def __init__(self, book: CallBook, method: Method[Any, Any], deadline: float | None) -> None:
        self._book = book
        self.method = method
        self.deadline = deadline
        self.deferred: Deferred[Any] = Deferred(self._cancelled)
        self.tick = 0
        # Of the outermost interceptor; None before it is called, and when the call has ended.
        self._outcome: Deferred[Any] | None = None

    def start(self, chain: ClientProceed, call: ClientCall) -> None:
        """Call the outermost interceptor."""
        surroundings = contextvars.copy_context()
        # What an interceptor calls on its own is not what the caller wants to know about.
        surroundings.run(wanted_metadata.set, None)
        self._outcome = surroundings.run(start, chain, call)
        self._outcome.addCallbacks(self._succeeded, self._failed)

    def too_late(self) -> None:
        """Its time is up, and no interceptor has said so."""
        self.give_up(DeadlineExceeded("the call's time was up; it may have been executed"))

    def give_up(self, error: Exception) -> None:
        """End it whatever the interceptors do; they are cancelled."""
        outcome = self._end()
        self.deferred.errback(error)
        if outcome is not None:
            outcome.cancel()

    def _succeeded(self, response: object) -> None:
        if self._end() is None:
            return  # it had ended before
        expected = self.method.response_type
        if isinstance(response, expected):
            self.deferred.callback(response)
        else:
            name = type(response).__name__
            self.deferred.errback(
                TypeError(
                    f"an interceptor answered {self.method.path} with {name}, "
                    f"not {expected.__name__}"
                )
            )

    def _failed(self, failure: Failure) -> None:
        if self._end() is not None:
            self.deferred.errback(failure)

    def _cancelled(self, _: Deferred[Any]) -> None:
        outcome = self._end()
        if outcome is not None:
            outcome.cancel()  # Twisted fires this call's own Deferred

    def _end(self) -> Deferred[Any] | None:
        outcome, self._outcome = self._outcome, None
        self._book.intercepted_ended(self)
        return outcome


def too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    """A message is over the client's limit."""
    return ResourceExhausted(
        f"the {what} has {size} bytes, over the client's limit of {limit} (Channel's message_size)"
    )
