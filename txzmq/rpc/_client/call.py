"""A client's calls, from the moment they are made until their Deferreds have fired."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc._client.attempts import Attempts
from txzmq.rpc._client.retry_policy import Progress, Throttle
from txzmq.rpc._client.stream_control import StreamControl
from txzmq.rpc._core.deadlines import TICK, Deadlines
from txzmq.rpc._wire.headers import OK, RequestHead, ResponseHead, to_us
from txzmq.rpc.client import CallSpec
from txzmq.rpc.errors import Code, DeadlineExceeded, Internal, ResourceExhausted, RpcError
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method
from txzmq.rpc.records import Tally

__all__ = [
    "Call",
    "CallRegistry",
    "LogicalCall",
    "Route",
    "SubchannelPort",
    "answer_of",
    "outcome_of",
    "too_large",
]

E = TypeVar("E", bound=BaseException)


#: Where a call has gone whose request was not sent.
_NOWHERE: Final = ("", b"")


class Route(Protocol):
    """Where a call waits to be sent, or was sent: a subchannel, or the queue of the pool.

    :ivar address: of the server; empty where that is not known.
    """

    address: str

    @property
    def obstacle(self) -> str:
        """Why it cannot send calls now; empty if it can, or that is not known."""
        ...

    def withdraw(self, call: Call) -> None:
        """Do not send it, or do not wait for its reply."""
        ...

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`, and tell the server that nobody waits."""
        ...

    def id_of(self, counter: int, /) -> bytes:
        """The id of a request that was sent by it; empty of a queue, which sends none."""
        ...


class SubchannelPort(Route, Protocol):
    """The connection that a call was given to."""

    @property
    def stream_control(self) -> StreamControl:
        """The streams that are opened on it."""
        ...


class LogicalCall(Protocol):
    """What its caller sees as one call, and what is made of calls: of attempts, for instance."""

    @property
    def deadline(self) -> float | None:
        """When its time is up."""
        ...

    def too_late(self) -> None:
        """Its time is up, and the calls that it is made of have not ended it."""
        ...

    def give_up(self, error: Exception) -> None:
        """End it, and the calls that it is made of."""
        ...


class CallRegistry:
    """The calls of one channel, and what they share (an AttemptOwner).

    :ivar guard: says which thread may end calls.
    :ivar start: gives a call to a connection.
    :ivar count: counts an event.
    :ivar size: bytes of the requests of the calls that wait.
    :ivar end: with what all calls have ended, once the channel is closed.
    :ivar is_closing: whether the channel is being closed: no call can be made any more.
    """

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        random: Random,
        throttle: Throttle,
        start: Callable[[Call], None],
        count: Callable[[str], None],
    ) -> None:
        self.clock = clock
        self.guard = guard
        self.random = random
        self.throttle = throttle
        self.start = start
        self.count = count
        self.size = 0
        self.end: Exception | None = None
        self.is_closing = False
        self._deadlines: Deadlines[Call | LogicalCall] = Deadlines(clock, _too_late)
        # Each with its tick among the deadlines, where it has one.
        self._logical: dict[LogicalCall, int] = {}

    def begun(self, call: Call) -> None:
        """A call waits from now on."""
        self.size += len(call.body)
        deadline = call.spec.deadline
        if deadline is not None:
            call.tick = self._deadlines.set(call, deadline)

    def ended(self, call: Call) -> None:
        """A call has ended, well or badly."""
        self.size -= len(call.body)
        if call.spec.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def logical_begun(self, call: LogicalCall) -> None:
        """A call that is made of others begins."""
        deadline = call.deadline
        if deadline is None:
            self._logical[call] = 0
        else:
            # Later than the calls that it is made of: they can say better what became of it.
            self._logical[call] = self._deadlines.set(call, deadline + 2 * TICK)

    def logical_ended(self, call: LogicalCall) -> None:
        """It has ended; nothing happens if it had."""
        tick = self._logical.pop(call, 0)
        if tick:
            self._deadlines.remove(call, tick)

    def soon(self, call: Callable[[], object]) -> None:
        """Have something called in the reactor's thread; may be called in any, at any moment."""
        guard = self.guard
        if guard.forked:
            return
        if guard.is_owner():
            self.clock.callLater(0, call)
        else:
            guard.reactor().callFromThread(call)

    def refuse(self) -> None:
        """The channel is being closed: no call can be made any more."""
        self.is_closing = True

    def close(self, error: Exception) -> None:
        """End the calls that no connection has, and leave nothing in the reactor."""
        self.end = error
        for call in list(self._logical):
            call.give_up(error)
        self._deadlines.close()


def _too_late(call: Call | LogicalCall) -> None:
    call.too_late()


def outcome_of(error: E, method: Method[Any, Any], *, sent: bool = True) -> E:
    """The error with which a call fails, knowing which call it was.

    :param sent: whether the request may have reached a server; it is known to the first who says.
    """
    if isinstance(error, RpcError):
        error.of_call(method.path, sent=sent)
    return error


def answer_of(head: ResponseHead) -> RpcError:
    """A server's answer that is none of success."""
    error = RpcError(head.code, head.message, details=head.details, metadata=head.trailing)
    return error.of_server()


class Call:
    """A call to one server; its Deferred is the caller's, or the last interceptor's.

    Where a server refuses it without having begun with it, it is made again by itself, without a
    policy (gRFC A6, "Transparent Retries"): so it is an Attempted, too.
    """

    __slots__ = (
        "_attempts",
        "_rejected",
        "_went_last",
        "body",
        "counter",
        "deferred",
        "head",
        "registry",
        "response_size",
        "route",
        "spec",
        "tick",
        "used",
    )

    def __init__(
        self,
        registry: CallRegistry,
        spec: CallSpec,
        head: RequestHead,
        body: bytes,
        response_size: int,
        # Any: subchannels, which only a balancing policy looks at.
        used: Collection[Any] = (),
    ) -> None:
        """
        :param head: with the whole timeout; what is left of it is computed anew if the call had to
            wait.
        :param body: the serialised request, kept for the case that a server refuses it.
        :param response_size: bytes that the response may have.
        :param used: the connections that earlier attempts went to.
        """
        self.registry = registry
        self.spec = spec
        self.head = head
        self.body = body
        self.response_size = response_size
        self.used = used
        self.deferred: Deferred[Any] = TaskDeferred(self._cancelled)
        self.tick = 0
        #: Where it is, between being made and its end.
        self.route: Route | None = None
        #: Which of the connection's requests it is; 0 before it is sent.
        self.counter = 0
        # Made when a server refuses it for the first time.
        self._attempts: Attempts | None = None
        # Asked when a server does not take its credentials, once.
        self._rejected: Callable[[Call], bool] | None = None

    # -- on its way --------------------------------------------------------------------------

    def picked(self, subchannel: SubchannelPort) -> None:
        """A connection has it, which will send it."""
        self.route = subchannel

    def queued(self, queue: Route) -> None:
        """It waits for a connection."""
        self.route = queue

    def carry(self, metadata: Metadata, rejected: Callable[[Call], bool]) -> None:
        """Send other metadata, in which there are credentials.

        :param rejected: whether to make the call again, with others, after a server has refused
            these.
        """
        self.head = self.head._replace(metadata=metadata)
        self._rejected = rejected if self._rejected is None else _no_more

    def sent(self, counter: int) -> None:
        """It was sent, as the connection's request of that number."""
        self.counter = counter

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the time."""
        deadline = self.spec.deadline
        if deadline is not None:
            self.head = self.head._replace(timeout_us=max(1, to_us(deadline - now)))

    @property
    def progress(self) -> Progress:
        """How far it has come, as far as the client knows."""
        return Progress.UNKNOWN if self.counter else Progress.NOT_PICKED

    def tally(self) -> Tally:
        """What it has sent and received; of the response it knows nothing."""
        again = 0 if self._attempts is None else self._attempts.made
        peer, request_id = self.went_to
        return Tally(again + bool(self.counter), peer, 1, len(self.body), 0, request_id)

    @property
    def went_to(self) -> tuple[str, bytes]:
        """The server that its request went to last, and the request's id; empty if none did."""
        counter, route = self.counter, self.route
        if counter and route is not None:
            return route.address, route.id_of(counter)
        # There only where it is made again: to set it before would cost each call.
        return getattr(self, "_went_last", _NOWHERE)

    # -- how it ends -------------------------------------------------------------------------

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived; nothing happens if the call has ended."""
        if self.deferred.called:
            return  # by who waits for a change of the channel's state, which the reply brought
        spec = self.spec
        if spec.response_metadata is not None:
            spec.response_metadata.received(head.initial, head.trailing)
        if head is not OK and head.code is not Code.OK:
            if self._is_rejected(head):
                self.attempt(1, self.used)
                return
            self.refused(head, answer_of(head))
            return
        if len(body) > self.response_size:
            self.fail(too_large("response", len(body), self.response_size))
            return
        try:
            response = spec.method.response_type.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self.fail(Internal(f"the response of {spec.method.path} cannot be parsed"))
            return
        self._end()
        self.deferred.callback(response)

    def _is_rejected(self, head: ResponseHead) -> bool:
        """Whether the reply is that its credentials are no good, and others are to be tried."""
        return (
            self._rejected is not None
            and head.code is Code.UNAUTHENTICATED
            and head.not_executed
            and self._rejected(self)
        )

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error."""
        if not head.not_executed:
            self.fail(error)
            return
        if self._attempts is None:
            self._attempts = Attempts(self.registry, self.spec.method, None, self)
        self._attempts.failed(error, Progress.NOT_EXECUTED, self.route, self.spec.deadline)

    def attempt(self, number: int, used: Collection[Any]) -> None:
        """Make the call again, as if no server had refused it."""
        self.used = used
        self._went_last = self.went_to
        self.counter = 0
        self.has_waited(self.registry.clock.seconds())
        self.registry.start(self)

    def attempts_ended(self, error: Exception) -> None:
        """It is not made again."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """There will be no reply; nothing happens if the call has ended."""
        if self.deferred.called:
            return  # by what another call's caller did, while all of a connection were ended
        self._end()
        self.deferred.errback(outcome_of(error, self.spec.method, sent=bool(self.counter)))

    def too_late(self) -> None:
        """Its time is up; a reply may still come."""
        why = "" if self.counter or self.route is None else self.route.obstacle
        sent = "may have been" if self.counter else "was not"
        if self.route is not None:
            self.route.withdraw(self)
        why = why and f" ({why})"
        self.fail(DeadlineExceeded(f"the call's time was up; it {sent} executed{why}"))

    def _cancelled(self, _: Deferred[Any]) -> None:
        self.registry.guard.check()
        if self.route is not None:
            self.route.cancel(self)
        self._end()  # Twisted fires the Deferred

    def _end(self) -> None:
        if self._attempts is not None:
            self._attempts.stop()
        self.registry.ended(self)
        parent = self.spec.parent
        if parent is not None:
            parent.release(self.deferred)


def _no_more(call: Call) -> bool:
    """The answer for a call that was made again already."""
    return False


def too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    """A message is over the client's limit."""
    return ResourceExhausted(
        f"the {what} has {size} bytes, over the client's limit of {limit} (Channel's message_size)"
    )
