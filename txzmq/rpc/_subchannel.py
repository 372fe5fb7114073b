"""The connection to one endpoint, and the calls on it."""

from __future__ import annotations

import enum
from typing import Final, Protocol

from txzmq.rpc._calls import Call
from txzmq.rpc._deadlines import Deadlines
from txzmq.rpc._wire.batches import MAX_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE
from txzmq.rpc.transport import ClientTransport, Network, SendResult
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["ConnectivityState", "Subchannel", "SubchannelOwner"]

#: Seconds after which a Cancel is forgotten that the server does not answer.
_CANCEL_TIMEOUT: Final = 30
_CANCEL_HEADER: Final = encode_request(
    RequestHead("/txzmq.rpc.v1.Control/Cancel", _CANCEL_TIMEOUT * 1_000_000, ())
)


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
    """A call of the control service; nothing hangs on how it ends, but it must end."""

    __slots__ = ("deadlines", "request_id", "tick")

    def __init__(self, deadlines: Deadlines[_Cancellation]) -> None:
        self.deadlines = deadlines
        self.request_id = b""
        self.tick = 0

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The server has ended the calls."""
        self.deadlines.remove(self, self.tick)

    def fail(self, error: Exception) -> None:
        """The connection is gone, and the calls with it."""
        self.deadlines.remove(self, self.tick)


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
        # One more timer than the channel's own, and only while a Cancel waits for its reply.
        self._cancellations: Deadlines[_Cancellation] = Deadlines(self._clock, self._unanswered)
        # Whether the server has said that it understands batches.
        self._batches = False
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

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`, and tell the server; all of one turn go in one message."""
        self.withdraw(call)
        if call.counter and self.state is ConnectivityState.READY:  # or the server has noticed
            if not self._outgoing and not self._to_cancel:
                self._transport.flush_soon()
            self._to_cancel.append(self.wire.id_of(call.counter))

    def flush(self) -> None:
        """The reactor's turn ends, or the socket has room: send what there is."""
        if self.state is not ConnectivityState.READY:
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
            call.body = b""
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
            cancellation = _Cancellation(self._cancellations)
            message = self.wire.request(cancellation, _CANCEL_HEADER, body)
            if self._transport.send_message(message) is SendResult.SENT:
                cancellation.request_id = message[0]
                when = self._clock.seconds() + _CANCEL_TIMEOUT
                cancellation.tick = self._cancellations.set(cancellation, when)
            else:
                self.wire.forget(message[0])  # the calls' deadlines will end them

    def _unanswered(self, cancellation: _Cancellation) -> None:
        self.wire.forget(cancellation.request_id)

    def close(self) -> None:
        """Drop the connection."""
        self.state = ConnectivityState.SHUTDOWN
        self._to_cancel.clear()
        self._cancellations.close()
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
                call.finish(head, body)
            return
        reply = self.wire.receive(message)
        if reply is not None:
            if reply.head.accepts_batches:
                self._batches = self._owner.batching
            reply.call.finish(reply.head, reply.body)

    def connected(self) -> None:
        """Send what has been waiting."""
        self.state = ConnectivityState.READY
        self.flush()
        self._owner.ready()

    def disconnected(self) -> None:
        """End the calls that were on their way; those that were not go elsewhere."""
        self.state = ConnectivityState.CONNECTING
        self._batches = self._blocked = False
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

    def unreachable(self, reason: str) -> None:
        """Connecting failed."""
        self.state = ConnectivityState.TRANSIENT_FAILURE
        self.reason = f"{self.address}: {reason}"
        self._owner.not_ready()

    def closed(self) -> None:
        """The factory was shut down."""
        self.state = ConnectivityState.SHUTDOWN
        self._owner.closed()
