"""The streams that a client has open: what arrives, what it says to the server, how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from txzmq._reactor import Timer
from txzmq.rpc._calls import Call, CallBook, outcome_of, too_large
from txzmq.rpc._client_requests import SEND, Requests
from txzmq.rpc._stream_addresses import reachable
from txzmq.rpc._wire.headers import (
    BadHeader,
    OpenedStream,
    OpenStream,
    RequestHead,
    ResponseHead,
    decode_response,
    encode_request,
)
from txzmq.rpc._wire.metadata import Metadata
from txzmq.rpc._wire.streams import (
    SEPARATOR,
    BadPublication,
    Publication,
    Receiver,
    decode,
    from_message,
    topic_of,
)
from txzmq.rpc.client import ResponseMetadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import (
    Code,
    DataLoss,
    DeadlineExceeded,
    Internal,
    RpcError,
    Unavailable,
)
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE
from txzmq.rpc.method import Method
from txzmq.rpc.streams import OpenResponseStream
from txzmq.rpc.transport import Network, SubscriberTransport
from txzmq.rpc.v1 import streams_pb2

if TYPE_CHECKING:
    from txzmq.rpc._calls import Carrier

__all__ = ["ClientStream", "Hub", "HubOwner", "OpeningCall"]

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


class _HasHub(Protocol):
    @property
    def hub(self) -> Hub: ...


class OpeningCall(Call):
    """The call that opens a stream."""

    __slots__ = ("_carrier", "requests", "stream_deadline")

    def __init__(self, *arguments: Any, stream_deadline: float | None, requests: Requests | None):
        """
        :param arguments: as a :class:`Call`'s.
        :param stream_deadline: that of the stream; the call's own may be earlier.
        :param requests: what streams the other way.
        """
        self.requests = requests
        super().__init__(*arguments)
        self.stream_deadline = stream_deadline

    # A property in place of the attribute: to learn which connection has it.
    @property
    def carrier(self) -> Carrier | None:
        """Where it waits to be sent, or was sent."""
        return self._carrier

    @carrier.setter
    def carrier(  # pyright: ignore[reportIncompatibleVariableOverride]  # a property for an attribute
        self, carrier: Carrier | None
    ) -> None:
        self._carrier = carrier
        if carrier is not None and self.requests is not None:
            self.requests.carried(carrier)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        if self.deferred.called:
            return
        if head.code is not Code.OK:
            super().finish(head, body)
        elif head.stream is None:
            self.fail(Internal(f"{self.method.path} streams, and the server answered without one"))
        else:
            self._end()
            self.deferred.callback((head, self.carrier))

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the stream's time."""
        if self.stream_deadline is not None:
            left = max(1, round((self.stream_deadline - now) * _US))
            self.head = self.head._replace(timeout_us=left)


class ClientStream:
    """A stream of responses, from the opening call until its reader has had its end."""

    __slots__ = (
        "_ack_bytes",
        "_ack_items",
        "_book",
        "_clock",
        "_joined",
        "_on_opened",
        "_opening",
        "_requests",
        "_silence",
        "_silence_timer",
        "_skips",
        "_taken",
        "_taken_bytes",
        "_told",
        "_waiter",
        "_window",
        "asked",
        "deadline",
        "deferred",
        "hub",
        "initial",
        "items",
        "lost",
        "method",
        "outcome",
        "parent",
        "receiver",
        "reopen",
        "response_metadata",
        "response_size",
        "shared",
        "tick",
        "topic",
        "trailing",
    )

    def __init__(
        self,
        book: CallBook,
        method: Method[Any, Any],
        deadline: float | None,
        parent: Context | None,
        response_metadata: ResponseMetadata | None,
        response_size: int,
        window: OpenStream,
    ) -> None:
        self._book = book
        self._clock = book.clock
        self.method = method
        self.deadline = deadline
        self.tick = 0
        self.parent = parent
        self.response_metadata = response_metadata
        self.response_size = response_size
        #: Cancelled with the call whose handler made this one, if one did.
        self.deferred: Deferred[Any] | None = None
        self.receiver = Receiver(window.window_items)
        #: What has arrived and was not read.
        self.items = self.receiver.items
        #: How it ended: with an error, or well; None while it has not.
        self.outcome: Exception | None = None
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self.topic = b""
        self.shared = False
        #: The connection on which it was opened.
        self.hub: Hub | None = None
        #: Opens it again from an item on; None if that is not to be done.
        self.reopen: Callable[[ClientStream, int], None] | None = None
        #: Whether a replay was asked for.
        self.asked = False
        self._opening: OpeningCall | None = None
        self._requests: Requests | None = None
        # Who waits for it to be opened, and for what.
        self._on_opened: (
            tuple[Deferred[OpenResponseStream[Any]], OpenResponseStream[Any]] | None
        ) = None
        #: Items that were skipped, because the server did not have them any more.
        self.lost = 0
        # Whether anything has arrived; what to do where something is lost.
        self._joined = False
        self._skips = False
        self._told: Callable[[int], object] | None = None
        self._waiter: Deferred[None] | None = None
        self._silence: float | None = None
        self._silence_timer: Timer | None = None
        # What was read since the last acknowledgement, and how much makes the next one worth it.
        self._taken = 0
        self._taken_bytes = 0
        self._ack_items = self._ack_bytes = 1
        self._window = window

    # -- opening -----------------------------------------------------------------------------

    def open(self, call: OpeningCall, begin: Callable[[Call], None]) -> None:
        """Make the call that opens it."""
        self._book.compound_begun(self)
        if self.parent is not None:
            self.deferred = Deferred(lambda _: self.cancel())
            self.deferred.addErrback(_ignore)
            self.parent.adopt(self.deferred)
        self._requests = call.requests
        self.open_again(call, begin)

    def opened(self) -> Deferred[OpenResponseStream[Any]]:
        """Fires with a stream to read when the server has agreed, and fails if it does not."""
        stream: OpenResponseStream[Any] = OpenResponseStream(self)
        waiting: Deferred[OpenResponseStream[Any]] = Deferred(lambda _: stream.cancel())
        self._on_opened = (waiting, stream)
        if self._opening is None:
            self._tell_opened()
        return waiting

    def _tell_opened(self) -> None:
        if self._on_opened is None:
            return
        (waiting, stream), self._on_opened = self._on_opened, None
        if waiting.called:
            return
        if self.topic or self.outcome is None:
            waiting.callback(stream)
        else:
            waiting.errback(self.outcome)

    def _opened(self, opened: tuple[ResponseHead, Carrier]) -> None:
        self._opening = None
        head, carrier = opened
        stream = head.stream
        assert stream is not None, "OpeningCall looks"
        if head.initial:
            self._set_initial(head.initial)
        self.topic = stream.topic
        self.shared = stream.shared
        self.receiver.begin(stream.sequence)
        window = self._window
        items = min(window.window_items, stream.window_items or window.window_items)
        size = min(window.window_bytes, stream.window_bytes or window.window_bytes)
        self._ack_items = max(1, items // 2)
        self._ack_bytes = max(1, size // 2)
        self._taken = self._taken_bytes = 0
        self.hub = cast("_HasHub", carrier).hub
        self.hub.open(self, stream)
        self._tell_opened()

    def _not_opened(self, failure: Any) -> None:
        self._opening = None
        if self.outcome is None:
            self.fail(failure.value)

    def _set_initial(self, metadata: Metadata) -> None:
        self.initial = metadata
        if self.response_metadata is not None:
            self.response_metadata.initial = metadata

    # -- arriving ----------------------------------------------------------------------------

    def arrived(self, publication: Publication) -> None:
        """Something was published, or replayed."""
        hub, receiver = self.hub, self.receiver
        if hub is None:
            return
        fresh = receiver.receive(publication)
        if receiver.start is not None:
            self._start(receiver.start)
        if receiver.end is not None:
            self._ended(receiver.end)
        elif self.wants_replay:
            hub.replay(self)
        if fresh:
            self._joined = True
            self._wake()

    @property
    def wants_replay(self) -> bool:
        """Whether something is missing, and there is room for it."""
        return self.receiver.missing and len(self.items) < self.receiver.window

    def gap(self, sequence: int) -> None:
        """The server does not have any more what comes before *sequence*."""
        if self.outcome is not None:
            return
        if self._joined and not self._skips:
            lost = sequence - self.receiver.sequence
            self.cancel(
                DataLoss(
                    f"{lost} items of the stream were not received, and the server does not keep "
                    "them any more"
                ),
                keep=True,
            )
            return
        lost = self.receiver.skip(sequence)
        if self._joined:
            self.lost += lost
            if self._told is not None:
                self._told(lost)

    def skip_gaps(self, told: Callable[[int], object] | None) -> None:
        """Go on where items are lost."""
        self._skips = True
        self._told = told

    def _start(self, header: bytes) -> None:
        self.receiver.start = None
        try:
            self._set_initial(decode_response(header).initial)
        except BadHeader as error:
            self.fail(Internal(str(error)))

    def _ended(self, header: bytes) -> None:
        """The server's last word is there; the reader may still have items before it."""
        try:
            head = decode_response(header)
        except BadHeader as error:
            self.fail(Internal(str(error)))
            return
        self.trailing = head.trailing
        if self.response_metadata is not None:
            self.response_metadata.trailing = head.trailing
        if head.code is Code.UNAVAILABLE and head.draining and self.reopen is not None:
            hub, self.hub = self.hub, None
            if hub is not None:
                hub.ended(self)  # which acknowledges the end
            self.receiver.sequence -= 1  # it was not the end after all
            self._go_on_elsewhere()
        elif head.code is Code.OK:
            self._finish(StopAsyncIteration())
        else:
            self._finish(
                RpcError(head.code, head.message, details=head.details, metadata=head.trailing)
            )

    @property
    def position(self) -> int:
        """The number of the first item that was not read; behind the end, when that is there."""
        if self.receiver.end is not None:
            return self.receiver.sequence
        return self.receiver.sequence - len(self.items)

    # -- reading -----------------------------------------------------------------------------

    def take(self) -> bytes:
        """The next item that has arrived; there is one."""
        item = self.items.popleft()
        self._taken += 1
        self._taken_bytes += len(item)
        if self._taken >= self._ack_items or self._taken_bytes >= self._ack_bytes:
            self._taken = self._taken_bytes = 0
            if self.hub is not None:
                self.hub.acknowledge(self)
        if self.shared and self.hub is not None and self.wants_replay:
            self.hub.replay(self)
        return item

    # Any: the method types what a stream gives.
    def parse(self, item: bytes) -> Any:
        """The response that an item is.

        :raises RpcError: if it is none, or too large; then the stream has ended.
        """
        if len(item) > self.response_size:
            error: RpcError = too_large("item of the stream", len(item), self.response_size)
        else:
            try:
                return self.method.response_type.FromString(item)
            except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
                error = Internal(f"an item of {self.method.path} cannot be parsed")
        self.cancel(error)
        raise outcome_of(error, self.method)

    def more(self) -> Deferred[None]:
        """Fires when there is something to read, or the stream has ended.

        :raises RuntimeError: if somebody else waits for it.
        """
        if self._waiter is not None:
            raise RuntimeError("a stream has one reader at a time")
        waiter: Deferred[None] = Deferred(self._reader_cancelled)
        self._waiter = waiter
        if self._silence is not None:
            self._silence_timer = self._clock.callLater(self._silence, self._too_silent)
        return waiter

    def set_silence(self, seconds: float | None) -> None:
        """End the stream when its reader has to wait for longer."""
        self._silence = seconds
        if self._waiter is not None:
            self._stop_silence()
            if seconds is not None:
                self._silence_timer = self._clock.callLater(seconds, self._too_silent)

    def _too_silent(self) -> None:
        self._silence_timer = None
        self.cancel(
            DeadlineExceeded(f"the stream was silent for {self._silence:g} s, and was cancelled")
        )

    def _stop_silence(self) -> None:
        timer, self._silence_timer = self._silence_timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _reader_cancelled(self, _: Deferred[None]) -> None:
        self._waiter = None
        self._stop_silence()
        self.cancel()

    def reader_is_gone(self) -> None:
        """The coroutine that reads is closed: it is garbage, or the process ends."""
        self._waiter = None
        self._stop_silence()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._stop_silence()
            waiter.callback(None)

    # -- the end -----------------------------------------------------------------------------

    def cancel(self, error: Exception | None = None, *, keep: bool = False) -> None:
        """End it, and tell the server; the reader gets *error*, None for ``CancelledError``.

        :param keep: whether what has arrived may be read before.
        """
        if self.outcome is not None:
            if error is None and self.hub is None:
                self.items.clear()
            return
        if not keep:
            self.items.clear()
        opening, hub = self._opening, self.hub
        self._finish(error or CancelledError("the stream was cancelled"))
        if opening is not None:
            opening.deferred.cancel()
        elif hub is not None:
            hub.cancel(self)

    def forgotten(self) -> None:
        """Its reader is garbage; called in any thread, at any moment."""
        guard = self._book.guard
        if guard.forked:
            return
        if guard.is_owner():
            self._clock.callLater(0, self.cancel)
        else:
            guard.reactor().callFromThread(self.cancel)

    def fail(self, error: Exception) -> None:
        """There is no more here; what has arrived may still be read."""
        if self.outcome is not None:
            return
        hub = self.hub
        if hub is not None and self.reopen is not None and isinstance(error, Unavailable):
            self.hub = None
            hub.ended(self)
            self._go_on_elsewhere()
        else:
            self._finish(error)

    def _go_on_elsewhere(self) -> None:
        """The server is lost; another one may know how to go on."""
        assert self.reopen is not None
        try:
            self.reopen(self, self.receiver.sequence)
        except Exception as error:  # noqa: BLE001 - that the channel is closed, for instance
            self._finish(error)

    def open_again(self, call: OpeningCall, begin: Callable[[Call], None]) -> None:
        """Make another call that opens it."""
        self._opening = call
        call.deferred.addCallbacks(self._opened, self._not_opened)
        begin(call)

    def too_late(self) -> None:
        """Its time is up."""
        self.cancel(DeadlineExceeded("the stream's time was up"))

    def give_up(self, error: Exception) -> None:
        """The channel is closed."""
        self.cancel(error)

    def _finish(self, outcome: Exception) -> None:
        self.outcome = outcome_of(outcome, self.method)
        self._book.compound_ended(self)
        if self.parent is not None and self.deferred is not None:
            self.parent.release(self.deferred)
        hub, self.hub = self.hub, None
        if hub is not None:
            hub.ended(self)
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.stop()
        self._tell_opened()
        self._wake()


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
        self._subscriber: SubscriberTransport | None = None
        self._endpoint = ""
        self._reached = False
        self._epoch = b""
        self._grace = _GRACE
        # What is to be said, by topic; and how far the client has come.
        self._positions: dict[bytes, int] = {}
        self._unread: dict[ClientStream, None] = {}
        self._to_cancel: list[bytes] = []
        self._to_replay: dict[ClientStream, None] = {}
        # Streams of requests, and whether something was sent of them; those that have something to
        # send, and those that have to send all once more. The latter two are ordered sets.
        self._requests: dict[Requests, bool] = {}
        self._fresh: dict[Requests, None] = {}
        self._again: dict[Requests, None] = {}
        # Until a lost connection is given up.
        self._patience: Timer | None = None
        self._reason = ""
        # Until it is looked after streams that miss something, or whose publisher is not reached.
        self._look: Timer | None = None
        self._reconnect: Timer | None = None
        self._closed = False
        # Whether what a publisher sent is being read.
        self._reading = False

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
        if self._subscriber is None or endpoint != self._endpoint:
            self._endpoint = endpoint
            self._connect()
        else:
            self._subscriber.subscribe(stream.topic + SEPARATOR)
        if not self._reached:
            self._look_later()
        self._flush_soon()  # or the connection would not be watched

    def _connect(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        self._reached = False
        if subscriber is not None:
            subscriber.close()
        # A publication has 64 KiB and an item at most.
        options = {"MAXMSGSIZE": max(self._message_size, MESSAGE_SIZE) + 2 * 65_536}
        try:
            self._subscriber = self._network.subscribe(self._endpoint, self, options)
        except Exception as error:  # noqa: BLE001 - whatever the server told that is no address
            reason = f"cannot subscribe at {self._endpoint}: {error}"
            for stream in self._all():
                stream.cancel(Unavailable(reason))
            return
        for stream in self._all():
            self._subscriber.subscribe(stream.topic + SEPARATOR)

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
        self._unread.pop(stream, None)
        if self._subscriber is not None:
            self._subscriber.unsubscribe(stream.topic + SEPARATOR)
        if stream.receiver.end is not None and not stream.shared:
            self._positions[stream.topic] = stream.position
        self._flush_soon()
        if not self._streams and not self._requests:
            self._stop_timers()

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
        """Send what there is when the turn ends."""
        if not self._fresh:
            self._flush_soon()
            self._look_later()
        self._fresh[requests] = None

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
            some = list(self._positions)[:MAX_CANCELLED]
            request = streams_pb2.AcknowledgeRequest()
            for topic in some:
                request.positions.add(topic=topic, sequence=self._positions[topic])
            body = request.SerializeToString()
            if not self._owner.call_streams(_ACKNOWLEDGE, body, self._acknowledged):
                return
            for topic in some:
                del self._positions[topic]
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

    def _acknowledged(self, head: ResponseHead | None, body: bytes) -> None:
        if head is None or head.code is not Code.OK:
            return  # a heartbeat will ask again, or the connection's end
        try:
            response = streams_pb2.AcknowledgeResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        for topic in response.unknown:
            self._unknown(topic, response.epoch)

    def _unknown(self, topic: bytes, epoch: bytes) -> None:
        for stream in self._with(topic):
            stream.fail(self._why_unknown(epoch))

    def _with(self, topic: bytes) -> list[ClientStream]:
        """The streams with a topic: more than one only where they are shared."""
        stream = self._streams.get(topic)
        return [] if stream is None else [stream, *self._others.get(topic, ())]

    def _why_unknown(self, epoch: bytes) -> Unavailable:
        if epoch and epoch != self._epoch:
            reason = f"the server at {self._owner.address} was restarted"
        elif self._reached:
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
        publication = from_message(response.publication)
        # What is still missing is asked for at once, unless there is nothing to be had.
        stream.asked = not publication.items
        if publication.sequence > stream.receiver.sequence:
            stream.gap(publication.sequence)
        stream.arrived(publication)

    # -- what the publisher's connection tells -----------------------------------------------

    def published(self, frame: bytes) -> None:
        """Something was published."""
        self._owner.messages += 1
        self._reading = True
        try:
            self._published(frame)
        finally:
            self._reading = False

    def _published(self, frame: bytes) -> None:
        stream = self._streams.get(topic_of(frame))
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
        if self._reading and self._subscriber is not None:
            self._subscriber.flush_soon()
        else:
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
        again = not self._reached and bool(self._streams)
        for stream in self._all():
            stream.asked = False
            if stream.wants_replay:
                again = True
                self.replay(stream)
        for requests in self._requests:
            if requests.is_unacknowledged:
                again = True
                self._fresh[requests] = None
                requests.ask()
                self._flush_soon()
        if not self._reached:
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
        for table in (self._requests, self._fresh, self._again):
            table.clear()
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            subscriber.close()


def _forget(head: ResponseHead | None, body: bytes) -> None:
    """Nothing hangs on the answer."""


def _ignore(_: object) -> None:
    """Who cancelled it knows."""
