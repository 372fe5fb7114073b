"""The connection to one endpoint, and the calls on it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from txzmq._reactor import Timer
from txzmq.rpc._client.call import Call
from txzmq.rpc._client.keepalive import Heartbeat
from txzmq.rpc._client.stream_control import Hub
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._core.transport import ClientTransport, Network, SendResult
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.rpc.watching import ConnectivityState

__all__ = ["Subchannel", "SubchannelOwner"]

#: Seconds after which a Cancel, a Ping or a Leave is forgotten that the server does not answer.
_CONTROL_TIMEOUT: Final = 30


def _control_header(method: str) -> bytes:
    path = f"/txzmq.rpc.v1.Control/{method}"
    return encode_request(RequestHead(path, _CONTROL_TIMEOUT * 1_000_000, ()))


_CANCEL_HEADER: Final = _control_header("Cancel")
_PING_HEADER: Final = _control_header("Ping")
_LEAVE_HEADER: Final = _control_header("Leave")


class SubchannelOwner(Protocol):
    """What a connection tells its channel."""

    message_size: int
    #: Whether to send several requests as one message where the server understands it.
    batching: bool
    liveness: Liveness
    random: Random

    def start(self, call: Call) -> None:
        """A call was not sent: find another way for it, or fail it."""
        ...

    def changed(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A connection's state is another now."""
        ...

    def left(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A connection that was asked to :meth:`Subchannel.leave` has closed."""
        ...

    def count(self, event: str) -> None:
        """Something happened that is worth counting."""
        ...

    def noticed(self, event: str, subchannel: Subchannel) -> None:
        """The wire has counted something."""
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


class _ControlCall:
    """A call of the control service; nothing hangs on how it ends, but it must end."""

    __slots__ = ("answered", "deadlines", "request_id", "tick")

    def __init__(
        self,
        deadlines: Deadlines[_ControlCall],
        answered: Callable[[ResponseHead | None, bytes], None] | None,
    ) -> None:
        self.deadlines = deadlines
        #: Told of the reply, or that there will be none.
        self.answered = answered
        self.request_id = b""
        self.tick = 0

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The server has done it."""
        self.deadlines.remove(self, self.tick)
        if self.answered is not None:
            self.answered(head, body)

    def fail(self, error: Exception) -> None:
        """The connection is gone, and what hung on it."""
        self.deadlines.remove(self, self.tick)
        if self.answered is not None:
            self.answered(None, b"")


class _Probe:
    """A ping on whose answer it hangs whether calls are sent; any answer is a sign of life."""

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The server lives."""
        self._answered()

    def fail(self, error: Exception) -> None:
        """The connection is gone."""


class _NoTransport:
    """Stands where there is no connection."""

    def send_message(self, message: list[bytes]) -> SendResult:
        return SendResult.BLOCKED

    def flush_soon(self) -> None:
        pass

    def close(self) -> None:
        pass


_NO_TRANSPORT: Final = _NoTransport()
_CONNECTING: Final = ConnectivityState.CONNECTING
_READY: Final = ConnectivityState.READY
_FAILED: Final = ConnectivityState.TRANSIENT_FAILURE


class Subchannel:
    """The connection to one endpoint and the calls on it (a :class:`ClientHandler`).

    Calls are sent when the reactor's turn ends, or when there are enough of them. What was lost or
    is of no use is closed and made anew, after a while.

    :ivar weight: how much of the load it should get, relative to others; see
        :class:`~txzmq.rpc.Endpoint`.
    :ivar reason: why the last attempt failed; empty if none did.
    :ivar messages: how many have arrived.
    """

    def __init__(self, owner: SubchannelOwner, network: Network, address: str) -> None:
        """Begin to connect.

        :raises Exception: if the address is none.
        """
        self.address = address
        self.weight = 1
        self.state = ConnectivityState.IDLE
        self.reason = ""
        self.messages = 0
        self._owner = owner
        self._network = network
        self._clock = network.clock
        self.wire: ClientWire[_Waiting] = ClientWire()
        # What it has dropped that the owner knows of.
        self._noticed: Counter[str] = Counter()
        self._drops = 0
        # Calls that are to be sent, oldest first. An ordered set; not a dict, which takes ever
        # longer to find its first item when that is always the one to go.
        self._outgoing: OrderedDict[Call, None] = OrderedDict()
        # Whether they wait for room in the socket, not for the turn's end.
        self._blocked = False
        self._to_cancel: list[bytes] = []
        # One more timer than the channel's own, and only while a Cancel or the like waits for its
        # reply.
        self._control_calls: Deadlines[_ControlCall] = Deadlines(self._clock, self._unanswered)
        # Whether the server has said that it understands batches.
        self._batches = False
        # Whether it is to close when its calls have ended.
        self._leaving = False
        # Whether the server has said that it takes no more calls on this connection.
        self._draining = False
        # Whether the server was told that it need not wait.
        self._has_left = False
        liveness = owner.liveness
        self._backoff = Backoff(liveness.first_backoff, liveness.max_backoff, owner.random)
        self._heartbeat = Heartbeat(self._clock, liveness, self)
        # When it connected last, and how much had arrived by then.
        self._connected_at = 0.0
        self._messages_at_connect = 0
        # Whether the server has to answer a ping before it gets calls.
        self._doubted = False
        # Calls that ran out of time since something arrived, and how much had then.
        self._timeouts = 0
        self._messages_then = 0
        # The streams that were opened on it, if there ever were any.
        self._hub: Hub | None = None
        # Until the next attempt to connect, or the end of a probe's patience.
        self._timer: Timer | None = None
        self._transport: ClientTransport = _NO_TRANSPORT
        self._connect()
        self.state = _CONNECTING

    def __repr__(self) -> str:
        return f"<Subchannel {self.address} {self.state.name}>"

    # -- calls -------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """How many calls are in flight."""
        return len(self.wire) + len(self._outgoing)

    @property
    def waits(self) -> bool:
        """Whether calls are in flight, those of the control service aside, or streams open."""
        return (
            bool(self._outgoing)
            or (self._hub is not None and self._hub.is_busy)
            or any(isinstance(waiting, Call) for waiting in self.wire)
        )

    def send(self, call: Call) -> None:
        """Send a call when the turn ends, there are enough, or the socket has room."""
        if not self._outgoing and not self._to_cancel:
            self._transport.flush_soon()
        self._outgoing[call] = None
        # Only now: what it leads to goes behind the call.
        call.carrier = self
        if len(self._outgoing) >= EARLY_BATCH and self._may_send_early:
            self._blocked = not self._send_some()

    @property
    def _may_send_early(self) -> bool:
        return self._batches and not self._blocked and self.state is _READY

    def withdraw(self, call: Call) -> None:
        """A call's time is up: do not send it, or do not wait for its reply."""
        sent = call.counter
        self._forget(call)
        if sent and self.state is _READY:
            if self.messages != self._messages_then:
                self._messages_then = self.messages
                self._timeouts = 0
            self._timeouts += 1
            if self._timeouts >= self._owner.liveness.suspect_after:
                self._timeouts = 0
                self._owner.count("suspected")
                self._doubted = True
                self._change(_CONNECTING, self.reason)
                # Read anew: who was told of the change may have closed the channel.
                if self._transport is not _NO_TRANSPORT:
                    self._probe()

    def cancel(self, call: Call) -> None:
        """Do not send it, or tell the server; all of one turn go in one message."""
        self._forget(call)
        if call.counter and self._transport is not _NO_TRANSPORT:  # or the server has noticed
            if not self._outgoing and not self._to_cancel:
                self._transport.flush_soon()
            self._to_cancel.append(self.wire.id_of(call.counter))

    def _forget(self, call: Call) -> None:
        if call.counter:
            self.wire.forget(self.wire.id_of(call.counter))
        else:
            self._outgoing.pop(call, None)
        if self._leaving or self._draining:
            self._transport.flush_soon()

    def flush(self) -> None:
        """The reactor's turn ends, or the socket has room: send what there is."""
        if self.state is not _READY:
            if self._draining:
                self._flush_the_last()
            return  # becoming ready sends, or a loss finds another way
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
        if self._hub is not None:
            self._hub.send()
        if self._heartbeat.idle and (self.wire or self.waits):
            self._heartbeat.start()
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._leaving and not self.waits:
            self._owner.left(self, self.close())

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
        head, header = None, b""
        for call in self._outgoing:
            if call.head != head:  # most calls of one turn have the same
                head = call.head
                header = encode_request(head)
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
        # The newest first: they may wait on the server still, for what the older ones hold.
        request_ids, self._to_cancel = self._to_cancel[::-1], []
        for first in range(0, len(request_ids), MAX_CANCELLED):
            some = request_ids[first : first + MAX_CANCELLED]
            body = CancelRequest(request_ids=some).SerializeToString()
            self._call_control(_CANCEL_HEADER, body)  # or the calls' deadlines will end them

    def _call_control(
        self,
        header: bytes,
        body: bytes = b"",
        answered: Callable[[ResponseHead | None, bytes], None] | None = None,
    ) -> bool:
        """Make a call of the control service, if the socket has room; whether it has."""
        call = _ControlCall(self._control_calls, answered)
        message = self.wire.request(call, header, body)
        if self._transport.send_message(message) is not SendResult.SENT:
            self.wire.forget(message[0])
            return False
        call.request_id = message[0]
        call.tick = self._control_calls.set(call, self._clock.seconds() + _CONTROL_TIMEOUT)
        return True

    def _unanswered(self, call: _ControlCall) -> None:
        if self.wire.forget(call.request_id) is not None and call.answered is not None:
            call.answered(None, b"")

    # -- streams -----------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The streams that were opened on this connection."""
        if self._hub is None:
            self._hub = Hub(self, self._network, self._owner.message_size)
        return self._hub

    @property
    def is_ready(self) -> bool:
        """Whether control calls can be made."""
        return self.state is _READY or self._draining

    def count(self, event: str) -> None:
        """Something happened to a stream."""
        self._owner.count(event)

    @property
    def may_send_early(self) -> bool:
        """Whether control calls may be made before the turn ends: nothing has to go before them."""
        return self._may_send_early and not self._outgoing

    def flush_soon(self) -> None:
        """Have the hub send what it has when the turn ends."""
        self._transport.flush_soon()

    def call_streams(
        self,
        header: bytes,
        body: bytes,
        answered: Callable[[ResponseHead | None, bytes], None] | None,
    ) -> bool:
        """Make a call of the control service for streams, if the socket has room; whether it has.

        :param answered: told of the reply; of None, if there will be none. None if no reply is
            wanted.
        """
        if answered is not None:
            return self._call_control(header, body, answered)
        return self.call_silently(header, [body])

    def call_silently(self, header: bytes, bodies: list[bytes]) -> bool:
        """Make calls of one method of the control service to which there are no replies.

        :return: whether the socket had room for all.
        """
        if len(bodies) == 1 or not self._batches:
            return all(self._call_nobody(header, [body]) for body in bodies)
        some: list[bytes] = []
        size = 0
        for body in bodies:
            some.append(body)
            size += len(body)
            if len(some) == MAX_BATCH or size > MAX_BATCH_SIZE:
                if not self._call_nobody(header, some):
                    return False
                some, size = [], 0
        return not some or self._call_nobody(header, some)

    def _call_nobody(self, header: bytes, bodies: list[bytes]) -> bool:
        message = self.wire.unanswered(header, bodies)
        return self._transport.send_message(message) is SendResult.SENT

    def leave(self) -> None:
        """Close when the calls have ended; none are given to it any more."""
        self._leaving = True
        if self.waits:
            self._transport.flush_soon()
        else:
            self._owner.left(self, self.close())

    def stay(self) -> None:
        """Do not leave after all."""
        self._leaving = False

    def close(self) -> ConnectivityState:
        """Drop the connection; :meth:`calls` has those that are left.

        :return: the state until now.
        """
        if self._hub is not None:
            self._hub.say_goodbye()
        previous, self.state = self.state, ConnectivityState.SHUTDOWN
        self._draining = False
        self._to_cancel.clear()
        self._control_calls.close()
        self._heartbeat.stop()
        self._stop_timer()
        transport, self._transport = self._transport, _NO_TRANSPORT
        transport.close()
        if self._hub is not None:
            self._hub.close()
        return previous

    def calls(self) -> list[_Waiting]:
        """Take all calls off this connection."""
        calls = [*self.wire.forget_all(), *self._outgoing]
        self._outgoing.clear()
        return calls

    # -- what the connection tells -----------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        """Replies end their calls."""
        self.messages += 1
        if self.wire.is_batch(message):
            self._batches = True
            for call, head, body in self.wire.receive_batch(message):
                if head.draining:
                    self._drain()  # first: a call that was refused is to go elsewhere
                call.finish(head, body)
        else:
            reply = self.wire.receive(message)
            if reply is not None:
                if reply.head.accepts_batches:
                    self._batches = self._owner.batching
                if reply.head.draining:
                    self._drain()
                reply.call.finish(reply.head, reply.body)
        if self.wire.draining:
            self._drain()
        if self._leaving or self._draining:
            self._transport.flush_soon()
        if self.wire.drops != self._drops:
            self._notice_drops()

    def _notice_drops(self) -> None:
        self._drops = self.wire.drops
        new = self.wire.dropped - self._noticed
        self._noticed += new
        for event in new:
            self._owner.noticed(event, self)

    def connected(self) -> None:
        """Send what has been waiting, unless the server has to give a sign of life first."""
        self._begun()
        if self._doubted:
            self._probe()
        else:
            self._ready()

    def _ready(self) -> None:
        self._change(_READY, "")
        if self._hub is not None:
            self._hub.ready()
        self.flush()

    def disconnected(self) -> None:
        """End the calls that were on their way; those that were not go elsewhere."""
        self._judge()
        reason = f"the connection to {self.address} was lost"
        self._start_anew(_FAILED if self._backoff.failures else _CONNECTING, reason)

    def _judge(self) -> None:
        """Let the backoff begin anew if the connection was of use.

        Who accepts and closes gets fewer and fewer of our visits.
        """
        lived = self._clock.seconds() - self._connected_at
        of_use = self.messages != self._messages_at_connect
        if of_use or lived >= self._owner.liveness.max_backoff:
            self._backoff.reset()

    def unreachable(self, reason: str) -> None:
        """Connecting failed; the connection tries again by itself."""
        self._change(_FAILED, f"{self.address}: {reason}")

    def failed(self, reason: str) -> None:
        """The connection is of no use."""
        self._start_anew(_FAILED, f"{self.address}: {reason}")

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self.close()
        self._owner.closed()

    # -- states ------------------------------------------------------------------------------

    def _change(self, state: ConnectivityState, reason: str) -> None:
        self.reason = reason
        previous = self.state
        if state is not previous:
            self.state = state
            self._owner.changed(self, previous)

    def _begun(self) -> None:
        self._connected_at = self._clock.seconds()
        self._messages_at_connect = self.messages

    def _connect(self) -> None:
        self._begun()
        # Last: it may tell of events at once.
        options = {"MAXMSGSIZE": max(self._owner.message_size, MESSAGE_SIZE) + 65_536}
        self._transport = self._network.connect(self.address, self, options)

    def _start_anew(self, state: ConnectivityState, reason: str) -> None:
        """Drop the connection and make another one after a while."""
        transport, self._transport = self._transport, _NO_TRANSPORT
        transport.close()
        self._heartbeat.stop()
        self._stop_timer()
        self._batches = self._blocked = False
        self._drained()
        self._timeouts = 0
        self._to_cancel.clear()  # the server has noticed, or will
        if not self._leaving:
            self._timer = self._clock.callLater(self._backoff.next(), self._try_again)
        self._change(state, reason)
        if self._hub is not None:
            self._hub.lost(reason)
        for waiting in self.wire.forget_all():
            waiting.fail(Unavailable(f"{reason}; the call may have been executed"))
        # Only now: what the failures led to may have ended some of these.
        self._pass_on()
        if self._leaving and self.state is not ConnectivityState.SHUTDOWN:
            self._owner.left(self, self.close())

    def _pass_on(self) -> None:
        """Find another way for the calls that were not sent."""
        now = self._clock.seconds()
        for call in list(self._outgoing):
            if call in self._outgoing:  # not ended by what the others' failures led to
                del self._outgoing[call]
                call.has_waited(now)
                self._owner.start(call)

    def _try_again(self) -> None:
        self._timer = None
        self._owner.count("reconnect")
        try:
            self._connect()
        except Exception as error:  # noqa: BLE001 - whatever a socket lacks, it may have later
            self._start_anew(_FAILED, f"{self.address}: {error}")

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # -- a server that shuts down ------------------------------------------------------------

    def _drain(self) -> None:
        """Take no more calls until the server has gone; those that it has go on."""
        if self._draining or self.state is ConnectivityState.SHUTDOWN:
            return
        self._draining = True
        if self._doubted:  # it lives, but is not to be used for that
            self._doubted = False
            self._stop_timer()
        self._transport.flush_soon()
        reason = f"{self.address}: the server shuts down"
        self._change(_CONNECTING if self.state is _READY else self.state, reason)
        self._pass_on()

    def _flush_the_last(self) -> None:
        """Cancel what is to be cancelled; when no call is left, say that the server may go."""
        if self._to_cancel:
            self._send_cancellations()
        if self._hub is not None:
            self._hub.send()
        if not self.waits and not self._has_left:
            self._has_left = self._call_control(_LEAVE_HEADER)  # or the next flush tries again
        self._leave_if_idle()

    def _drained(self) -> None:
        """The server has gone; another may come."""
        self._draining = self._has_left = self.wire.draining = False

    # -- signs of life -----------------------------------------------------------------------

    def ping(self) -> None:
        """Ask for a sign of life; nothing hangs on this one alone."""
        self._owner.count("ping")
        self._call_control(_PING_HEADER)

    def stopped_answering(self) -> None:
        """It has been silent for too long while calls waited."""
        self._give_up(f"nothing was received for {self._owner.liveness.dead_after:g} s")

    def _probe(self) -> None:
        self._stop_timer()
        patience = self._owner.liveness.probe_timeout
        self._timer = self._clock.callLater(patience, self._probe_failed)
        message = self.wire.request(_Probe(self._probe_answered), _PING_HEADER, b"")
        if self._transport.send_message(message) is not SendResult.SENT:
            self.wire.forget(message[0])

    def _probe_answered(self) -> None:
        if self._doubted and self.state not in (_READY, ConnectivityState.SHUTDOWN):
            self._stop_timer()
            self._doubted = False
            self._ready()

    def _probe_failed(self) -> None:
        self._timer = None
        self._give_up(f"a ping was not answered for {self._owner.liveness.probe_timeout:g} s")

    def _give_up(self, what: str) -> None:
        self._judge()
        self._owner.count("stopped answering")
        self._doubted = True
        self._start_anew(_FAILED, f"the server at {self.address} stopped answering: {what}")
