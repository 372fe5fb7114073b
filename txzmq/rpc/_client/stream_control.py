"""The streams of one connection to a server: what arrives for them, what the server is told.

Acknowledgements, replays and cancellations of streams of responses, and the items of streams of
requests, are control calls. Those of one turn of the reactor go together.
"""

from __future__ import annotations

from typing import Final, Protocol

from google.protobuf.message import DecodeError

from txzmq._ordered_set import OrderedSet
from txzmq._timer import ResettableTimer
from txzmq.rpc._client.control import Answered, ControlClient
from txzmq.rpc._client.subscriber import GroupError, Subscriber
from txzmq.rpc._core.transport import Network
from txzmq.rpc._wire.batches import EARLY_BATCH
from txzmq.rpc._wire.headers import OpenedStream, ResponseHead
from txzmq.rpc._wire.streams import (
    BadPublication,
    Publication,
    Receiver,
    decode,
    decode_bundle,
    from_message,
    topic_of,
)
from txzmq.rpc.errors import Code, FailedPrecondition, Internal, Unauthenticated, Unavailable
from txzmq.rpc.limits import MAX_CANCELLED
from txzmq.rpc.v1 import streams_pb2

__all__ = ["ControlledRequests", "ControlledStream", "StreamControl", "StreamControlOwner"]

#: Seconds after which a replay is asked for again, and an acknowledgement of requests.
_RETRY: Final = 1.0
#: Seconds for which a server keeps streams of a client that is not there, where it does not say.
_GRACE: Final = 5.0


class ControlledStream(Protocol):
    """A stream of responses, as far as its connection knows it.

    :ivar topic: under which it is published.
    :ivar bundle: under which it may be published with others; empty for none.
    :ivar shared: whether other calls get the same items under the same topic.
    :ivar receiver: puts in order what arrives.
    """

    topic: bytes
    bundle: bytes
    shared: bool
    receiver: Receiver

    @property
    def position(self) -> int:
        """The number of the first item that was not read; behind the end, when that is there."""
        ...

    @property
    def wants_replay(self) -> bool:
        """Whether something is missing, and there is room for it."""
        ...

    def arrived(self, publication: Publication) -> None:
        """Something was published, or replayed."""
        ...

    def gap(self, sequence: int) -> None:
        """The server does not have any more what comes before *sequence*."""
        ...

    def fail(self, error: Exception) -> None:
        """The server cannot go on with it."""
        ...

    def cancel(self, error: Exception | None = None) -> None:
        """End it with an error, and tell the server."""
        ...


class ControlledRequests(Protocol):
    """A stream of requests, as far as its connection knows it."""

    @property
    def is_unacknowledged(self) -> bool:
        """Whether something was sent and not acknowledged."""
        ...

    def ask(self) -> None:
        """Ask for an acknowledgement with what is sent next, if none is on its way."""
        ...

    def send(self, call: SendRequests) -> bool:
        """Send what is new, if there is room; whether there was."""
        ...

    def send_again(self, call: SendRequests) -> bool:
        """Send once more all that is not acknowledged, if there is room; whether there was."""
        ...


class SendRequests(Protocol):
    """Sends items of a stream of requests, as :meth:`ControlClient.send_requests`."""

    def __call__(self, body: bytes, answered: Answered | None, /) -> bool:
        """Send a serialised ``SendRequest``, if there is room; whether there is."""
        ...


class StreamControlOwner(Protocol):
    """The connection that the streams were opened on.

    :ivar address: of the server.
    """

    address: str

    def publisher_for(self, publisher: str) -> str:
        """Where to subscribe to the publisher that the server has told.

        :raises ValueError: if the channel must not connect to it.
        """
        ...

    @property
    def is_ready(self) -> bool:
        """Whether control calls can be made."""
        ...

    @property
    def may_send_early(self) -> bool:
        """Whether control calls may be made before the turn ends: nothing has to go before them."""
        ...

    def flush_soon(self) -> None:
        """Call :meth:`StreamControl.send` when the turn ends."""
        ...

    def flush(self) -> None:
        """Call :meth:`StreamControl.send` now, after what is to be sent before."""
        ...

    def heard(self) -> None:
        """The server has published something: it lives."""
        ...

    def count(self, event: str) -> None:
        """Count an event."""
        ...

    def stream_ended(self, outcome: BaseException) -> None:
        """A stream has ended on it, or could not be opened."""
        ...


class StreamControl:
    """The table of a connection's streams, and what is to be said of them (a SubscriberOwner)."""

    def __init__(
        self,
        owner: StreamControlOwner,
        control: ControlClient,
        network: Network,
        message_size: int,
    ) -> None:
        """:param message_size: bytes that an item may have."""
        self._owner = owner
        self._control = control
        self._subscriber = Subscriber(network, self, self._publisher_for, message_size)
        self._streams: dict[bytes, ControlledStream] = {}
        # Of shared streams, those that have a topic besides the one above.
        self._others: dict[bytes, list[ControlledStream]] = {}
        self._clock = network.clock
        self._epoch = b""
        self._grace = _GRACE
        # What the server is to be told: positions by topic, streams whose position has changed,
        # topics that nobody wants, streams that miss something.
        self._positions: dict[bytes, int] = {}
        self._unread: dict[ControlledStream, None] = {}
        self._to_cancel: list[bytes] = []
        self._to_replay: OrderedSet[ControlledStream] = OrderedSet()
        # Streams for which a replay was asked for, and has brought nothing yet, and from where.
        self._asked: dict[ControlledStream, int] = {}
        # Streams of which nothing has arrived since they were opened, or since the publisher's
        # connection was lost: their subscription may be lost, so that they ask for a replay.
        self._unheard: set[ControlledStream] = set()
        # Those of them that were so already when it was last looked.
        self._long_unheard: set[ControlledStream] = set()
        # Streams of requests, and whether something was sent of them; those that have something to
        # send, and those that have to send all once more.
        self._requests: dict[ControlledRequests, bool] = {}
        # Those whose opening calls are answered; and those that go by an earlier connection still,
        # on which their opening calls may not have arrived yet.
        self._answered: OrderedSet[ControlledRequests] = OrderedSet()
        self._bound: dict[ControlledRequests, ControlClient] = {}
        self._fresh: OrderedSet[ControlledRequests] = OrderedSet()
        self._again: OrderedSet[ControlledRequests] = OrderedSet()
        # Until a lost connection is given up, and why it was lost.
        self._patience = ResettableTimer(network.clock, self._out_of_patience)
        self._reason = ""
        # When it was first seen that the publisher is not connected; None while it is.
        self._unreached_since: float | None = None
        # Until the streams are looked at that miss something, or whose publisher is away.
        self._look = ResettableTimer(network.clock, self._look_after)
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether there are streams, or something is to be said of them."""
        return bool(self._streams or self._positions or self._to_cancel)

    # -- streams of responses come and go ----------------------------------------------------

    def open(self, stream: ControlledStream, opened: OpenedStream) -> None:
        """Subscribe to a stream that the server has opened."""
        self._epoch = opened.epoch
        self._grace = opened.grace_ms / 1000 or _GRACE
        self._unheard.add(stream)
        if stream.topic in self._streams:
            self._others.setdefault(stream.topic, []).append(stream)
            self.replay(stream)  # one subscription is enough for both
        else:
            self._streams[stream.topic] = stream
            self._subscribe(stream, opened.publisher)
        self._look_later()
        self._flush_soon()  # or the connection would not be watched

    def _subscribe(self, stream: ControlledStream, publisher: str) -> None:
        try:
            self._subscriber.subscribe(stream.topic, stream.bundle, publisher)
        except GroupError as error:
            stream.cancel(FailedPrecondition(str(error)))
            return
        if self._subscriber.is_from_group(stream.topic):
            self.replay(stream)  # a group does not tell the server of a subscription

    @property
    def _is_unreached(self) -> bool:
        """Whether streams wait for their publisher, as far as that can be known."""
        subscriber = self._subscriber
        return not subscriber.is_connected and len(self._streams) > subscriber.group_topics

    @property
    def obstacle(self) -> str:
        """Why nothing arrives of streams that are open; empty if that is not known."""
        subscriber = self._subscriber
        if self._patience.is_running:
            return self._reason
        if self._is_unreached:
            reason = subscriber.reason and f": {subscriber.reason}"
            return f"the publisher at {subscriber.endpoint} is not connected{reason}"
        return ""

    def _publisher_for(self, publisher: str) -> str:
        return self._owner.publisher_for(publisher)

    def topics(self) -> list[bytes]:
        """The topics of all open streams, each once."""
        return list(self._streams)

    def _all(self) -> list[ControlledStream]:
        streams = list(self._streams.values())
        for others in self._others.values():
            streams += others
        return streams

    def _with(self, topic: bytes) -> list[ControlledStream]:
        """The streams with a topic: more than one only where they are shared."""
        stream = self._streams.get(topic)
        return [] if stream is None else [stream, *self._others.get(topic, ())]

    def _remove(self, stream: ControlledStream) -> bool:
        """Take a stream out of the table; whether it was there."""
        others = self._others.get(stream.topic)
        if others is not None and stream in others:
            others.remove(stream)
        elif self._streams.get(stream.topic) is not stream:
            return False
        elif others:
            self._streams[stream.topic] = others.pop()
        else:
            del self._streams[stream.topic]
        if not others:
            self._others.pop(stream.topic, None)
        return True

    def not_opened(self, error: BaseException) -> None:
        """A stream was to be opened here, and was not."""
        self._owner.stream_ended(error)

    def ended(self, stream: ControlledStream, outcome: BaseException) -> None:
        """A stream has ended, here or there: let go of it, and acknowledge its end.

        :param outcome: how it has ended on this connection; it may go on elsewhere.
        """
        self._owner.stream_ended(outcome)
        if not self._remove(stream) or self._closed:
            return
        self._to_replay.discard(stream)
        self._asked.pop(stream, None)
        self._unheard.discard(stream)
        self._long_unheard.discard(stream)
        self._unread.pop(stream, None)
        if stream.topic not in self._streams:
            self._subscriber.unsubscribe(stream.topic, stream.bundle)
        if stream.receiver.end is not None and not stream.shared:
            self._positions[stream.topic] = stream.position
        self._flush_soon()
        self._stop_timers_if_idle()

    # -- what the server is told of streams of responses -------------------------------------

    def cancel(self, stream: ControlledStream) -> None:
        """Tell the server that nobody wants a stream."""
        if self._closed:
            return
        self._to_cancel.append(stream.topic)
        self._flush_soon()

    def acknowledge(self, stream: ControlledStream) -> None:
        """Tell the server how far a stream has been read, when the turn ends."""
        if not stream.shared:
            if not self._unread:
                self._flush_soon()
            self._unread[stream] = None

    def replay(self, stream: ControlledStream) -> None:
        """Ask the server for what a stream misses, unless that was done and is not answered."""
        if stream not in self._asked:
            self._asked[stream] = stream.receiver.sequence
            self._to_replay.add(stream)
            self._flush_soon()
            self._look_later()

    # -- streams of requests -----------------------------------------------------------------

    def requests_begun(self, requests: ControlledRequests) -> None:
        """A call with a stream of requests is to be sent on this connection."""
        self._requests[requests] = False
        self.send_requests_soon(requests)

    def requests_ended(self, requests: ControlledRequests) -> None:
        """The call has ended, or is made on another connection."""
        self._requests.pop(requests, None)
        self._answered.discard(requests)
        self._bound.pop(requests, None)
        self._fresh.discard(requests)
        self._again.discard(requests)
        self._stop_timers_if_idle()

    def requests_answered(self, requests: ControlledRequests) -> None:
        """The opening call is answered: the server has it, whichever connection is used."""
        if requests in self._requests:
            self._answered.add(requests)
            if self._bound.pop(requests, None) is not None:
                self.send_requests_again(requests)

    def _control_of(self, requests: ControlledRequests) -> ControlClient:
        return self._bound.get(requests, self._control)

    def send_requests_soon(self, requests: ControlledRequests) -> None:
        """Send what there is when the turn ends, or there is enough."""
        if not self._fresh:
            self._flush_soon()
            self._look_later()
        self._fresh[requests] = None
        if len(self._fresh) >= EARLY_BATCH and self._owner.may_send_early:
            self._send_requests()

    def send_requests(self, requests: ControlledRequests) -> None:
        """Send what there is now, unless the call itself is still to be sent."""
        if not self._requests.get(requests) or self._again or not self._owner.is_ready:
            self.send_requests_soon(requests)
        elif not requests.send(self._control_of(requests).send_requests):
            self.send_requests_again(requests)

    def send_requests_again(self, requests: ControlledRequests) -> None:
        """Send all that is not acknowledged once more."""
        if requests in self._requests:
            self._again.add(requests)
            self._flush_soon()

    def _send_requests(self) -> None:
        for requests in list(self._again):
            control = self._control_of(requests)
            self._requests[requests] = True
            if requests.send_again(control.send_requests):
                self._again.discard(requests)
            elif control is self._control:
                return
        self._send_fresh_requests()

    def _send_fresh_requests(self) -> None:
        """Send what is new; what needs no acknowledgement goes together."""
        together: list[ControlledRequests] = []
        bodies: list[bytes] = []

        def call(body: bytes, answered: Answered | None, /) -> bool:
            if answered is not None:
                return self._control.send_requests(body, answered)
            bodies.append(body)
            return True

        while self._fresh:
            requests = self._fresh.first()
            if requests in self._again:  # behind what is to be sent once more, with that
                self._fresh.discard(requests)
                continue
            self._requests[requests] = True
            bound = self._bound.get(requests)
            if not requests.send(call if bound is None else bound.send_requests):
                self._again.add(requests)
                if bound is None:
                    break
            self._fresh.discard(requests)
            if bound is None:
                together.append(requests)
        if bodies and not self._control.send_several(bodies):
            # Some of them may have been sent; the server drops what comes twice.
            for requests in together:
                self._again.add(requests)

    # -- saying it ---------------------------------------------------------------------------

    def send(self) -> None:
        """The turn ends: send the control calls that wait, until the socket is full."""
        if not self._owner.is_ready:
            return
        self._send_requests()
        for stream in self._unread:
            self._positions[stream.topic] = stream.position
        self._unread.clear()
        if self._positions and not self._send_positions():
            return
        if self._to_cancel and not self._send_cancellations():
            return
        while self._to_replay:
            if not self._send_replay(self._to_replay.first()):
                return
            self._to_replay.pop_first()

    def _send_positions(self) -> bool:
        while self._positions:
            some = self._some_topics()
            positions = [(topic, self._positions[topic]) for topic in some]
            if not self._control.acknowledge(positions, self._acknowledged):
                return False
            for topic in some:
                self._positions.pop(topic, None)
        return True

    def _some_topics(self) -> list[bytes]:
        """Topics for one call; of a shared stream as often as there are calls that take part."""
        if not self._others:
            return list(self._positions)[:MAX_CANCELLED]
        some: list[bytes] = []
        for topic in self._positions:
            calls = min(1 + len(self._others.get(topic, ())), MAX_CANCELLED)
            if len(some) + calls > MAX_CANCELLED:
                break
            some += [topic] * calls
        return some

    def _send_cancellations(self) -> bool:
        while self._to_cancel:
            if not self._control.cancel_streams(self._to_cancel[:MAX_CANCELLED]):
                return False
            del self._to_cancel[:MAX_CANCELLED]
        return True

    def _send_replay(self, stream: ControlledStream) -> bool:
        def answered(head: ResponseHead | None, body: bytes) -> None:
            self._replayed(stream, head, body)

        return self._control.replay(stream.topic, stream.receiver.sequence, answered)

    # -- what the server answers -------------------------------------------------------------

    def _acknowledged(self, head: ResponseHead | None, body: bytes) -> None:
        if head is None:
            if not self._closed:
                self._ask_for_all()  # a server that was restarted does not do so by heartbeats
            return
        if head.code is not Code.OK:
            self._refused(head)
            return
        try:
            response = streams_pb2.AcknowledgeResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        for topic in response.unknown:
            self._unknown(topic, response.epoch)

    def _refused(self, head: ResponseHead) -> None:
        """The server does not know this client any more: it gives it nothing of its streams."""
        if head.code is Code.UNAUTHENTICATED:
            for stream in self._all():
                stream.fail(Unauthenticated(head.message))

    def _unknown(self, topic: bytes, epoch: bytes) -> None:
        """The server does not have a stream."""
        for stream in self._with(topic):
            stream.fail(self._why_unknown(topic, epoch))

    def _why_unknown(self, topic: bytes, epoch: bytes) -> Unavailable:
        if epoch and epoch != self._epoch:
            reason = f"the server at {self._owner.address} was restarted"
        elif self._subscriber.is_connected or self._subscriber.is_from_group(topic):
            reason = f"the server at {self._owner.address} has given up the stream"
        else:
            reason = f"the publisher at {self._subscriber.endpoint} was not reached"
        return Unavailable(f"{reason}; the stream is cut short")

    def _replayed(self, stream: ControlledStream, head: ResponseHead | None, body: bytes) -> None:
        if head is None or stream not in self._with(stream.topic):
            return  # asked again later, or ended
        if head.code is Code.NOT_FOUND:
            # The answer to an acknowledgement says whether it is another server by now.
            self._positions[stream.topic] = stream.position
            self._flush_soon()
            return
        if head.code is not Code.OK:
            self._refused(head)
            return
        try:
            response = streams_pb2.ReplayResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        publication = from_message(response.publication)
        before = self._asked.setdefault(stream, stream.receiver.sequence)
        if publication.sequence > stream.receiver.sequence:
            stream.gap(publication.sequence)
        stream.arrived(publication)
        # What is still missing is asked for at once; not where nothing new was to be had.
        if self._asked.get(stream) == before and stream.receiver.sequence > before:
            del self._asked[stream]
            if stream.wants_replay:
                self.replay(stream)

    # -- what the publisher sends ------------------------------------------------------------

    def published(self, frame: bytes) -> None:
        """Something arrived under a topic that was subscribed to."""
        self._owner.heard()
        topic = topic_of(frame)
        if not self._subscriber.is_bundle(topic):
            self._published(topic, frame)
            return
        try:
            frames = decode_bundle(frame)
        except BadPublication:
            self._owner.count("malformed")  # heartbeats will tell what is missing
            return
        for each in frames:
            self._published(topic_of(each), each)

    def _published(self, topic: bytes, frame: bytes) -> None:
        stream = self._streams.get(topic)
        if stream is None:
            self._owner.count("publication of no stream")
            return
        try:
            publication = decode(frame)
        except BadPublication as error:
            stream.cancel(Internal(str(error)))
            return
        if not publication.items and publication.end is None:
            self._answer(stream)
        if self._unheard:
            self._unheard.difference_update(self._with(topic))
            if not self._unheard:
                self._unheard.clear()  # which gives back the memory of what it held
        others = self._others.get(topic) if stream.shared else None
        if others is not None:
            for other in list(others):
                other.arrived(publication)
        stream.arrived(publication)

    def _answer(self, stream: ControlledStream) -> None:
        """A heartbeat asks for a sign of life: say how far the stream has been read."""
        if stream.shared:
            # The server does not use the number, only how many calls there are.
            self._positions[stream.topic] = stream.position
            self._flush_soon()
        else:
            self.acknowledge(stream)

    def flush(self) -> None:
        """All that had arrived is dispatched: send the control calls that follow from it."""
        self._owner.flush()

    def has_received(self, topic: bytes, sequence: int) -> bool:
        """Whether a stream has all before an item; True where nobody has it any more."""
        stream = self._streams.get(topic)
        return stream is None or stream.receiver.sequence >= sequence

    def flush_soon(self) -> None:
        """What had arrived is dispatched, and no socket of the publisher's tells when."""
        self._owner.flush_soon()

    def _flush_soon(self) -> None:
        """Have :meth:`send` called when the turn ends, which is that of what is being received."""
        if not self._subscriber.flush_soon():
            self._owner.flush_soon()

    def publisher_lost(self) -> None:
        """The connection to the publisher was lost; libzmq makes it anew."""
        for stream in self._all():
            self._unheard.add(stream)
        if self._streams:
            self._look_later()

    def cannot_subscribe(self, reason: str) -> None:
        """No socket can be connected to the publisher: its streams cannot go on."""
        for stream in self._all():
            if not self._subscriber.is_from_group(stream.topic):
                stream.cancel(Unavailable(reason))

    # -- what becomes of the server's connection ---------------------------------------------

    def lost(self, reason: str) -> None:
        """The connection to the server was lost; another one is tried for."""
        self._reason = reason
        if self._streams and not self._patience.is_running:
            self._patience.start(self._grace)

    def give_up(self, reason: str) -> None:
        """The connection to the server was lost, and no other is tried for: end the streams."""
        self._reason = reason
        self._out_of_patience()

    def move(self, owner: StreamControlOwner, control: ControlClient) -> None:
        """Another connection to the same server takes the place of the one that there was.

        A stream of requests goes on by that until its opening call is answered: by the other one,
        its items could come before the call. So does one with a single response, to its end.
        """
        before, self._control, self._owner = self._control, control, owner
        for requests in self._requests:
            if requests in self._answered:
                self.send_requests_again(requests)
            else:
                self._bound.setdefault(requests, before)
        self._subscriber.renew()
        self._ask_for_all()
        self._flush_soon()

    def let_go_of(self, control: ControlClient) -> None:
        """An earlier connection is closed; what still went by it has ended, or goes by this one."""
        for requests in [each for each, bound in self._bound.items() if bound is control]:
            del self._bound[requests]
            self.send_requests_again(requests)

    def ready(self) -> None:
        """There is a connection (again): ask whether the server still has the streams."""
        self._patience.stop()
        self._ask_for_all()

    def _ask_for_all(self) -> None:
        for topic, stream in self._streams.items():
            # The server does not use the number of a shared stream, only that there is one.
            self._positions[topic] = stream.position
        if self._positions:
            self._flush_soon()

    def _out_of_patience(self) -> None:
        for stream in self._all():
            stream.fail(Unavailable(f"{self._reason}; the stream is cut short"))

    def _look_later(self) -> None:
        if not self._look.is_running and not self._closed:
            self._look.start(_RETRY)

    def _look_after(self) -> None:
        """Ask again where nothing was answered.

        For replays and acknowledgements of requests; and, while the publisher is away, whether the
        server still has the streams.
        """
        again = self._is_unreached
        if again:
            self._give_up_unreached()
        else:
            self._unreached_since = None
        self._asked.clear()
        for stream in self._all():
            unheard = stream in self._unheard
            if stream.wants_replay or unheard:
                again = True
                self.replay(stream)
            if unheard and stream in self._long_unheard:
                self._subscriber.subscribe_again(stream.topic)
        self._long_unheard = self._unheard.copy()
        for requests in self._requests:
            if requests.is_unacknowledged:
                again = True
                self._fresh.add(requests)
                requests.ask()
                self._flush_soon()
        if self._is_unreached:
            self._ask_for_all()
        if again:
            self._look_later()

    def _give_up_unreached(self) -> None:
        """Fail the streams whose publisher has not been reached for the grace of the server.

        Replays alone would bring their items, but so slowly that it is better to say what is wrong.
        """
        now = self._clock.seconds()
        if self._unreached_since is None:
            self._unreached_since = now
        if now - self._unreached_since < self._grace:
            return
        reason = f"the publisher at {self._subscriber.endpoint} was not reached"
        for stream in self._all():
            if not self._subscriber.is_from_group(stream.topic):
                self.cancel(stream)
                stream.fail(Unavailable(f"{reason}; the stream is cut short"))

    # -- the end -----------------------------------------------------------------------------

    def _stop_timers_if_idle(self) -> None:
        if not self._streams and not self._requests:
            self._look.stop()
            self._patience.stop()
            self._subscriber.stop_timers()

    def say_goodbye(self) -> None:
        """The connection is about to be closed: tell the server which streams nobody wants."""
        if not self._owner.is_ready:
            return
        topics = [*self._to_cancel, *(stream.topic for stream in self._all())]
        for first in range(0, len(topics), MAX_CANCELLED):
            self._control.cancel_streams(topics[first : first + MAX_CANCELLED], wait=False)

    def close(self) -> None:
        """The connection is closed for good, with its channel, which ends the streams."""
        self._closed = True
        self._look.stop()
        self._patience.stop()
        self._subscriber.close()
        self._positions.clear()
        self._unread.clear()
        self._to_cancel.clear()
        self._to_replay.clear()
        self._asked.clear()
        self._unheard.clear()
        self._long_unheard.clear()
        self._requests.clear()
        self._answered.clear()
        self._bound.clear()
        self._fresh.clear()
        self._again.clear()
