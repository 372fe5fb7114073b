"""The streams of responses that a server has open: handlers asked for items, items published."""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._ids import new_epoch
from txzmq._reactor import Clock, Timer
from txzmq.rpc._core.coroutines import CoroutineRunner, close_source
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._core.interceptors import start
from txzmq.rpc._server.call import StreamCall
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import Entry
from txzmq.rpc._server.publisher import Publisher
from txzmq.rpc._server.request_stream import ServedRequests
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.rpc._server.shared import Members, SharedRequest, is_shared
from txzmq.rpc._server.status import log_late_failure, status_of
from txzmq.rpc._wire.headers import (
    OK,
    OpenedStream,
    RequestHead,
    ResponseHead,
    encode_response,
)
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import SEPARATOR, Ring, Sender, to_message
from txzmq.rpc.context import Context, set_current
from txzmq.rpc.errors import Code, ResourceExhausted
from txzmq.rpc.limits import MAX_CANCELLED, ServerLimits
from txzmq.rpc.metadata import check_size
from txzmq.rpc.v1 import streams_pb2

__all__ = ["ServedStreams"]

_log = Logger()
_SERVICE: Final = "/txzmq.rpc.v1.Streams/"
_SEND: Final = f"{_SERVICE}Send"
_NO_REQUESTS: Final = ResponseHead(Code.NOT_FOUND, "the server does not have this stream")
_NO_SURROUNDINGS: Final = contextvars.Context()
#: Seconds. Not 0: virtual time would stand still while a handler gives items without end.
_NEXT_TURN: Final = 1e-6
#: Seconds from what was published to the first heartbeat that names its number.
_HEARTBEAT: Final = 1.0
#: How often per time that a client may be silent it is looked whether it is.
_ROLL_CALLS: Final = 4
#: The pauses between heartbeats double up to so many of the first.
_MAX_PAUSE: Final = 8


class ServedStreams:
    """All streams of responses of a server."""

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        limits: ServerLimits,
        *,
        debug: bool,
        count: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        """
        :param count: counts something that was refused or dropped.
        :param settled: called when a stream has ended.
        """
        self._clock = clock
        self._guard = guard
        self._limits = limits
        self._debug = debug
        self.count = count
        self._settled = settled
        self.epoch = new_epoch()
        self._streams: dict[bytes, ServedStream] = {}
        # How many handlers have not ended, and those whose streams have. An ordered set.
        self._running = 0
        self._lingering: dict[ServedStream, None] = {}
        self._ended = self._pumped  # once for all of them
        self._of_peer: Counter[bytes] = Counter()
        # Private streams that have not come to their end on both sides.
        self._kept_for_peer: Counter[bytes] = Counter()
        self._members: Members[ServedStream] = Members()
        # By the request that opened it, until its client has subscribed.
        self._unclaimed: dict[CallKey, ServedStream] = {}
        # Streams of requests, by what their clients call them.
        self._requests: dict[bytes, ServedRequests] = {}
        self._deadlines: Deadlines[ServedStream] = Deadlines(clock, self._too_late)
        self._alarms: Deadlines[ServedStream] = Deadlines(clock, self._forsaken)
        # Streams of which something is not acknowledged; an ordered set.
        self._unacknowledged: dict[ServedStream, None] = {}
        self._beat: Timer | None = None
        self._beat_at = 0.0
        # When each client said something last that has streams of its own; and until it is looked
        # whether they still do.
        self._heard: dict[bytes, float] = {}
        # Those that were asked on each of their streams, and are given up next.
        self._warned: set[bytes] = set()
        self._roll_call: Timer | None = None
        self._roll_call_at = 0.0
        # Bytes that are kept, and streams that wait until they are fewer. An ordered set.
        self._bytes = 0
        self._starved: dict[ServedStream, None] = {}

    def __len__(self) -> int:
        """How many streams have not come to their end on both sides."""
        return len(self._streams) + len(self._lingering)

    @property
    def running(self) -> int:
        """How many handlers have not ended."""
        return self._running

    def find(self, tag: bytes) -> ServedStream | None:
        """The stream with a topic, given with the separator behind it."""
        return self._streams.get(tag[:-1]) if tag[-1:] == SEPARATOR else None

    # -- opening -----------------------------------------------------------------------------

    def may_open(self, head: RequestHead, entry: Entry) -> ResponseHead | None:
        """Why a stream is not opened; None if it may be."""
        assert head.open_stream is not None, "it opens a stream"
        options = entry.method.stream
        if head.open_stream.sequence > 1 and not (options and options.resumable):
            return ResponseHead(Code.FAILED_PRECONDITION, f"{head.path} is not resumable")
        if head.open_stream.requests in self._requests:
            return ResponseHead(Code.INVALID_ARGUMENT, "there is a stream with this id")
        return None

    def receive(self, call: StreamCall) -> None:
        """Be ready for the requests that follow a call."""
        requests = ServedRequests(
            call.entry.method,
            call.open_stream.requests,
            self._limits.message_size,
            self._not_any_more,
        )
        call.requests = self._requests[requests.id] = requests

    def _not_any_more(self, requests: ServedRequests) -> None:
        self._requests.pop(requests.id, None)

    # Any: whatever a handler returned.
    def open(self, call: StreamCall, source: Any) -> ResponseHead:
        """Make a stream of what a handler returned; the answer to the opening call."""
        if isinstance(source, SharedRequest):
            return self._join(call, source)
        if is_shared(call.entry.method):
            _log.error(
                "an interceptor of {path}, which is shared, returned something else",
                path=call.entry.path,
            )
            return ResponseHead(Code.INTERNAL, "an interceptor changed a shared stream")
        if not _is_stream(source):
            _log.error(
                "{path} returned {actual}, not an iterable or an asynchronous one",
                path=call.entry.path,
                actual=type(source).__qualname__,
            )
            return ResponseHead(Code.INTERNAL, "the handler returned a wrong type")
        publisher = call.listener.publisher
        if publisher is None or publisher.transport is None:
            return ResponseHead(Code.UNAVAILABLE, "the server does not publish here")
        limits, wanted = self._limits, call.open_stream
        refusal = self._why_not(call.key[0])
        if refusal:
            self.count("shed stream")
            return ResponseHead(Code.RESOURCE_EXHAUSTED, refusal)
        sender = Sender(
            min(wanted.window_items or limits.stream_window, limits.stream_window),
            min(wanted.window_bytes or limits.stream_window_bytes, limits.stream_window_bytes),
            call.context.first_item,
        )
        stream = ServedStream(
            call.entry.method,
            call.key,
            call.context,
            call.deadline,
            call.surroundings,
            publisher,
            source,
            sender,
        )
        stream.requests, call.requests = call.requests, None
        peer = stream.opener
        self._of_peer[peer] += 1
        self._kept_for_peer[peer] += 1
        if self._of_peer[peer] > 1:  # one alone has no use of it
            publisher.bundle(stream)
        self._call_roll_later()
        self.heard(stream.peer)
        self._unclaimed[stream.key] = stream
        if stream.deadline is not None:
            stream.tick = self._deadlines.set(stream, stream.deadline)
        self._add_stream(stream)
        return self._opened(stream, sender.sequence)

    def _add_stream(self, stream: ServedStream) -> None:
        self._streams[stream.topic] = stream
        self._running += 1
        self._set_alarm(stream)

    def _opened(self, stream: ServedStream, sequence: int) -> ResponseHead:
        shared = stream.shared is not None
        return ResponseHead(
            stream=OpenedStream(
                stream.topic,
                stream.publisher.endpoint,
                self.epoch,
                sequence,
                round(self._limits.stream_grace * 1000),
                shared=shared,
                window_items=0 if shared else stream.sender.window_items,
                window_bytes=0 if shared else stream.sender.window_bytes,
                bundle=b"" if stream.bundle is None else stream.bundle.topic,
            )
        )

    def _join(self, call: StreamCall, wanted: SharedRequest) -> ResponseHead:
        """Have a call take part in a run of the handler, which begins with the first one."""
        publisher = call.listener.multicast or call.listener.publisher
        if publisher is None or publisher.transport is None:
            return ResponseHead(Code.UNAVAILABLE, "the server does not publish here")
        stream = publisher.runs.get(wanted.key)
        peer = call.key[0]
        refusal = self._why_not(peer) if stream is None else self._why_not_of_peer(peer)
        if len(self._members) >= self._limits.subscribers:
            refusal = refusal or (
                f"{self._limits.subscribers} calls share streams on the server "
                "(ServerLimits.subscribers)"
            )
        if refusal:
            self.count("shed stream")
            return ResponseHead(Code.RESOURCE_EXHAUSTED, refusal)
        if stream is None:
            stream = self._begin_run(publisher, wanted)
        self._members.join(stream, call.key)
        head = self._opened(stream, stream.sender.acknowledged)
        if publisher.multicast:
            self.subscribed(stream)  # it will say itself when it listens
        return head._replace(initial=stream.context.initial_metadata)

    def _begin_run(self, publisher: Publisher, wanted: SharedRequest) -> ServedStream:
        """The handler serves all calls with this request, and knows of none of them."""
        method = wanted.method
        context = Context(method.path, clock=self._clock)
        replay = 0 if method.stream is None else method.stream.replay
        stream = ServedStream(
            method,
            (),
            context,
            None,
            contextvars.copy_context(),
            publisher,
            wanted,
            Ring(replay, self._limits.stream_window_bytes),
        )
        stream.shared = wanted.key
        publisher.runs[wanted.key] = stream
        self._add_stream(stream)
        return stream

    def _why_not(self, peer: bytes) -> str:
        """The limit that forbids one more stream, in words; empty if none does."""
        limits = self._limits
        # Of some the handler still runs, of others the client has not had the end.
        if max(self._running, len(self._streams)) >= limits.streams:
            return f"{limits.streams} streams are open on the server (ServerLimits.streams)"
        refusal = self._why_not_of_peer(peer)
        if refusal:
            return refusal
        if self._bytes >= limits.streams_bytes:
            return (
                f"{limits.streams_bytes} bytes of streams are not acknowledged on the server "
                "(ServerLimits.streams_bytes)"
            )
        return ""

    def _why_not_of_peer(self, peer: bytes) -> str:
        """As :meth:`_why_not`, of the limits that each client has for itself."""
        limit = self._limits.streams_per_peer
        own = max(self._of_peer[peer], self._kept_for_peer[peer])
        if own + self._members.of_peer(peer) < limit:
            return ""
        return (
            f"{limit} streams of this client are open on the server (ServerLimits.streams_per_peer)"
        )

    def unopened(self, key: CallKey) -> None:
        """The client has cancelled an opening call that was answered."""
        stream = self._unclaimed.get(key)
        if stream is not None:
            self.cancel(stream, "the client cancelled it")
            return
        stream = self._members.leave_by_call(key)
        if stream is not None:
            self._left(stream)

    def peer_lost(self, peer: bytes) -> None:
        """A client has gone, or comes back by another connection."""
        for stream in self._members.lost(peer):
            if stream.publisher.multicast:
                self.unsubscribed(stream)

    def _came_back(self, stream: ServedStream, peer: bytes, calls: int) -> None:
        """A client whose connection was lost may have another one."""
        for _ in range(self._members.came_back(stream, peer, calls)):
            if stream.publisher.multicast:
                self.subscribed(stream)

    def _leave(self, stream: ServedStream, peer: bytes) -> None:
        """One of a client's calls is done with a run."""
        if self._members.leave(stream, peer):
            self._left(stream)
        else:
            self._look_for_members(stream)

    def _left(self, stream: ServedStream) -> None:
        """A call that took part in a run is done with it."""
        if stream.publisher.multicast:
            self.unsubscribed(stream)
        self._look_for_members(stream)

    def _set_alarm(self, stream: ServedStream) -> None:
        stream.alarm = self._alarms.set(stream, self._clock.seconds() + self._limits.stream_grace)

    def subscribed(self, stream: ServedStream) -> None:
        """A client is ready for what is published."""
        stream.subscribers += 1
        if stream.subscribers == 1 and not _is_over(stream):
            self._alarms.remove(stream, stream.alarm)
            stream.alarm = 0
        if not stream.started:
            if not stream.publisher.multicast:
                self._start(stream)
        else:
            # Again: what was published meanwhile has not arrived.
            stream.publisher.heartbeat(stream)

    def unsubscribed(self, stream: ServedStream) -> None:
        """A client has gone, for a moment perhaps."""
        stream.subscribers -= 1
        if stream.subscribers == 0 and not _is_over(stream):
            self._set_alarm(stream)
            if stream.shared is not None:
                self._look_for_members(stream)

    def _look_for_members(self, stream: ServedStream) -> None:
        """End a run when the last one has said that it is done with it."""
        if not stream.subscribers and not self._members.of_stream(stream):
            self.cancel(stream, "nobody subscribes to it any more")

    def _forsaken(self, stream: ServedStream) -> None:
        if _is_over(stream):
            self._remove(stream)  # who has missed the end has had the time to ask for it
            self._settled()
            return
        self.count("stream without subscriber")
        self.cancel(stream, "nobody subscribes to it")

    # -- the handler -------------------------------------------------------------------------

    def _start(self, stream: ServedStream) -> None:
        stream.started = True
        self._unclaimed.pop(stream.key, None)
        stream.key = ()
        source, stream.source = stream.source, None
        surroundings, stream.surroundings = stream.surroundings, _NO_SURROUNDINGS
        if stream.shared is not None:
            surroundings.run(set_current, stream.context)
        stream.pump = CoroutineRunner(self._pump(stream, source), surroundings, self._ended, stream)
        stream.pump.start()

    async def _pump(self, stream: ServedStream, source: Any) -> None:
        """Ask the handler for items, as long as there is room for them."""
        if isinstance(source, SharedRequest):
            source = await start(source.handler, stream.context, source.request)
            if not _is_stream(source):
                raise TypeError(f"{stream.method.path} returned no iterable")
        try:
            if isinstance(source, AsyncIterable):
                items: AsyncIterable[Any] = source  # pyright: ignore[reportUnknownVariableType]  # a user's
                async for item in items:
                    full = self._add(stream, item)
                    del item  # or it is kept until there is another
                    if full:
                        await self._room(stream)
            else:
                await self._pump_one_by_one(stream, source)
        except GeneratorExit:
            raise  # the process ends, and nothing can be waited for
        except BaseException:
            await close_source(source)
            raise
        await close_source(source)

    # Any: of items, or of Deferreds of them.
    async def _pump_one_by_one(self, stream: ServedStream, source: Iterable[Any]) -> None:
        for item in source:
            if isinstance(item, Deferred):
                waited: Deferred[Any] = item  # pyright: ignore[reportUnknownVariableType]  # a user's
                full = self._add(stream, await waited)
                del waited
            else:
                full = self._add(stream, item)
            del item  # or it is kept until there is another
            if full:
                await self._room(stream)

    def _add(self, stream: ServedStream, item: Message) -> bool:
        """Take an item of a handler; whether the next one has to wait."""
        expected = stream.method.response_type
        if type(item) is not expected:
            name = type(item).__qualname__
            raise TypeError(f"{stream.method.path} gave {name}, not {expected.__qualname__}")
        data = item.SerializeToString()
        size = len(data)
        if size > self._limits.message_size:
            raise ResourceExhausted(
                f"an item of the stream has {size} bytes, over the server's limit of "
                f"{self._limits.message_size} (ServerLimits.message_size)"
            )
        self._bytes += size
        sender = stream.sender
        if sender.add(data):
            stream.publisher.publish(stream)
            if stream.shared is not None:
                return True  # nobody makes it wait but the reactor, which has others to serve
        else:
            stream.publisher.publish_soon(stream)
        return sender.is_full or self._bytes >= self._limits.streams_bytes

    def _room(self, stream: ServedStream) -> Deferred[None]:
        """Fires when another item may come."""
        stream.room = Deferred()
        if stream.shared is not None and self._bytes < self._limits.streams_bytes:
            self._clock.callLater(_NEXT_TURN, self._make_room, stream)
        elif not stream.sender.is_full:
            self._starved[stream] = None
        return stream.room

    def _make_room(self, stream: ServedStream) -> None:
        room = stream.room
        if room is None or stream.sender.is_full:
            return
        if self._bytes >= self._limits.streams_bytes:
            self._starved[stream] = None
            return
        stream.room = None
        self._starved.pop(stream, None)
        room.callback(None)

    def _pumped(self, result: object, stream: ServedStream) -> None:
        """The handler has ended."""
        if self._guard.hands_over(self._pumped_elsewhere, stream):
            return
        stream.pump = None
        stream.room = None
        self._end_requests(stream)
        stream.running = False
        self._running -= 1
        self._lingering.pop(stream, None)
        self._starved.pop(stream, None)
        if stream.shared is None:
            peer = stream.opener
            self._of_peer[peer] -= 1
            if self._of_peer[peer] <= 0:
                del self._of_peer[peer]
            if not self._of_peer:
                self._stop_roll_calls()
        if stream.gone or stream.sender.ended:
            if isinstance(result, Failure):
                log_late_failure(result, stream.context)
        elif isinstance(result, Failure):
            self._end(stream, status_of(result, stream.context, debug=self._debug))
        else:
            self._end(stream, OK)
        self._settled()

    def _end_requests(self, stream: ServedStream) -> None:
        requests, stream.requests = stream.requests, None
        if requests is not None:
            requests.close()

    def _pumped_elsewhere(self, stream: ServedStream, failure: Failure) -> None:
        self._pumped(failure, stream)

    def _end(self, stream: ServedStream, head: ResponseHead) -> None:
        """Publish the end; the stream is kept until the client has it."""
        context = stream.context
        head = head._replace(trailing=(*context.trailing_metadata, *head.trailing))
        if not check_size((*head.trailing, *head.initial), self._limits.metadata_size):
            head = self._too_much_metadata()
        stream.sender.end(_encode(head))
        if stream.deadline is not None:
            self._deadlines.remove(stream, stream.tick)
        if stream.shared is not None:
            # Nobody acknowledges it, so it is kept for a while.
            stream.publisher.runs.pop(stream.shared, None)
            self._members.dismiss(stream)
            self._alarms.remove(stream, stream.alarm)
            self._set_alarm(stream)
        stream.publisher.publish_soon(stream)

    def _too_much_metadata(self) -> ResponseHead:
        return ResponseHead(
            Code.RESOURCE_EXHAUSTED,
            "the metadata of the response is over the server's limit of "
            f"{self._limits.metadata_size} bytes (ServerLimits.metadata_size)",
        )

    def publishing(self, stream: ServedStream) -> None:
        """What a stream has is about to be published."""
        if not stream.begun:
            stream.begun = True
            initial = stream.context.initial_metadata
            if initial and check_size(initial, self._limits.metadata_size):
                stream.sender.start(_encode(ResponseHead(initial=initial)))
        stream.quiet = 0
        stream.pause = 1
        if stream not in self._unacknowledged:
            stream.heard = self._clock.seconds()
            self._unacknowledged[stream] = None
            if self._beat is None:
                self._beat_later()

    # -- what clients say --------------------------------------------------------------------

    def control(self, listener: Listener, key: CallKey, path: str, body: bytes) -> bool:
        """Serve a call of the control service; whether it is one."""
        if not path.startswith(_SERVICE):
            return False
        if path == _SEND:
            self._receive(listener, key, body)
            return True
        serve = self._CONTROLS.get(path[len(_SERVICE) :])
        if serve is None:
            return False
        try:
            head, reply = serve(self, key[0], body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            head, reply = ResponseHead(Code.INTERNAL, "the request cannot be parsed"), b""
        listener.answer(key, head, reply)
        return True

    def _receive(self, listener: Listener, key: CallKey, body: bytes) -> None:
        try:
            request = streams_pb2.SendRequest.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            listener.answer(key, ResponseHead(Code.INTERNAL, "the request cannot be parsed"))
            return
        requests = self._requests.get(request.requests)
        if requests is not None:
            requests.receive(listener, key, request)
        elif request.acknowledge:
            listener.answer(key, _NO_REQUESTS)

    def _acknowledge(self, peer: bytes, body: bytes) -> tuple[ResponseHead, bytes]:
        request = streams_pb2.AcknowledgeRequest.FromString(body)
        if len(request.positions) > MAX_CANCELLED:
            return _too_many("Acknowledge"), b""
        unknown: list[bytes] = []
        shared: dict[ServedStream, int] = {}
        for position in request.positions:
            stream = self._streams.get(position.topic)
            if stream is None:
                unknown.append(position.topic)
            else:
                self._acknowledged(stream, position.sequence)
                if stream.shared is None:
                    stream.peer = peer
                else:
                    shared[stream] = shared.get(stream, 0) + 1
        self.heard(peer)
        for stream, calls in shared.items():
            self._came_back(stream, peer, calls)
        response = streams_pb2.AcknowledgeResponse(unknown=unknown, epoch=self.epoch)
        return OK, response.SerializeToString()

    def _acknowledged(self, stream: ServedStream, sequence: int) -> None:
        stream.heard = self._clock.seconds()
        sender = stream.sender
        size = sender.size
        if not sender.acknowledge(sequence):
            return
        self.released(size - sender.size)
        if not len(sender):
            self._unacknowledged.pop(stream, None)
            stream.heard = 0.0
        if sender.is_done:
            self._remove(stream)
            self._settled()
        else:
            self._make_room(stream)

    def released(self, size: int) -> None:
        """Some bytes are not kept any more."""
        self._bytes -= size
        if self._starved and self._bytes < self._limits.streams_bytes:
            for stream in list(self._starved):
                self._make_room(stream)

    def _replay(self, peer: bytes, body: bytes) -> tuple[ResponseHead, bytes]:
        request = streams_pb2.ReplayRequest.FromString(body)
        stream = self._streams.get(request.topic)
        if stream is None:
            return ResponseHead(Code.NOT_FOUND, "the server does not have this stream"), b""
        if stream.publisher.multicast and not stream.started:
            self._start(stream)  # somebody listens, and asks for what there is
        stream.publisher.publish(stream)
        stream.heard = self._clock.seconds()
        self.count("replay")
        publication = stream.sender.replay(request.sequence)
        response = streams_pb2.ReplayResponse(publication=to_message(publication))
        return OK, response.SerializeToString()

    def _cancel(self, peer: bytes, body: bytes) -> tuple[ResponseHead, bytes]:
        request = streams_pb2.CancelStreamsRequest.FromString(body)
        if len(request.topics) > MAX_CANCELLED:
            return _too_many("Cancel"), b""
        for topic in request.topics:
            stream = self._streams.get(topic)
            if stream is None or _is_over(stream):
                continue
            if stream.shared is None:
                self.cancel(stream, "the client cancelled it")
            else:
                self._leave(stream, peer)
        return OK, b""

    _CONTROLS: Final[
        dict[str, Callable[[ServedStreams, bytes, bytes], tuple[ResponseHead, bytes]]]
    ] = {
        "Acknowledge": _acknowledge,
        "Replay": _replay,
        "Cancel": _cancel,
    }

    def heard(self, peer: bytes) -> None:
        """A client has given a sign of life."""
        if self._roll_call is not None:
            self._heard[peer] = self._clock.seconds()

    def _call_roll_later(self) -> None:
        if self._roll_call is None:
            pause = self._limits.stream_silence / _ROLL_CALLS
            self._roll_call = self._clock.callLater(pause, self._call_roll)
            self._roll_call_at = self._clock.seconds() + pause

    def _call_roll(self) -> None:
        """Give up the streams of clients that have stopped, of which all is acknowledged, too.

        A client that has said nothing for a while is sent a heartbeat on one of its streams, which
        it answers. One that does not gets another on each, so that it learns that they are given
        up should it go on later.
        """
        self._roll_call = None
        silence = self._limits.stream_silence
        now = self._clock.seconds()
        if now - self._roll_call_at > silence / _ROLL_CALLS:
            self._heard.clear()  # what has arrived while the reactor stood still is to be read
        heard: dict[bytes, float] = {}
        asked: set[bytes] = set()
        warned, self._warned = self._warned, set()
        for stream in list(self._streams.values()):
            if stream.shared is not None or not stream.started:
                continue
            peer = stream.peer
            last = heard[peer] = self._heard.get(peer, now)
            silent = now - last
            if silent < silence / 2 or stream in self._unacknowledged:
                continue  # in the latter case others ask
            if silent >= silence and peer in warned:
                self.count("silent subscriber")
                self.cancel(stream, "the client has stopped answering")
                continue
            if silent >= silence * 3 / 4:
                self._warned.add(peer)
            elif peer in asked:
                continue
            asked.add(peer)
            stream.publisher.heartbeat(stream)
        if self._of_peer:
            self._heard = heard
            self._call_roll_later()
        else:
            self._heard.clear()
            self._warned.clear()

    def _stop_roll_calls(self) -> None:
        timer, self._roll_call = self._roll_call, None
        if timer is not None:
            timer.cancel()
        self._heard.clear()
        self._warned.clear()

    def _heartbeat(self) -> None:
        """Name what has been published, where it is not acknowledged; once in a while."""
        self._beat = None
        now = self._clock.seconds()
        silent_since = now - self._limits.stream_silence
        # What has arrived while the reactor stood still is to be read.
        stood_still = now - self._beat_at > _HEARTBEAT
        for stream in list(self._unacknowledged):
            if stood_still:
                stream.heard = now
            elif stream.heard < silent_since and stream.shared is None:
                self.count("silent subscriber")
                self.cancel(stream, "the client has stopped answering")
                continue
            stream.quiet += 1
            if stream.quiet >= stream.pause:
                stream.quiet = 0
                stream.pause = min(2 * stream.pause, _MAX_PAUSE)
                stream.publisher.heartbeat(stream)
        if self._unacknowledged:
            self._beat_later()

    def _beat_later(self) -> None:
        self._beat = self._clock.callLater(_HEARTBEAT, self._heartbeat)
        self._beat_at = self._clock.seconds() + _HEARTBEAT

    # -- ends that come from outside ---------------------------------------------------------

    def cancel(self, stream: ServedStream, reason: str) -> None:
        """End a stream that nobody wants."""
        if stream.gone:
            return
        stream.gone = True
        self._remove(stream)
        self._interrupt(stream, reason)
        self._settled()

    def _interrupt(self, stream: ServedStream, reason: str) -> None:
        stream.context.cancel(reason)
        self._end_requests(stream)
        if stream.pump is not None:
            stream.pump.cancel()
        elif stream.source is not None:  # nobody has subscribed
            source, stream.source = stream.source, None
            stream.started = True
            closing = Deferred.fromCoroutine(close_source(source))
            closing.addBoth(self._pumped, stream)

    def _too_late(self, stream: ServedStream) -> None:
        if stream.sender.ended or stream.gone:
            return
        status = ResponseHead(
            Code.DEADLINE_EXCEEDED, "the stream's time was up on the server; it was cut short"
        )
        self._end(stream, status)
        self._interrupt(stream, "its deadline has passed")

    def _remove(self, stream: ServedStream) -> None:
        if self._streams.pop(stream.topic, None) is None:
            return
        stream.gone = True
        if stream.running:
            self._lingering[stream] = None
        if stream.shared is not None:
            stream.publisher.runs.pop(stream.shared, None)
            self._members.dismiss(stream)
        else:
            peer = stream.opener
            self._kept_for_peer[peer] -= 1
            if not self._kept_for_peer[peer]:
                del self._kept_for_peer[peer]
        stream.publisher.unbundle(stream)
        self._unclaimed.pop(stream.key, None)
        if stream.deadline is not None:
            self._deadlines.remove(stream, stream.tick)
        self._alarms.remove(stream, stream.alarm)
        self._unacknowledged.pop(stream, None)
        self._starved.pop(stream, None)
        self.released(stream.sender.size)
        if not self._unacknowledged and self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def end(self) -> None:
        """The server shuts down: end all streams."""
        for stream in list(self._streams.values()):
            if not stream.sender.ended and not stream.gone:
                head = ResponseHead(Code.UNAVAILABLE, "the server shut down", draining=True)
                self._end(stream, head)
            self._interrupt(stream, "the server shuts down")

    def close(self) -> None:
        """Leave nothing behind, in the reactor or here."""
        for stream in list(self._streams.values()):
            self._remove(stream)
        self._deadlines.close()
        self._alarms.close()
        self._stop_roll_calls()
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None


def _is_over(stream: ServedStream) -> bool:
    """Whether it is a shared stream that has ended."""
    return stream.shared is not None and stream.sender.ended


def _is_stream(source: object) -> bool:
    return isinstance(source, (AsyncIterable, Iterable))


def _too_many(method: str) -> ResponseHead:
    reason = f"one {method} takes {MAX_CANCELLED} streams at most"
    return ResponseHead(Code.INVALID_ARGUMENT, reason)


def _encode(head: ResponseHead) -> bytes:
    try:
        return encode_response(head)
    except Exception:  # noqa: BLE001 - whatever a handler put in, its caller gets an answer
        # Without the head: what cannot be sent may be a secret all the same.
        _log.failure("a handler's status or its metadata cannot be sent")
        return encode_response(
            ResponseHead(Code.INTERNAL, "the handler's status or metadata cannot be sent")
        )
