"""The connection to one endpoint, and the calls on it."""

from __future__ import annotations

import enum
from typing import Final, Protocol

from txzmq.rpc._calls import Call
from txzmq.rpc._wire.batches import MAX_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE
from txzmq.rpc.transport import ClientTransport, Network, SendResult
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["ConnectivityState", "Subchannel", "SubchannelOwner"]

_CANCEL_HEADER: Final = encode_request(RequestHead("/txzmq.rpc.v1.Control/Cancel", 30_000_000, ()))
_LEAVE_HEADER: Final = encode_request(RequestHead("/txzmq.rpc.v1.Control/Leave", 30_000_000, ()))


class ConnectivityState(enum.Enum):
    """What a channel's connection is doing; the names are gRPC's."""

    CONNECTING = enum.auto()
    READY = enum.auto()
    TRANSIENT_FAILURE = enum.auto()
    SHUTDOWN = enum.auto()


class SubchannelOwner(Protocol):
    """What a connection tells its channel."""

    message_size: int
    #: Whether to send several requests as one message where the server understands it.
    batching: bool

    def start(self, call: Call) -> None:
        """A call was not sent: find another way for it, or fail it."""
        ...

    def ready(self) -> None:
        """A connection is usable."""
        ...

    def not_ready(self) -> None:
        """Connecting failed."""
        ...

    def closed(self) -> None:
        """A connection was closed with its factory."""
        ...


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


class Subchannel:
    """The connection to one endpoint and the calls on it (a :class:`ClientHandler`).

    Calls are sent when the reactor's turn ends, those of one turn together.
    """

    def __init__(self, owner: SubchannelOwner, network: Network, address: str) -> None:
        self.address = address
        self.state = ConnectivityState.CONNECTING
        self.reason = ""
        self._owner = owner
        self._clock = network.clock
        self.wire: ClientWire[_Waiting] = ClientWire()
        # Calls that are to be sent, oldest first. An ordered set.
        self._outgoing: dict[Call, None] = {}
        # Whether they wait for room in the socket, not for the turn's end.
        self._blocked = False
        self._to_cancel: list[bytes] = []
        self._cancellation = _Cancellation()
        # Whether the server has said that it understands batches.
        self._batches = False
        # Whether the server has said that it takes no more calls on this connection.
        self._draining = False
        # Whether the server was told that it need not wait.
        self._has_left = False
        # Last: it may tell of events at once.
        options = {"MAXMSGSIZE": max(owner.message_size, MESSAGE_SIZE) + 65_536}
        self._transport: ClientTransport = network.connect(address, self, options)

    # -- calls -------------------------------------------------------------------------------

    def send(self, call: Call) -> None:
        """Send a call when the turn ends, or when the socket has room."""
        call.carrier = self
        if not self._outgoing and not self._to_cancel:
            self._transport.flush_soon()
        self._outgoing[call] = None

    def withdraw(self, call: Call) -> None:
        """Do not send a call, or do not wait for its reply."""
        if call.counter:
            self.wire.forget(self.wire.id_of(call.counter))
        else:
            self._outgoing.pop(call, None)
        if self._draining:
            self._transport.flush_soon()

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`, and tell the server; all of one turn go in one message."""
        self.withdraw(call)
        if call.counter:
            if not self._outgoing and not self._to_cancel:
                self._transport.flush_soon()
            self._to_cancel.append(self.wire.id_of(call.counter))

    def flush(self) -> None:
        """The reactor's turn ends, or the socket has room: send what there is."""
        if self.state is not ConnectivityState.READY:
            if self._draining and self.state is not ConnectivityState.SHUTDOWN:
                self._flush_the_last()
            return  # connected() sends, or disconnected() finds another way
        if self._blocked:
            now = self._clock.seconds()
            for call in self._outgoing:
                call.has_waited(now)
            self._blocked = False
        while self._outgoing:
            if not self._send_some():
                self._blocked = True
                return
        if self._to_cancel:
            self._send_cancellations()

    def _send_some(self) -> bool:
        """Send the oldest calls with one message, if the socket has room."""
        requests = self._oldest()
        counter = self.wire.latest
        if len(requests) == 1:
            ((call, header, body),) = requests
            if self._owner.batching and not self._batches:
                header = encode_request(call.head._replace(accepts_batches=True))
            message = self.wire.request(call, header, body)
        else:
            message = self.wire.batch(requests)
        if self._transport.send_message(message) is not SendResult.SENT:
            for number in range(counter, self.wire.latest):
                self.wire.forget(self.wire.id_of(number + 1))
            return False
        for call, _, _ in requests:
            counter += 1
            call.counter = counter
            del self._outgoing[call]
        return True

    def _oldest(self) -> list[tuple[Call, bytes, bytes]]:
        """The oldest call and those that may travel with it, each with header and body."""
        requests: list[tuple[Call, bytes, bytes]] = []
        size = 0
        for call in self._outgoing:
            header = encode_request(call.head)
            length = len(header) + len(call.body)
            if requests and length > MAX_BATCHED_SIZE:
                break
            requests.append((call, header, call.body))
            size += length
            if (
                not self._batches
                or length > MAX_BATCHED_SIZE
                or size > MAX_BATCH_SIZE
                or len(requests) == MAX_BATCH
            ):
                break
        return requests

    def _send_cancellations(self) -> None:
        request_ids, self._to_cancel = self._to_cancel, []
        for first in range(0, len(request_ids), MAX_CANCELLED):
            some = request_ids[first : first + MAX_CANCELLED]
            body = CancelRequest(request_ids=some).SerializeToString()
            message = self.wire.request(self._cancellation, _CANCEL_HEADER, body)
            if self._transport.send_message(message) is not SendResult.SENT:
                self.wire.forget(message[0])  # the calls' deadlines will end them

    def close(self) -> None:
        """Drop the connection."""
        self.state = ConnectivityState.SHUTDOWN
        self._transport.close()

    def calls(self) -> list[_Waiting]:
        """Take all calls off this connection."""
        calls = [*self.wire.forget_all(), *self._outgoing]
        self._outgoing.clear()
        return calls

    # -- what the connection tells -----------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        """Replies end their calls."""
        if self.wire.is_batch(message):
            self._batches = True
            for call, head, body in self.wire.receive_batch(message):
                self._finish(call, head, body)
        else:
            reply = self.wire.receive(message)
            if reply is not None:
                if reply.head.accepts_batches:
                    self._batches = self._owner.batching
                self._finish(reply.call, reply.head, reply.body)
        if self.wire.draining:
            self._drain()
        if self._draining:
            self._transport.flush_soon()

    def _finish(self, waiting: _Waiting, head: ResponseHead, body: bytes) -> None:
        if head.draining:
            self._drain()
            if head.not_executed and isinstance(waiting, Call):
                self._send_elsewhere(waiting)
                return
        waiting.finish(head, body)

    def connected(self) -> None:
        """Send what has been waiting."""
        self.state = ConnectivityState.READY
        self.flush()
        self._owner.ready()

    def disconnected(self) -> None:
        """End the calls that were on their way; those that were not go elsewhere."""
        self.state = ConnectivityState.CONNECTING
        self._batches = self._blocked = False
        self._drained()
        self._to_cancel.clear()  # the server has noticed
        for waiting in self.wire.forget_all():
            waiting.fail(
                Unavailable(
                    f"the connection to {self.address} was lost; the call may have been executed"
                )
            )
        # Only now: what the failures led to may have ended some of these.
        unsent, self._outgoing = self._outgoing, {}
        for call in unsent:
            self._owner.start(call)

    # -- a server that shuts down ------------------------------------------------------------

    def _drain(self) -> None:
        """Take no more calls until the server has gone; those that it has go on."""
        if self.state is not ConnectivityState.READY:
            return  # it does so already, or was closed
        self._draining = True
        self.state = ConnectivityState.CONNECTING
        self.reason = f"{self.address}: the server shuts down"
        self._transport.flush_soon()
        unsent, self._outgoing = self._outgoing, {}
        for call in unsent:
            self._owner.start(call)

    def _flush_the_last(self) -> None:
        """Cancel what is to be cancelled; when no call is left, say that the server may go."""
        if self._to_cancel:
            self._send_cancellations()
        if not self.wire and not self._has_left:
            self._has_left = True
            message = self.wire.request(self._cancellation, _LEAVE_HEADER, b"")
            if self._transport.send_message(message) is not SendResult.SENT:
                self.wire.forget(message[0])  # the server does not wait for ever

    def _drained(self) -> None:
        """The server has gone; another may come."""
        self._draining = self._has_left = self.wire.draining = False

    def _send_elsewhere(self, call: Call) -> None:
        """A call was refused and not executed: once on each connection, which takes no more."""
        call.counter = 0
        call.has_waited(self._clock.seconds())
        self._owner.start(call)

    def unreachable(self, reason: str) -> None:
        """Connecting failed."""
        self.state = ConnectivityState.TRANSIENT_FAILURE
        self.reason = f"{self.address}: {reason}"
        self._owner.not_ready()

    def closed(self) -> None:
        """The factory was shut down."""
        self.state = ConnectivityState.SHUTDOWN
        self._owner.closed()
