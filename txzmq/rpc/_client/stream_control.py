"""What one connection of a client does for its streams: one subscriber, and the control calls."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from twisted.logger import Logger

from txzmq._reactor import Timer
from txzmq.rpc._client.request_stream import SEND, Requests
from txzmq.rpc._client.response_stream import ClientStream
from txzmq.rpc._core.transport import Network, SubscriberTransport
from txzmq.rpc._net.addresses import is_multicast, reachable
from txzmq.rpc._wire.batches import EARLY_BATCH
from txzmq.rpc._wire.headers import (
    OpenedStream,
    RequestHead,
    ResponseHead,
    encode_request,
)
from txzmq.rpc._wire.streams import (
    SEPARATOR,
    BadPublication,
    decode,
    decode_bundle,
    from_message,
    topic_of,
)
from txzmq.rpc.errors import (
    Code,
    FailedPrecondition,
    Internal,
    Unavailable,
)
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE
from txzmq.rpc.v1 import streams_pb2

__all__ = ["Hub", "HubOwner"]

_log = Logger()
_US: Final = 1_000_000
#: Seconds after which a replay is asked for again, and a publisher connected to anew.
_RETRY: Final = 1.0
#: Seconds for which a server keeps streams of a client that is not there, where it does not say.
_GRACE: Final = 5.0


def _header(method: str) -> bytes:
    return encode_request(RequestHead(f"/txzmq.rpc.v1.Streams/{method}", 30 * _US, ()))


_ACKNOWLEDGE: Final = _header("Acknowledge")
_REPLAY: Final = _header("Replay")
_CANCEL: Final = _header("Cancel")


class HubOwner(Protocol):
    """A connection to a server.

    :ivar address: of the server.
    :ivar messages: how many have arrived, as signs of life.
    """

    address: str
    messages: int

    @property
    def is_ready(self) -> bool:
        """Whether control calls can be made."""
        ...

    @property
    def may_send_early(self) -> bool:
        """Whether control calls may be made before the turn ends: nothing has to go before them."""
        ...

    def flush_soon(self) -> None:
        """Call :meth:`Hub.send` when the turn ends."""
        ...

    def flush(self) -> None:
        """Call :meth:`Hub.send` now, after what is to be sent before."""
        ...

    def call_streams(
        self,
        header: bytes,
        body: bytes,
        answered: Callable[[ResponseHead | None, bytes], None] | None,
    ) -> bool:
        """Make a control call, if there is room; whether there is. With None, without a reply."""
        ...

    def call_silently(self, header: bytes, bodies: list[bytes]) -> bool:
        """Make control calls of one method without replies, if there is room; whether there is."""
        ...

    def count(self, event: str) -> None:
        """Something happened."""
        ...


class _Group:
    """A multicast group that shared streams come from (a SubscriberHandler).

    Nobody tells whether its publisher is there; a server that is lost is told as ever.
    """

    def __init__(self, hub: Hub, endpoint: str) -> None:
        self.endpoint = endpoint
        self.transport: SubscriberTransport | None = None
        #: How many streams come from it.
        self.streams = 0
        self._hub = hub

    def published(self, frame: bytes) -> None:
        """Something was published that was subscribed to."""
        self._hub.published(frame, self)

    def flush(self) -> None:
        """What arrived has been read."""
        self._hub.flush()

    def connected(self) -> None:
        """The socket is there."""

    def disconnected(self) -> None:
        """There is no connection that could be lost."""

    def failed(self, reason: str) -> None:
        """There is none that could be of no use."""

    def closed(self) -> None:
        """The socket was closed by somebody else, with the factory."""
        self.transport = None

    def close(self) -> None:
        """Leave the group."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()


class Hub:
    """The streams of one connection: one subscriber, and the control calls (a SubscriberHandler).

    Control calls of one turn go together.
    """

    def __init__(self, owner: HubOwner, network: Network, message_size: int) -> None:
        self._owner = owner
        self._network = network
        self._clock = network.clock
        self._message_size = message_size
        self._streams: dict[bytes, ClientStream] = {}
        # Of shared streams, those that have a topic besides the one above.
        self._others: dict[bytes, list[ClientStream]] = {}
        # How many streams there are of each bundle, by its topic.
        self._bundles: Counter[bytes] = Counter()
        self._subscriber: SubscriberTransport | None = None
        self._endpoint = ""
        self._reached = False
        self._epoch = b""
        self._grace = _GRACE
        # What is to be said, by topic; and how far the client has come.
        self._positions: dict[bytes, int] = {}
        self._unread: dict[ClientStream, None] = {}
        self._to_cancel: list[bytes] = []
        self._to_replay: OrderedDict[ClientStream, None] = OrderedDict()
        # Streams of requests, and whether something was sent of them; those that have something to
        # send, and those that have to send all once more. The latter two are ordered sets, and no
        # dicts, which take ever longer to find their first item when that is always the one to go.
        self._requests: dict[Requests, bool] = {}
        self._fresh: OrderedDict[Requests, None] = OrderedDict()
        self._again: OrderedDict[Requests, None] = OrderedDict()
        # Until a lost connection is given up.
        self._patience: Timer | None = None
        self._reason = ""
        # Until it is looked after streams that miss something, or whose publisher is not reached.
        self._look: Timer | None = None
        self._reconnect: Timer | None = None
        self._closed = False
        # Whether what a publisher sent is being read, and from which group, if from one.
        self._reading = False
        self._read_from: _Group | None = None
        # Multicast groups, by where they are, and by the topics of the streams from them.
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[bytes, _Group] = {}
        # Streams from them of which the server does not know yet that somebody listens.
        self._unheard: dict[ClientStream, None] = {}

    @property
    def is_busy(self) -> bool:
        """Whether there are streams, or something is to be said of them."""
        return bool(self._streams or self._positions or self._to_cancel)

    # -- streams come and go -----------------------------------------------------------------

    def open(self, stream: ClientStream, opened: OpenedStream) -> None:
        """Subscribe to a stream that the server has opened."""
        endpoint = reachable(opened.publisher, self._owner.address)
        self._epoch = opened.epoch
        self._grace = opened.grace_ms / 1000 or _GRACE
        if stream.topic in self._streams:
            self._others.setdefault(stream.topic, []).append(stream)
            self.replay(stream)  # the server does not hear of one more subscription
        else:
            self._streams[stream.topic] = stream
        if stream.bundle:
            self._bundles[stream.bundle] += 1
        if is_multicast(endpoint):
            self._join(stream, endpoint)
        elif self._subscriber is None or endpoint != self._endpoint:
            self._endpoint = endpoint
            self._connect()
        else:
            self._subscriber.subscribe(stream.topic + SEPARATOR)
            if self._bundles[stream.bundle] == 1:
                self._subscriber.subscribe(stream.bundle + SEPARATOR)
        if self._is_unreached:
            self._look_later()
        self._flush_soon()  # or the connection would not be watched

    def _join(self, stream: ClientStream, endpoint: str) -> None:
        """Receive a stream from a group."""
        group = self._groups.get(endpoint) or _Group(self, endpoint)
        group.streams += 1
        self._group_of[stream.topic] = group
        if group.transport is None:
            try:
                group.transport = self._network.subscribe(endpoint, group, self._options)
            except Exception as error:  # noqa: BLE001 - that this libzmq cannot, for instance
                reason = f"cannot join the group {endpoint}: {error}"
                stream.cancel(FailedPrecondition(reason))
                return
            self._groups[endpoint] = group
        group.transport.subscribe(stream.topic + SEPARATOR)
        self._unheard[stream] = None
        self.replay(stream)

    @property
    def _is_unreached(self) -> bool:
        """Whether streams wait for their publisher, as far as that can be known."""
        return not self._reached and len(self._streams) > len(self._group_of)

    @property
    def _options(self) -> dict[str, int]:
        # A publication has 64 KiB and an item at most.
        return {"MAXMSGSIZE": max(self._message_size, MESSAGE_SIZE) + 2 * 65_536}

    def _connect(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        self._reached = False
        if subscriber is not None:
            subscriber.close()
        streams = [stream for stream in self._all() if stream.topic not in self._group_of]
        try:
            self._subscriber = self._network.subscribe(self._endpoint, self, self._options)
        except Exception as error:  # noqa: BLE001 - whatever the server told that is no address
            reason = f"cannot subscribe at {self._endpoint}: {error}"
            for stream in streams:
                stream.cancel(Unavailable(reason))
            return
        for stream in streams:
            self._subscriber.subscribe(stream.topic + SEPARATOR)
        for topic in self._bundles:
            self._subscriber.subscribe(topic + SEPARATOR)

    def _all(self) -> list[ClientStream]:
        streams = list(self._streams.values())
        for others in self._others.values():
            streams += others
        return streams

    def _remove(self, stream: ClientStream) -> bool:
        """Forget a stream; whether it was known."""
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

    def ended(self, stream: ClientStream) -> None:
        """A stream has ended, here or there."""
        if not self._remove(stream) or self._closed:
            return
        self._to_replay.pop(stream, None)
        self._unheard.pop(stream, None)
        self._unread.pop(stream, None)
        group = self._group_of.get(stream.topic)
        if group is not None:
            self._leave(stream, group)
        elif self._subscriber is not None:
            self._subscriber.unsubscribe(stream.topic + SEPARATOR)
        if stream.bundle:
            self._unbundle(stream.bundle)
        if stream.receiver.end is not None and not stream.shared:
            self._positions[stream.topic] = stream.position
        self._flush_soon()
        if not self._streams and not self._requests:
            self._stop_timers()

    def _unbundle(self, topic: bytes) -> None:
        """A stream of a bundle has ended."""
        self._bundles[topic] -= 1
        if not self._bundles[topic]:
            del self._bundles[topic]
            if self._subscriber is not None:
                self._subscriber.unsubscribe(topic + SEPARATOR)

    def _leave(self, stream: ClientStream, group: _Group) -> None:
        """A stream is not received from a group any more."""
        group.streams -= 1
        if stream.topic not in self._streams:
            del self._group_of[stream.topic]
        if group.streams:
            if group.transport is not None:
                group.transport.unsubscribe(stream.topic + SEPARATOR)
        else:
            self._groups.pop(group.endpoint, None)
            group.close()

    def cancel(self, stream: ClientStream) -> None:
        """Tell the server that nobody wants it."""
        if self._closed:
            return
        self._to_cancel.append(stream.topic)
        self._flush_soon()

    # -- what is said ------------------------------------------------------------------------

    def acknowledge(self, stream: ClientStream) -> None:
        """Tell the server how far a stream has been read, when the turn ends."""
        if not stream.shared:
            if not self._unread:
                self._flush_soon()
            self._unread[stream] = None

    def replay(self, stream: ClientStream) -> None:
        """Ask for what a stream misses."""
        if not stream.asked:
            stream.asked = True
            self._to_replay[stream] = None
            self._flush_soon()
            self._look_later()

    def requests_begun(self, requests: Requests) -> None:
        """A call with a stream of requests is to be sent on this connection."""
        self._requests[requests] = False
        self.send_requests_soon(requests)

    def requests_ended(self, requests: Requests) -> None:
        """It has ended, or went elsewhere."""
        for table in (self._requests, self._fresh, self._again):
            table.pop(requests, None)
        if not self._streams and not self._requests:
            self._stop_timers()

    def send_requests_soon(self, requests: Requests) -> None:
        """Send what there is when the turn ends, or there is enough."""
        if not self._fresh:
            self._flush_soon()
            self._look_later()
        self._fresh[requests] = None
        if len(self._fresh) >= EARLY_BATCH and self._owner.may_send_early:
            self._send_requests()

    def send_requests(self, requests: Requests) -> None:
        """Send what there is now, unless the call itself is still to be sent."""
        if not self._requests.get(requests) or self._again or not self._owner.is_ready:
            self.send_requests_soon(requests)
        elif not requests.send(self._owner.call_streams):
            self.send_requests_again(requests)

    def send_requests_again(self, requests: Requests) -> None:
        """Send all that is not acknowledged once more."""
        if requests in self._requests:
            self._again[requests] = None
            self._flush_soon()

    def _send_requests(self) -> None:
        while self._again:
            requests = next(iter(self._again))
            self._requests[requests] = True
            if not requests.again(self._owner.call_streams):
                return
            self._again.pop(requests, None)
        together: dict[Requests, None] = {}
        bodies: list[bytes] = []

        def call(
            header: bytes,
            body: bytes,
            answered: Callable[[ResponseHead | None, bytes], None] | None,
        ) -> bool:
            if answered is not None:
                return self._owner.call_streams(header, body, answered)
            bodies.append(body)
            return True

        while self._fresh:
            requests = next(iter(self._fresh))
            self._requests[requests] = True
            if not requests.send(call):
                self._again[requests] = None
                break
            self._fresh.pop(requests, None)
            together[requests] = None
        if bodies and not self._owner.call_silently(SEND, bodies):
            # Some of them may have been sent; what comes twice is dropped.
            for requests in together:
                self._again[requests] = None

    def send(self) -> None:
        """The turn ends: say what there is to say, if it can be said."""
        if not self._owner.is_ready:
            return
        self._send_requests()
        for stream in self._unread:
            self._positions[stream.topic] = stream.position
        self._unread.clear()
        while self._positions:
            some = self._some_positions()
            request = streams_pb2.AcknowledgeRequest()
            for topic in some:
                request.positions.add(topic=topic, sequence=self._positions[topic])
            body = request.SerializeToString()
            if not self._owner.call_streams(_ACKNOWLEDGE, body, self._acknowledged):
                return
            for topic in some:
                self._positions.pop(topic, None)
        while self._to_cancel:
            some = self._to_cancel[:MAX_CANCELLED]
            body = streams_pb2.CancelStreamsRequest(topics=some).SerializeToString()
            if not self._owner.call_streams(_CANCEL, body, _forget):
                return
            del self._to_cancel[:MAX_CANCELLED]
        while self._to_replay:
            stream = next(iter(self._to_replay))
            request_ = streams_pb2.ReplayRequest(
                topic=stream.topic, sequence=stream.receiver.sequence
            )

            def answered(
                head: ResponseHead | None, body: bytes, stream: ClientStream = stream
            ) -> None:
                self._replayed(stream, head, body)

            if not self._owner.call_streams(_REPLAY, request_.SerializeToString(), answered):
                return
            del self._to_replay[stream]

    def _some_positions(self) -> list[bytes]:
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

    def _acknowledged(self, head: ResponseHead | None, body: bytes) -> None:
        if head is None:
            self._ask_for_all()  # a server that was restarted does not do so by heartbeats
            return
        if head.code is not Code.OK:
            return
        try:
            response = streams_pb2.AcknowledgeResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        for topic in response.unknown:
            self._unknown(topic, response.epoch)

    def _unknown(self, topic: bytes, epoch: bytes) -> None:
        for stream in self._with(topic):
            stream.fail(self._why_unknown(topic, epoch))

    def _with(self, topic: bytes) -> list[ClientStream]:
        """The streams with a topic: more than one only where they are shared."""
        stream = self._streams.get(topic)
        return [] if stream is None else [stream, *self._others.get(topic, ())]

    def _why_unknown(self, topic: bytes, epoch: bytes) -> Unavailable:
        if epoch and epoch != self._epoch:
            reason = f"the server at {self._owner.address} was restarted"
        elif self._reached or topic in self._group_of:
            reason = f"the server at {self._owner.address} has given up the stream"
        else:
            reason = f"the publisher at {self._endpoint} was not reached"
        return Unavailable(f"{reason}; the stream is cut short")

    def _replayed(self, stream: ClientStream, head: ResponseHead | None, body: bytes) -> None:
        if head is None or stream.hub is not self:
            return  # asked again later
        if head.code is Code.NOT_FOUND:
            self._unknown(stream.topic, b"")
            return
        if head.code is not Code.OK:
            return
        try:
            response = streams_pb2.ReplayResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        self._unheard.pop(stream, None)
        publication = from_message(response.publication)
        # What is still missing is asked for at once, unless there is nothing to be had.
        stream.asked = not publication.items
        if publication.sequence > stream.receiver.sequence:
            stream.gap(publication.sequence)
        stream.arrived(publication)

    # -- what the publisher's connection tells -----------------------------------------------

    def published(self, frame: bytes, group: _Group | None = None) -> None:
        """Something was published, to a group if one is given."""
        self._owner.messages += 1
        self._reading = True
        self._read_from = group
        try:
            self._published(frame)
        finally:
            self._reading = False

    def _published(self, frame: bytes) -> None:
        topic = topic_of(frame)
        if topic not in self._bundles:
            self._published_alone(topic, frame)
            return
        try:
            frames = decode_bundle(frame)
        except BadPublication:
            self._owner.count("malformed")  # heartbeats will tell what is missing
            return
        for each in frames:
            self._published_alone(topic_of(each), each)

    def _published_alone(self, topic: bytes, frame: bytes) -> None:
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
            self.acknowledge(stream)  # a heartbeat wants to hear something
        others = self._others.get(stream.topic) if stream.shared else None
        if others is not None:
            for other in list(others):
                other.arrived(publication)
        stream.arrived(publication)

    def flush(self) -> None:
        """What arrived has been read: say what follows from it."""
        self._owner.flush()

    def _flush_soon(self) -> None:
        """Have :meth:`send` called when the turn ends, which is that of what is being read."""
        if self._reading:
            group = self._read_from
            subscriber = self._subscriber if group is None else group.transport
            if subscriber is not None:
                subscriber.flush_soon()
                return
        self._owner.flush_soon()

    def connected(self) -> None:
        """The publisher is reached."""
        self._reached = True

    def disconnected(self) -> None:
        """The connection was lost; libzmq connects again."""
        self._reached = False
        if self._streams:
            self._look_later()

    def failed(self, reason: str) -> None:
        """Something answers that is no publisher."""
        _log.warn("{endpoint}: {reason}", endpoint=self._endpoint, reason=reason)
        subscriber, self._subscriber = self._subscriber, None
        self._reached = False
        if subscriber is not None:
            subscriber.close()
        if self._reconnect is None and not self._closed:
            self._reconnect = self._clock.callLater(_RETRY, self._connect_again)

    def _connect_again(self) -> None:
        self._reconnect = None
        if self._subscriber is None and self._streams:
            self._connect()

    def closed(self) -> None:
        """The socket was closed by somebody else, with the factory."""
        self._subscriber = None

    # -- what the server's connection tells --------------------------------------------------

    def lost(self, reason: str) -> None:
        """The connection is gone; another is tried for."""
        self._reason = reason
        if self._streams and self._patience is None:
            self._patience = self._clock.callLater(self._grace, self._out_of_patience)

    def ready(self) -> None:
        """There is a connection (again): ask whether the server still has the streams."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._ask_for_all()

    def _ask_for_all(self) -> None:
        for topic, stream in self._streams.items():
            # Of a shared stream it is of no interest, but whether there is one.
            self._positions[topic] = stream.position
        if self._positions:
            self._flush_soon()

    def _out_of_patience(self) -> None:
        self._patience = None
        for stream in self._all():
            stream.fail(Unavailable(f"{self._reason}; the stream is cut short"))

    def _look_later(self) -> None:
        if self._look is None and not self._closed:
            self._look = self._clock.callLater(_RETRY, self._look_after)

    def _look_after(self) -> None:
        """Ask again for what is missing; and for the streams, while their publisher is away."""
        self._look = None
        again = self._is_unreached
        for stream in self._all():
            stream.asked = False
            if stream.wants_replay or stream in self._unheard:
                again = True
                self.replay(stream)
        for requests in self._requests:
            if requests.is_unacknowledged:
                again = True
                self._fresh[requests] = None
                requests.ask()
                self._flush_soon()
        if self._is_unreached:
            self._ask_for_all()
        if again:
            self._look_later()

    def _stop_timers(self) -> None:
        for timer in (self._look, self._patience, self._reconnect):
            if timer is not None:
                timer.cancel()
        self._look = self._patience = self._reconnect = None

    def say_goodbye(self) -> None:
        """The connection is about to be closed: tell the server which handlers it need not keep."""
        if not self._owner.is_ready:
            return
        topics = [*self._to_cancel, *(stream.topic for stream in self._all())]
        for first in range(0, len(topics), MAX_CANCELLED):
            some = topics[first : first + MAX_CANCELLED]
            body = streams_pb2.CancelStreamsRequest(topics=some).SerializeToString()
            self._owner.call_streams(_CANCEL, body, None)

    def close(self) -> None:
        """The connection is closed for good."""
        self._closed = True  # with its channel, which ends the streams
        self._stop_timers()
        self._positions.clear()
        self._to_cancel.clear()
        self._unread.clear()
        self._to_replay.clear()
        self._bundles.clear()
        for table in (self._requests, self._fresh, self._again):
            table.clear()
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            subscriber.close()
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        self._group_of.clear()
        self._unheard.clear()


def _forget(head: ResponseHead | None, body: bytes) -> None:
    """Nothing hangs on the answer."""
