"""The connection to one endpoint, and the calls on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from txzmq._ordered_set import OrderedSet
from txzmq._timer import ResettableTimer
from txzmq.rpc._client.call import Call
from txzmq.rpc._client.control import ControlClient, WaitsForReply
from txzmq.rpc._client.health_check import HealthCheck, HealthCheckOwner
from txzmq.rpc._client.keepalive import Keepalive, Probe
from txzmq.rpc._client.stream_control import StreamControl
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._core.transport import ClientTransport, Network, SendResult
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.watching import ConnectivityState

__all__ = ["Subchannel", "SubchannelOwner"]


class SubchannelOwner(Protocol):
    """What a subchannel needs of its pool, and what it tells it.

    :ivar message_size: bytes that a response may have.
    :ivar batching: whether to send several requests as one message where the server understands it.
    :ivar user_agent: what servers are told that the client is.
    :ivar random: for the jitter of delays.
    """

    message_size: int
    batching: bool
    user_agent: str
    liveness: Liveness
    random: Random

    def start(self, call: Call) -> None:
        """A call was not sent: find another connection for it, or fail it."""
        ...

    def changed(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A subchannel has another state."""
        ...

    def left(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A subchannel that was asked to :meth:`Subchannel.leave` has closed."""
        ...

    def renew(self, subchannel: Subchannel) -> bool:
        """The server asks for another connection in place of a subchannel's.

        :return: False where calls are not given to it: not yet, or not any more.
        """
        ...

    def count(self, event: str) -> None:
        """Count an event."""
        ...

    def refused(self, address: str, reason: str) -> None:
        """A server has refused a connection, or is not the one that it should be."""
        ...

    def publisher_for(self, publisher: str, server: str, /) -> str:
        """Where to subscribe to a publisher that *server* has told.

        :raises ValueError: if the channel must not connect to it.
        """
        ...

    def noticed(self, event: str, subchannel: Subchannel) -> None:
        """The subchannel's wire has counted an event."""
        ...

    def closed(self) -> None:
        """A socket was closed with its factory."""
        ...

    def stream_ended(self, subchannel: Subchannel, outcome: BaseException) -> None:
        """A stream has ended on the subchannel, or could not be opened."""
        ...

    def health_check(self, subchannel: HealthCheckOwner) -> HealthCheck | None:
        """What watches the health of the subchannel's server; None if nothing does."""
        ...


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
_SHUTDOWN: Final = ConnectivityState.SHUTDOWN


class Subchannel:
    """The connection to one endpoint and the calls on it (a :class:`ClientHandler`).

    Calls are sent when the reactor's turn ends, or when there are enough of them. A connection that
    is lost, or of no use, is closed, and another one made after a backoff.

    :ivar address: of the endpoint.
    :ivar weight: how much of the load it should get, relative to others; see
        :class:`~txzmq.rpc.Endpoint`.
    :ivar reason: why the last attempt to connect failed; empty if it did not.
    :ivar messages: how many have arrived.
    """

    # More of them than CPython keeps fast in an instance without.
    __slots__ = (
        "_accepted",
        "_aged",
        "_backoff",
        "_blocked",
        "_clock",
        "_connected_at",
        "_control",
        "_draining",
        "_drops",
        "_ejected",
        "_has_introduced",
        "_has_left",
        "_health",
        "_introduces",
        "_is_up",
        "_keepalive",
        "_leaving",
        "_messages_at_connect",
        "_moved",
        "_network",
        "_noticed",
        "_outgoing",
        "_owner",
        "_probe",
        "_reconnect",
        "_retired",
        "_shut_down",
        "_stream_control",
        "_to_cancel",
        "_transport",
        "accepts_batches",
        "address",
        "is_refused",
        "messages",
        "reason",
        "state",
        "weight",
        "wire",
    )

    def __init__(self, owner: SubchannelOwner, network: Network, address: str) -> None:
        """Begin to connect.

        :raises Exception: if the address is none.
        """
        self.address = address
        self.weight = 1
        self.state = ConnectivityState.IDLE
        self.reason = ""
        #: Whether that is that the two sides do not trust each other.
        self.is_refused = False
        self.messages = 0
        # Whether calls can be sent: it is connected, not doubted, and the server takes them. What
        # the server says of its health says only whether they should.
        self._is_up = False
        self._owner = owner
        self._network = network
        self._clock = network.clock
        self.wire: ClientWire[WaitsForReply] = ClientWire()
        self._control = ControlClient(self, self.wire, self._clock)
        # What the wire has dropped that the owner knows of.
        self._noticed: Counter[str] = Counter()
        self._drops = 0
        # Calls that are to be sent, oldest first.
        self._outgoing: OrderedSet[Call] = OrderedSet()
        # Whether they wait for room in the socket, not for the turn's end.
        self._blocked = False
        # The ids of calls that the server is to be told of as cancelled.
        self._to_cancel: list[bytes] = []
        #: Whether the server has said that it understands batches.
        self.accepts_batches = False
        # Whether the next request says something of the client, and whether one has.
        self._introduces = True
        self._has_introduced = False
        # Whether it is to close when its calls have ended.
        self._leaving = False
        # Whether another connection has taken its place, which has its streams, if they are with
        # this one.
        self._retired = False
        self._moved: StreamControl | None = None
        # Whether the server has asked for another connection in its place.
        self._aged = False
        # Whether the server has said that it takes no more calls on this connection, and whether it
        # was told that it need not wait.
        self._draining = False
        self._has_left = False
        # Whether that is the last that was heard of it, and no other has taken its place.
        self._shut_down = False
        liveness = owner.liveness
        self._backoff = Backoff(liveness.first_backoff, liveness.max_backoff, owner.random)
        self._reconnect = ResettableTimer(self._clock, self._try_again)
        self._keepalive = Keepalive(self._clock, liveness, self)
        self._probe = Probe(self._clock, liveness, self)
        # How far an attempt has come that somebody has accepted; empty before that, and behind it.
        self._accepted = ""
        # When it began to connect, or connected last, and how much had arrived by then.
        self._connected_at = 0.0
        self._messages_at_connect = 0
        # Made when the first stream is opened on it.
        self._stream_control: StreamControl | None = None
        self._transport: ClientTransport = _NO_TRANSPORT
        self._health = owner.health_check(self)
        # Why it gets no calls though it is up; empty if it may.
        self._ejected = ""
        self._connect()
        self.state = _CONNECTING

    def __repr__(self) -> str:
        return f"<Subchannel {self.address} {self.state.name}>"

    # -- what others ask of it ---------------------------------------------------------------

    @property
    def load(self) -> int:
        """How many calls are in flight."""
        return len(self.wire) + len(self._outgoing)

    @property
    def waits(self) -> bool:
        """Whether calls are in flight, control calls aside, or streams open."""
        streams = self._stream_control
        if self._retired and self.wire:
            return True  # whatever it is: nobody asks again by another connection
        return (
            bool(self._outgoing)
            or (streams is not None and streams.is_busy)
            or any(isinstance(waiting, Call) for waiting in self.wire)
        )

    @property
    def stream_control(self) -> StreamControl:
        """The streams that are opened on this connection."""
        if self._stream_control is None:
            self._stream_control = StreamControl(
                self, self._control, self._network, self._owner.message_size
            )
        return self._stream_control

    @property
    def obstacle(self) -> str:
        """Why it cannot be used now; empty if it can."""
        if self.state is _READY:
            full = f"{self.address}: the socket is full, as the server does not read fast enough"
            return full if self._blocked else ""
        if self.is_refused:
            return self.reason  # also while the next attempt is made
        if not self._accepted:
            if self.reason:
                return self.reason
            if self._probe.is_wanted:
                return f"{self.address}: calls ran out of time, and a ping is not answered yet"
        so_far = self._accepted or "nothing has answered yet"
        seconds = self._clock.seconds() - self._connected_at
        return f"{self.address}, {seconds:.3g} s after connecting began: {so_far}"

    def id_of(self, counter: int) -> bytes:
        """The id of a request that was sent on it."""
        return self.wire.id_of(counter)

    def set_weight(self, weight: int) -> None:
        """Set how much of the load it should get."""
        self.weight = weight

    # -- calls -------------------------------------------------------------------------------

    def send(self, call: Call) -> None:
        """Send a call when the turn ends, there are enough, or the socket has room."""
        if not self._outgoing and not self._to_cancel:
            self._transport.flush_soon()
        self._outgoing[call] = None
        # Only now: what it leads to goes behind the call.
        call.picked(self)
        if len(self._outgoing) >= EARLY_BATCH and self._may_flush_early:
            self._blocked = not self._send_some()

    @property
    def _may_flush_early(self) -> bool:
        return self.accepts_batches and not self._blocked and self._is_up

    def withdraw(self, call: Call) -> None:
        """A call's time is up: do not send it, or do not wait for its reply."""
        sent = call.counter
        self._forget(call)
        if sent and self._is_up and self._probe.call_timed_out():
            self._owner.count("suspected")
            self._is_up = False
            self._change(_CONNECTING, self.reason)
            # Read anew: who was told of the change may have closed the channel.
            if self._transport is not _NO_TRANSPORT:
                self._probe.start()

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
            self._outgoing.discard(call)
        if self._leaving or self._draining:
            self._transport.flush_soon()

    # -- sending -----------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Have :meth:`flush` called when the turn ends."""
        self._transport.flush_soon()

    def flush(self) -> None:
        """The reactor's turn ends, or the socket has room: send what there is."""
        if not self._is_up:
            if self._draining:
                self._flush_while_draining()
            return  # becoming ready sends, or a loss finds another connection
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
        if self._stream_control is not None:
            self._stream_control.send()
        elif self._moved is not None:
            # What goes by this connection still. Not at once: the other one may have calls that are
            # to be sent before what it has of their streams.
            self._moved.flush_soon()
        if self._keepalive.idle and (self.wire or self.waits):
            self._keepalive.start()
        self._leave_if_idle()

    def _send_some(self) -> bool:
        """Send the oldest calls with one message, if the socket has room."""
        if len(self._outgoing) == 1 or not self.accepts_batches:
            return self._send_first()
        requests = self._oldest()
        if len(requests) == 1:
            return self._send_first()
        counter = self.wire.latest
        message = self.wire.batch(requests)
        if self._transport.send_message(message) is not SendResult.SENT:
            for number in range(counter, self.wire.latest):
                self.wire.forget(self.wire.id_of(number + 1))
            return False
        for call, _, _ in requests:
            counter += 1
            call.sent(counter)
            del self._outgoing[call]
        return True

    def _send_first(self) -> bool:
        """Send the oldest call by itself, if the socket has room."""
        call = self._outgoing.first()
        head = call.head
        if self._introduces:
            head = self._introduced(head)
        wire = self.wire
        message = wire.request(call, encode_request(head), call.body)
        counter = wire.latest
        if self._transport.send_message(message) is not SendResult.SENT:
            wire.forget(wire.id_of(counter))
            return False
        call.sent(counter)
        del self._outgoing[call]
        if self._introduces:
            self._has_introduced = True
            self._introduces = self._owner.batching and not self.accepts_batches
        return True

    def _introduced(self, head: RequestHead) -> RequestHead:
        """The header of a request that says what the client is, or that it understands batches."""
        owner = self._owner
        return head._replace(
            accepts_batches=owner.batching and not self.accepts_batches,
            user_agent="" if self._has_introduced else owner.user_agent,
        )

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
            if length > MAX_BATCHED_SIZE or size > MAX_BATCH_SIZE or len(requests) == MAX_BATCH:
                break
        return requests

    def _send_cancellations(self) -> None:
        # The newest first: they may wait on the server still, for what the older ones hold.
        request_ids, self._to_cancel = self._to_cancel[::-1], []
        self._control.cancel(request_ids)

    def send_message(self, message: list[bytes]) -> bool:
        """Send a control call, if the socket has room; whether it has."""
        return self._transport.send_message(message) is SendResult.SENT

    # -- what streams need -------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether control calls can be made."""
        return self._is_up or self._draining

    @property
    def may_send_early(self) -> bool:
        """Whether control calls may be made before the turn ends: nothing has to go before them."""
        return self._may_flush_early and not self._outgoing

    def publisher_for(self, publisher: str) -> str:
        """Where to subscribe to the publisher that the server has told.

        :raises ValueError: if the channel must not connect to it.
        """
        return self._owner.publisher_for(publisher, self.address)

    def count(self, event: str) -> None:
        """Count an event of a stream."""
        self._owner.count(event)

    def stream_ended(self, outcome: BaseException) -> None:
        """A stream has ended here, or could not be opened."""
        self._owner.stream_ended(self, outcome)

    def heard(self) -> None:
        """The server has published something: it lives."""
        self.messages += 1

    # -- the end -----------------------------------------------------------------------------

    def leave(self) -> None:
        """Close when the calls have ended; none are given to it any more."""
        self._leaving = True
        if self._health is not None:
            self._health.stop()
        if self.waits:
            self._transport.flush_soon()
        else:
            self._owner.left(self, self.close())

    def stay(self) -> None:
        """Do not leave after all."""
        self._leaving = self._aged = False
        if self._is_up:
            self._show()

    def hand_over(self, successor: Subchannel) -> None:
        """Give the streams to another connection, which reaches the same server."""
        if self._stream_control is not None:
            self._moved, self._stream_control = self._stream_control, None
            successor.adopt(self._moved)

    def is_in_use(self) -> None:
        """Calls are given to it from now on: what it was told before counts now."""
        if self.wire.reconnect:
            self._renew()

    def retire(self) -> None:
        """Another connection has taken its place: close when all has been answered."""
        self._leaving = self._retired = True
        if self._health is not None:
            self._health.stop()
        self._pass_on()
        self._transport.flush_soon()

    def adopt(self, streams: StreamControl) -> None:
        """Take over the streams of a connection whose place this one takes."""
        own, health = self._stream_control, self._health
        if own is not None and health is not None:
            health.stop()  # its stream is the only one yet; it is opened anew among the others
            own.say_goodbye()
            own.close()
        self._stream_control = streams
        streams.move(self, self._control)
        if own is not None and health is not None:
            health.start()

    @property
    def has_streams(self) -> bool:
        """Whether streams were opened on it."""
        return self._stream_control is not None

    def ask_epoch(self, answered: Callable[[bytes], None]) -> bool:
        """Ask which server this is; whether there was room to.

        :param answered: called with the epoch of the server; empty if it does not say so.
        """
        return self._control.ask_epoch(answered)

    def _leave_if_idle(self) -> None:
        if self._leaving and not self.waits:
            self._owner.left(self, self.close())

    def close(self) -> ConnectivityState:
        """Drop the connection; :meth:`calls` has those that are left.

        :return: the state until now.
        """
        if self._health is not None:
            self._health.close()
        if self._stream_control is not None:
            self._stream_control.say_goodbye()
        previous, self.state = self.state, _SHUTDOWN
        self._draining = self._is_up = False
        self._to_cancel.clear()
        self._control.close()
        self._keepalive.stop()
        self._probe.stop()
        self._reconnect.stop()
        transport, self._transport = self._transport, _NO_TRANSPORT
        transport.close()
        if self._stream_control is not None:
            self._stream_control.close()
        if self._moved is not None:
            self._moved.let_go_of(self._control)
            self._moved = None
        return previous

    def calls(self) -> list[WaitsForReply]:
        """Take all calls off this connection."""
        calls = [*self.wire.forget_all(), *self._outgoing]
        self._outgoing.clear()
        return calls

    # -- what the connection tells -----------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        """Replies end their calls."""
        self.messages += 1
        if self.wire.is_batch(message):
            self.accepts_batches = True
            for call, head, body in self.wire.receive_batch(message):
                if head.draining:
                    self._told(head)  # first: a call that was refused is to go elsewhere
                call.finish(head, body)
        else:
            reply = self.wire.receive(message)
            if reply is not None:
                if reply.head.accepts_batches:
                    self.accepts_batches = self._owner.batching
                if reply.head.draining:
                    self._told(reply.head)
                reply.call.finish(reply.head, reply.body)
        if self.wire.draining:
            self._drain()
        elif self.wire.reconnect:
            self._renew()
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
        if self._probe.is_wanted:
            self._probe.start()
        else:
            self._ready()

    def _ready(self) -> None:
        self._shut_down = self.is_refused = False
        self._is_up = True
        self._show()
        if self._stream_control is not None:
            self._stream_control.ready()
        self.flush()

    def _show(self) -> None:
        """It is up: tell, unless its server says that it does not serve."""
        if self._health is not None and not self._leaving:
            self._health.start()
        self.health_changed()

    def health_changed(self) -> None:
        """The server has said how it does, or its calls have."""
        if not self._is_up:
            return
        if self._ejected:
            self._change(_FAILED, self._ejected)
        elif self._health is None or self._leaving:
            self._change(_READY, "")
        else:
            self._change(self._health.state, self._health.reason)

    def eject(self, why: str) -> None:
        """Give it no calls for a while; those that it has go on."""
        self._ejected = f"{self.address}: {why}"
        self.health_changed()

    def readmit(self) -> None:
        """Give it calls again."""
        self._ejected = ""
        self.health_changed()

    def disconnected(self) -> None:
        """Fail the calls that were on their way; those that were not sent go elsewhere."""
        self._judge()
        reason = f"the connection to {self.address} was lost"
        if self._shut_down:
            reason += ", as the server is shutting down"
        self._start_anew(_FAILED if self._backoff.failures else _CONNECTING, reason)

    def _judge(self) -> None:
        """Begin the backoff anew if the connection was of use.

        A server that accepts connections and closes them at once is tried ever less often.
        """
        lived = self._clock.seconds() - self._connected_at
        of_use = self.messages != self._messages_at_connect
        if of_use or lived >= self._owner.liveness.max_backoff:
            self._backoff.reset()

    def accepted(self, what: str) -> None:
        """An attempt to connect has come so far."""
        self._accepted = what

    def unreachable(self, reason: str) -> None:
        """An attempt to connect failed; the socket tries again by itself."""
        self.is_refused = False
        self._begun()
        self._change(_FAILED, self._explain(reason))

    def failed(self, reason: str) -> None:
        """Something answers that is no such server."""
        self._start_anew(_FAILED, self._explain(reason))

    def refused(self, reason: str, *, is_last: bool) -> None:
        """The server does not let this client in, or is not the one that it should be."""
        self._owner.refused(self.address, reason)
        if is_last:
            self._start_anew(_FAILED, f"{self.address}: {reason}", is_refused=True)
        else:
            # At once: those who wait for the connection wait for the server's other key, too.
            self._start_anew(_CONNECTING, f"{self.address}: {reason}")
            self._reconnect.start(0)

    def _explain(self, reason: str) -> str:
        """Why the endpoint cannot be reached: what its server has said last counts for more."""
        if self._shut_down:
            reason = f"the server is shutting down, and none has taken its place ({reason})"
        return f"{self.address}: {reason}"

    def closed(self) -> None:
        """The socket was closed with its factory."""
        self.close()
        self._owner.closed()

    # -- connecting --------------------------------------------------------------------------

    def _change(self, state: ConnectivityState, reason: str) -> None:
        self.reason = reason
        previous = self.state
        if state is not previous:
            self.state = state
            self._owner.changed(self, previous)

    def _begun(self) -> None:
        self._accepted = ""
        self._connected_at = self._clock.seconds()
        self._messages_at_connect = self.messages

    def _connect(self) -> None:
        self._begun()
        options = {"MAXMSGSIZE": max(self._owner.message_size, MESSAGE_SIZE) + 65_536}
        # Last: it may tell of events at once.
        self._transport = self._network.connect(self.address, self, options)

    def _start_anew(
        self, state: ConnectivityState, reason: str, *, is_refused: bool = False
    ) -> None:
        """Drop the connection and make another one after a while."""
        self.is_refused = is_refused
        transport, self._transport = self._transport, _NO_TRANSPORT
        transport.close()
        self._accepted = ""
        self._is_up = False
        if self._health is not None:
            self._health.stop()
        self._keepalive.stop()
        self._probe.stop()
        self.accepts_batches = self._blocked = self._has_introduced = False
        self._introduces = True
        self._drained()
        self._to_cancel.clear()  # the server has noticed, or will
        if self._leaving:
            self._reconnect.stop()
        else:
            self._reconnect.start(self._backoff.next())
        self._change(state, reason)
        if self._stream_control is not None and self._leaving:
            self._stream_control.give_up(reason)
        elif self._stream_control is not None:
            self._stream_control.lost(reason)
        for waiting in self.wire.forget_all():
            waiting.fail(Unavailable(f"{reason}; the call may have been executed"))
        # Only now: what the failures led to may have ended some of these.
        self._pass_on()
        if self._leaving and self.state is not _SHUTDOWN:
            self._owner.left(self, self.close())

    def _pass_on(self) -> None:
        """Find another connection for the calls that were not sent."""
        now = self._clock.seconds()
        for call in list(self._outgoing):
            if call in self._outgoing:  # not ended by what the others' failures led to
                del self._outgoing[call]
                call.has_waited(now)
                self._owner.start(call)

    def _try_again(self) -> None:
        self._owner.count("reconnect")
        try:
            self._connect()
        except Exception as error:  # noqa: BLE001 - whatever a socket lacks, it may have later
            self._start_anew(_FAILED, f"{self.address}: {error}")

    # -- a server that shuts down, or wants another connection -------------------------------

    def _told(self, head: ResponseHead) -> None:
        """A reply says that the server takes no more calls on this connection."""
        if head.reconnect:
            self._renew()
        else:
            self._drain()

    def _renew(self) -> None:
        """Have another connection made; until it is there, all goes on with this one."""
        if not (self._aged or self._draining or self._retired) and self.state is not _SHUTDOWN:
            self._aged = True  # before: what follows may tell it of its end
            self._aged = self._owner.renew(self)

    def _drain(self) -> None:
        """Take no more calls until the server has gone; those that it has go on."""
        if self._draining or self.state is _SHUTDOWN:
            return
        self._draining = self._shut_down = True
        self._is_up = False
        if self._health is not None:
            self._health.stop()
        if self._probe.is_wanted:  # the server lives, and that it drains says enough
            self._probe.dismiss()
        self._transport.flush_soon()
        reason = f"{self.address}: the server is shutting down"
        self._change(_CONNECTING if self.state is _READY else self.state, reason)
        self._pass_on()

    def _flush_while_draining(self) -> None:
        """Cancel what is to be cancelled; when no call is left, say that the server may go."""
        if self._to_cancel:
            self._send_cancellations()
        if self._stream_control is not None:
            self._stream_control.send()
        if not self.waits and not self._has_left:
            self._has_left = self._control.leave()  # or the next flush tries again
        self._leave_if_idle()

    def _drained(self) -> None:
        """The server has gone; another one may come."""
        self._draining = self._has_left = self._aged = False
        self.wire.forget_notice()

    # -- signs of life -----------------------------------------------------------------------

    def ping(self) -> None:
        """Ask for a sign of life; one that is not answered has no consequence by itself."""
        self._owner.count("ping")
        self._control.ping()

    def stopped_answering(self) -> None:
        """The server has been silent for too long while calls waited."""
        self._give_up(f"nothing was received for {self._owner.liveness.dead_after:g} s")

    @property
    def waits_for_probe(self) -> bool:
        """Whether the answer to a probe makes it ready."""
        return not self._is_up and self.state is not _SHUTDOWN

    def send_probe(self, answered: Callable[[], None]) -> None:
        """Send a ping, and call *answered* with the answer."""
        self._control.probe(answered)

    def probe_succeeded(self) -> None:
        """The server has answered: it gets calls."""
        self._ready()

    def probe_failed(self) -> None:
        """The server has not answered a probe."""
        self._give_up(f"a ping was not answered for {self._owner.liveness.probe_timeout:g} s")

    def _give_up(self, what: str) -> None:
        self._judge()
        self._owner.count("stopped answering")
        self._probe.want()
        self._start_anew(_FAILED, f"the server at {self.address} stopped answering: {what}")
