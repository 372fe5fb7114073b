"""The client's connections, and the calls that wait for them."""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import CancelledError, Deferred, fail

from txzmq._reactor import Timer
from txzmq.factory import ZmqFactory
from txzmq.rpc._deadlines import Deadlines
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request
from txzmq.rpc._wire.metadata import MetadataInput, check_size, normalise
from txzmq.rpc.client import StreamInput
from txzmq.rpc.context import Context, current_context
from txzmq.rpc.errors import (
    Code,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    RpcError,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE, METADATA_SIZE
from txzmq.rpc.method import Method
from txzmq.rpc.streams import ResponseStream, UnimplementedResponseStream
from txzmq.rpc.transport import ClientTransport, Network, SendResult, ZmqNetwork
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["Channel", "ConnectivityState"]

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)

_US: Final = 1_000_000
#: Seconds that a call may take if nobody says otherwise.
_DEFAULT_TIMEOUT: Final = 30.0
_CANCEL_HEADER: Final = encode_request(
    RequestHead("/txzmq.rpc.v1.Control/Cancel", int(_DEFAULT_TIMEOUT * _US), ())
)


class ConnectivityState(enum.Enum):
    """What a channel's connection is doing; the names are gRPC's."""

    CONNECTING = enum.auto()
    READY = enum.auto()
    TRANSIENT_FAILURE = enum.auto()
    SHUTDOWN = enum.auto()


class _Waiting(Protocol):
    """Something that a reply ends."""

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        ...

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        ...


class _Cancellation:
    """A call of the control service; nothing hangs on how it ends."""

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The server has ended the calls."""

    def fail(self, error: Exception) -> None:
        """The connection is gone, and the calls with it."""


class _Call:
    """A call from the moment it is made until its Deferred has fired."""

    __slots__ = (
        "body",
        "channel",
        "deadline",
        "deferred",
        "head",
        "method",
        "parent",
        "request_id",
        "subchannel",
        "tick",
        "wait_for_ready",
    )

    def __init__(
        self,
        channel: Channel,
        # Any: a channel has calls of any methods; the caller's signature typed the result.
        method: Method[Any, Any],
        head: RequestHead,
        body: bytes,
        deadline: float | None,
        wait_for_ready: bool,
        parent: Context | None,
    ) -> None:
        self.channel = channel
        self.method = method
        #: With the whole timeout; what is left of it is computed anew if the call had to wait.
        self.head = head
        #: The serialised request; given up when it is sent.
        self.body = body
        self.deadline = deadline
        self.wait_for_ready = wait_for_ready
        self.parent = parent
        self.deferred: Deferred[Any] = Deferred(self._cancelled)
        self.tick = 0
        #: Where the call is queued or was sent; None while the channel has it.
        self.subchannel: _Subchannel | None = None
        #: Set while the request is on its way.
        self.request_id = b""

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        if head.code is not Code.OK:
            self.fail(
                RpcError(head.code, head.message, details=head.details, metadata=head.trailing)
            )
            return
        limit = self.channel.message_size
        if len(body) > limit:
            self.fail(_too_large("response", len(body), limit))
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

    def give_up(self, error: Exception) -> None:
        """End without a reply that may still come."""
        self._withdraw()
        self.fail(error)

    def _cancelled(self, _: Deferred[Any]) -> None:
        self.channel.guard.check()
        self._withdraw()
        if self.request_id and self.subchannel is not None:
            self.subchannel.cancel(self.request_id)
        self._end()  # Twisted fires the Deferred

    def _withdraw(self) -> None:
        if self.subchannel is None:
            self.channel.dequeue(self)
        else:
            self.subchannel.withdraw(self)

    def _end(self) -> None:
        self.channel.ended(self)
        if self.parent is not None:
            self.parent.release(self.deferred)


class _Subchannel:
    """The connection to one endpoint and the calls on it (a :class:`ClientHandler`)."""

    def __init__(self, channel: Channel, network: Network, address: str) -> None:
        self.address = address
        self.state = ConnectivityState.CONNECTING
        self.reason = ""
        self._channel = channel
        self._clock = network.clock
        self.wire: ClientWire[_Waiting] = ClientWire()
        # Calls that were to be sent when the socket had no room.
        self._blocked: deque[_Call] = deque()
        self._to_cancel: list[bytes] = []
        self._cancel_call: Timer | None = None
        self._cancellation = _Cancellation()
        # Last: it may tell of events at once.
        options = {"MAXMSGSIZE": max(channel.message_size, MESSAGE_SIZE) + 65_536}
        self._transport: ClientTransport = network.connect(address, self, options)

    # -- calls -------------------------------------------------------------------------------

    def send(self, call: _Call) -> None:
        """Send a call, or keep it until the socket has room."""
        call.subchannel = self
        if self._blocked or not self._try_send(call):
            self._blocked.append(call)

    def _try_send(self, call: _Call) -> bool:
        message = self.wire.request(call, encode_request(call.head), call.body)
        if self._transport.send_message(message) is not SendResult.SENT:
            self.wire.forget(message[0])
            return False
        call.request_id = message[0]
        call.body = b""
        return True

    def withdraw(self, call: _Call) -> None:
        """Do not send a call, or do not wait for its reply."""
        if call.request_id:
            self.wire.forget(call.request_id)
        else:
            self._blocked.remove(call)

    def cancel(self, request_id: bytes) -> None:
        """Tell the server that nobody waits; all of one turn go in one message."""
        self._to_cancel.append(request_id)
        if self._cancel_call is None:
            self._cancel_call = self._clock.callLater(0, self._send_cancellations)

    def _send_cancellations(self) -> None:
        self._cancel_call = None
        request_ids, self._to_cancel = self._to_cancel, []
        if self.state is not ConnectivityState.READY:
            return  # the server has noticed
        for start in range(0, len(request_ids), MAX_CANCELLED):
            some = request_ids[start : start + MAX_CANCELLED]
            body = CancelRequest(request_ids=some).SerializeToString()
            message = self.wire.request(self._cancellation, _CANCEL_HEADER, body)
            if self._transport.send_message(message) is not SendResult.SENT:
                self.wire.forget(message[0])  # the calls' deadlines will end them

    def close(self) -> None:
        """Drop the connection."""
        self.state = ConnectivityState.SHUTDOWN
        if self._cancel_call is not None:
            self._cancel_call.cancel()
            self._cancel_call = None
        self._transport.close()

    def calls(self) -> list[_Waiting]:
        """Take all calls off this connection."""
        calls = [*self.wire.forget_all(), *self._blocked]
        self._blocked.clear()
        return calls

    # -- what the connection tells -----------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        """A reply ends its call."""
        reply = self.wire.receive(message)
        if reply is not None:
            reply.call.finish(reply.head, reply.body)

    def connected(self) -> None:
        """Send what has been waiting."""
        self.state = ConnectivityState.READY
        self.writable()
        self._channel.ready()

    def disconnected(self) -> None:
        """End the calls that were on their way; those that were not go elsewhere."""
        self.state = ConnectivityState.CONNECTING
        unsent, self._blocked = list(self._blocked), deque()
        for waiting in self.wire.forget_all():
            waiting.fail(
                Unavailable(
                    f"the connection to {self.address} was lost; the call may have been executed"
                )
            )
        for call in unsent:
            call.subchannel = None
            self._channel.start(call)

    def unreachable(self, reason: str) -> None:
        """Connecting failed."""
        self.state = ConnectivityState.TRANSIENT_FAILURE
        self.reason = f"{self.address}: {reason}"
        self._channel.not_ready()

    def writable(self) -> None:
        """Go on sending."""
        while self._blocked and self._try_send(self._blocked[0]):
            self._blocked.popleft()

    def closed(self) -> None:
        """The factory was shut down."""
        self.state = ConnectivityState.SHUTDOWN
        self._channel.close()


class Channel:
    """Connections to the servers of one service, for any number of clients.

    Calls go to the endpoints that can be reached, in turn. A call that finds none fails with
    UNAVAILABLE as soon as that is known, unless it waits for a server (*wait_for_ready*).

    Once the reactor runs, it is for the reactor's thread only: elsewhere, every method, and
    cancelling a call, raises :class:`~txzmq.WrongThreadError`, or in a forked child
    :class:`~txzmq.ForkedError`. :class:`~txzmq.rpc.Blocking` makes calls from other threads.
    """

    def __init__(
        self,
        factory: ZmqFactory | Network,
        endpoint: str | Sequence[str],
        *,
        timeout: float | None = _DEFAULT_TIMEOUT,
        wait_for_ready: bool = False,
        message_size: int = MESSAGE_SIZE,
        metadata_size: int = METADATA_SIZE,
    ) -> None:
        """Begin to connect; nothing is blocked.

        :param factory: owns the sockets and knows the reactor.
        :param endpoint: one address or several, such as ``tcp://127.0.0.1:5000``.
        :param timeout: seconds for calls that bring none of their own; None for no end.
        :param wait_for_ready: what calls do that do not say.
        :param message_size: bytes that a serialised request or response may have.
        :param metadata_size: bytes that the metadata of a request may cost.
        :raises ValueError: if there is no endpoint.
        :raises zmq.ZMQError: if an address is none.
        """
        network = ZmqNetwork(factory) if isinstance(factory, ZmqFactory) else factory
        addresses = [endpoint] if isinstance(endpoint, str) else list(endpoint)
        if not addresses:
            raise ValueError("a channel needs an endpoint")
        self.message_size = message_size
        self.metadata_size = metadata_size
        self._timeout = timeout
        self._wait_for_ready = wait_for_ready
        self.guard = network.guard
        self._clock = network.clock
        self._deadlines: Deadlines[_Call] = Deadlines(self._clock, self._too_late)
        # Calls that no connection has, oldest first.
        self._queue: dict[_Call, None] = {}
        self._subchannels: list[_Subchannel] = []
        self._next = 0
        self._closed = False
        for address in addresses:
            self._subchannels.append(_Subchannel(self, network, address))

    # -- the four kinds of call --------------------------------------------------------------

    def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Make a call; see :class:`~txzmq.rpc.Caller`."""
        self.guard.check()
        try:
            call = self._make(method, request, timeout, metadata, wait_for_ready)
        except (RpcError, TypeError, ValueError) as error:
            return fail(error)
        self.start(call)
        return call.deferred

    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Not there yet: the stream fails with UNIMPLEMENTED."""
        return UnimplementedResponseStream(method)

    def stream_unary(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Not there yet: fails with UNIMPLEMENTED."""
        return fail(Unimplemented(f"{method.path} streams, and this txzmq has unary calls only"))

    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Not there yet: the stream fails with UNIMPLEMENTED."""
        return UnimplementedResponseStream(method)

    def _make(
        self,
        method: Method[Any, Any],
        request: Message,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> _Call:
        if self._closed:
            raise Unavailable("the channel is closed")
        if not isinstance(request, method.request_type):
            raise TypeError(
                f"{method.path} takes {method.request_type.__name__}, not {type(request).__name__}"
            )
        body = request.SerializeToString()
        if len(body) > self.message_size:
            raise _too_large("request", len(body), self.message_size)
        pairs = normalise(metadata)
        if pairs and not check_size(pairs, self.metadata_size):
            raise ResourceExhausted(
                f"the metadata is over the client's limit of {self.metadata_size} bytes "
                "(Channel's metadata_size)"
            )
        parent = current_context()
        left = self._time_left(timeout, parent)
        deadline = None if left is None else self._clock.seconds() + left
        timeout_us = None if left is None else round(left * _US)
        if timeout_us is not None and timeout_us <= 0:
            raise DeadlineExceeded("no time was left for the call; it was not executed")
        call = _Call(
            self,
            method,
            RequestHead(method.path, timeout_us, pairs),
            body,
            deadline,
            self._wait_for_ready if wait_for_ready is None else wait_for_ready,
            parent,
        )
        if deadline is not None:
            call.tick = self._deadlines.set(call, deadline)
        if parent is not None:
            parent.adopt(call.deferred)
        return call

    def _time_left(self, timeout: float | None, parent: Context | None) -> float | None:
        """Seconds for a call: its own or the channel's, and no more than its parent has."""
        if timeout is None:
            timeout = self._timeout
        elif math.isnan(timeout):
            raise ValueError("the timeout is not a number")
        elif timeout == math.inf:
            timeout = None
        inherited = None if parent is None else parent.time_remaining()
        if inherited is None:
            return timeout
        return inherited if timeout is None else min(timeout, inherited)

    # -- from call to connection -------------------------------------------------------------

    def start(self, call: _Call) -> None:
        """Give a call to a connection, or queue it, or fail it."""
        subchannel = self._pick()
        if subchannel is not None:
            subchannel.send(call)
        elif call.wait_for_ready or self._is_connecting():
            self._queue[call] = None
        else:
            call.fail(self._unavailable())

    def _pick(self) -> _Subchannel | None:
        """The next connection in turn that is ready."""
        count = len(self._subchannels)
        for _ in range(count):
            self._next = (self._next + 1) % count
            subchannel = self._subchannels[self._next]
            if subchannel.state is ConnectivityState.READY:
                return subchannel
        return None

    def _is_connecting(self) -> bool:
        return any(sub.state is ConnectivityState.CONNECTING for sub in self._subchannels)

    def _unavailable(self) -> Unavailable:
        reasons = "; ".join(sub.reason for sub in self._subchannels)
        return Unavailable(f"no server can be reached, the call was not sent ({reasons})")

    def ready(self) -> None:
        """A connection is usable: send what has been waiting."""
        queue, self._queue = self._queue, {}
        now = self._clock.seconds()
        for call in queue:
            if call.deadline is not None:
                left = max(1, round((call.deadline - now) * _US))
                call.head = call.head._replace(timeout_us=left)
            self.start(call)

    def not_ready(self) -> None:
        """A connection failed: if it was the last hope, say so to those who wait for it."""
        if self._pick() is not None or self._is_connecting():
            return
        for call in [call for call in self._queue if not call.wait_for_ready]:
            del self._queue[call]
            call.fail(self._unavailable())

    def dequeue(self, call: _Call) -> None:
        """Take a call out of the queue; it is never sent."""
        self._queue.pop(call, None)

    def ended(self, call: _Call) -> None:
        """A call has ended, well or badly."""
        if call.deadline is not None:
            self._deadlines.remove(call, call.tick)

    def _too_late(self, call: _Call) -> None:
        sent = "may have been" if call.request_id else "was not"
        call.give_up(DeadlineExceeded(f"the call's time was up; it {sent} executed"))

    def close(self) -> None:
        """End all calls with ``CancelledError``, and all connections; may be called again."""
        self.guard.check()
        if self._closed:
            return
        self._closed = True
        queued: list[_Waiting] = list(self._queue)
        self._queue.clear()
        for subchannel in self._subchannels:
            queued += subchannel.calls()
            subchannel.close()
        for call in queued:
            call.fail(CancelledError("the channel was closed"))
        self._deadlines.close()

    @property
    def counters(self) -> Counter[str]:
        """What was dropped of incoming messages, by reason, over all connections."""
        return sum((sub.wire.dropped for sub in self._subchannels), Counter[str]())


def _too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"the {what} has {size} bytes, over the client's limit of {limit} (Channel's message_size)"
    )
