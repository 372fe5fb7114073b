"""The streams that a server has: how they are opened, found and counted, and their limits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from heapq import merge
from typing import Any, Final

from txzmq._guard import Guard
from txzmq._identity import key_of, user_of
from txzmq._ids import new_epoch
from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Clock
from txzmq.rpc._core.deadlines import TICK, Deadlines
from txzmq.rpc._core.handler_style import Runner
from txzmq.rpc._core.stream_state import ENDED, OPENING
from txzmq.rpc._server.admission import RequestBytes
from txzmq.rpc._server.call import StreamCall, counted_as
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.request_stream import ReceivedRequests
from txzmq.rpc._server.response_stream import (
    KeptBytes,
    ServedStream,
    StreamPublisher,
)
from txzmq.rpc._server.shared import Left, SharedRequest, SharedRuns
from txzmq.rpc._server.status import HandlerLog, tell_end
from txzmq.rpc._server.stream_liveness import Greetings, Heartbeats, Keepalive
from txzmq.rpc._wire.headers import OpenedStream, OpenStream, RequestHead, ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import SEPARATOR, Publication, Ring, Sender
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Kind
from txzmq.rpc.v1.streams_pb2 import Position

__all__ = ["StreamRegistry"]

_NO_PUBLISHER: Final = ResponseHead(
    Code.UNAVAILABLE, "this endpoint of the server has no publisher"
)
#: A timer that is later than so many seconds is so because the reactor was blocked.
_BLOCKED: Final = 1.0


class StreamRegistry:
    """All streams of a server, of responses and of requests (a :class:`StreamOwner`)."""

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        limits: ServerLimits,
        request_bytes: RequestBytes,
        *,
        log: HandlerLog,
        runner: Callable[..., Runner],
        count: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        """
        :param runner: makes what runs the coroutine that asks a handler for items.
        :param request_bytes: counts the requests of streams, too.
        :param log: says how handlers have failed.
        :param count: counts something that was refused or dropped.
        :param settled: called when a stream has ended.
        """
        self.clock = clock
        self.guard = guard
        self.limits = limits
        self.log = log
        self.runner = runner
        self.count = count
        self.settled = settled
        #: What the streams of this server have in common, told to clients.
        self.epoch = new_epoch()
        self._numbers = itertools.count(1)
        # Streams of responses by topic, until their clients have had the end; the oldest first.
        self._streams: dict[bytes, ServedStream] = {}
        # Those that were removed while their handlers had not ended.
        self._lingering: OrderedSet[ServedStream] = OrderedSet()
        # By the call that opened them, until its client has subscribed.
        self._unclaimed: dict[CallKey, ServedStream] = {}
        # Those that their clients had not come to within the grace, though they were alive.
        self._late: OrderedSet[ServedStream] = OrderedSet()
        # Streams of requests, by the ids that their clients give them.
        self._requests: dict[bytes, ReceivedRequests] = {}
        # How many handlers have not ended.
        self._running = 0
        # Of private streams by opener: those whose handlers have not ended, and those that have not
        # come to their end on both sides.
        self._running_of_peer: Counter[bytes] = Counter()
        self._kept_of_peer: Counter[bytes] = Counter()
        self.shared: SharedRuns[ServedStream] = SharedRuns(limits.stream_grace)
        self.kept = KeptBytes(limits.streams_bytes)
        self._request_bytes = request_bytes
        # Whose request each stream holds, and how many bytes.
        self._held: dict[ServedStream, tuple[bytes, int]] = {}
        # Who shares each shared stream, where users have authenticated.
        self._users: dict[ServedStream, set[str]] = {}
        self.deadlines: Deadlines[ServedStream] = Deadlines(clock, ServedStream.time_is_up)
        self.graces: Deadlines[ServedStream] = Deadlines(clock, self._grace_is_over)
        self.returns: Deadlines[ServedStream] = Deadlines(clock, ServedStream.return_is_over)
        self._heartbeats = Heartbeats(clock, limits.stream_silence)
        self.published = self._heartbeats.watch
        self._greetings = Greetings(clock, self.shared)
        self.greet = self._greetings.greet
        self.unacknowledged = self._heartbeats.streams
        self._keepalive = Keepalive(
            clock, limits.stream_silence, self._streams, self.unacknowledged, self.shared
        )
        self.heard = self._keepalive.heard
        # A private stream outlives the connection of its client for a while: its subscription and
        # its acknowledgements tell whether the client comes back.
        self.peer_lost = self.shared.peer_lost

    def __len__(self) -> int:
        """How many streams of responses have not come to their end on both sides."""
        return len(self._streams) + len(self._lingering)

    @property
    def running(self) -> int:
        """How many handlers have not ended."""
        return self._running

    def after(self, number: int) -> Iterator[ServedStream]:
        """The streams with higher numbers, in their order; none may come or go meanwhile."""
        lingering = sorted(self._lingering, key=_number)
        both = merge(self._streams.values(), lingering, key=_number)
        return (stream for stream in both if stream.number > number)

    def of_openers(self) -> Mapping[bytes, int]:
        """How many streams each user has, or else each client."""
        openers = {*self._running_of_peer, *self._kept_of_peer, *self.shared.owners()}
        return {opener: self._of_opener(opener) for opener in openers}

    def find(self, tag: bytes) -> ServedStream | None:
        """The stream with a topic, given with the separator behind it."""
        return self._streams.get(tag[:-1]) if tag[-1:] == SEPARATOR else None

    def is_for(self, stream: ServedStream, user: str) -> bool:
        """Whether a stream is a user's; a shared one is everybody's who has joined it."""
        if stream.shared is None:
            return user_of(stream.context.peer_identity) == user
        users = self._users.get(stream)
        return users is None or user in users

    def _own(self, topic: bytes, user: str) -> ServedStream | None:
        stream = self._streams.get(topic)
        return stream if stream is not None and self.is_for(stream, user) else None

    def revoke(self, keys: Collection[str], reason: str) -> None:
        """End the private streams of those who have one of these keys."""
        for stream in list(self._streams.values()):
            if key_of(stream.context.peer_identity) in keys:
                stream.cancel(reason)

    # -- streams of requests -----------------------------------------------------------------

    def receive(self, method: ServedMethod, id: bytes, user: str = "") -> ReceivedRequests:
        """Be ready for the requests that follow a user's call."""
        requests = ReceivedRequests(
            method.method, id, self.limits.message_size, self._requests_closed, user
        )
        self._requests[id] = requests
        return requests

    def _requests_closed(self, requests: ReceivedRequests) -> None:
        self._requests.pop(requests.id, None)

    def find_requests(self, id: bytes, user: str = "") -> ReceivedRequests | None:
        """A user's stream of requests with an id."""
        requests = self._requests.get(id)
        return requests if requests is not None and requests.user == user else None

    # -- opening a stream of responses -------------------------------------------------------

    def may_open(self, head: RequestHead, method: ServedMethod) -> ResponseHead | None:
        """Why a stream is not opened; None if it may be."""
        assert head.open_stream is not None, "it opens a stream"
        options = method.method.stream
        if head.open_stream.sequence > 1 and not (options and options.resumable):
            return ResponseHead(Code.FAILED_PRECONDITION, f"{head.path} is not resumable")
        if head.open_stream.requests in self._requests:
            return ResponseHead(
                Code.INVALID_ARGUMENT, "a stream of requests with this id is open already"
            )
        return None

    # Any: whatever a handler returned.
    def open(self, call: StreamCall, source: Any) -> ResponseHead:
        """Make a stream of what a handler returned; the answer to the opening call."""
        if isinstance(source, SharedRequest):
            return self._join(call, source)
        publisher = call.listener.publisher
        if publisher is None or not publisher.is_open:
            return _NO_PUBLISHER
        refusal = self._refusal(call.place[0])
        if refusal:
            return self._refuse(refusal)
        return self._opened(self._open_private(call, source, publisher))

    def _open_private(
        self, call: StreamCall, source: object, publisher: StreamPublisher
    ) -> ServedStream:
        peer, opener = call.key[0], call.place[0]
        self._running_of_peer[opener] += 1
        self._kept_of_peer[opener] += 1
        together = self._running_of_peer[opener] > 1  # one alone has no use of a bundle
        stream = ServedStream(
            self,
            publisher,
            call.method.method,
            call.context,
            source,
            self._sender(call.open_stream, call.context.first_item),
            call.surroundings,
            key=call.key,
            opener=opener,
            requests=call.hand_over_requests(),
            bundle=publisher.bundle(call.key[:-1], call.user) if together else None,
            request_bytes=call.size,
            number=next(self._numbers),
        )
        self._keepalive.heard(peer)
        self._unclaimed[call.key] = stream
        self._add(stream, call.deadline)
        if not call.method.request_streaming:  # else it is read item by item
            self._hold(stream, opener, call.size)
        return stream

    def _hold(self, stream: ServedStream, peer: bytes, size: int) -> None:
        """Count the request of a stream, which its handler has, as long as there is the stream."""
        if size:
            self._held[stream] = peer, size
            self._request_bytes.change(peer, size)

    def _let_go(self, stream: ServedStream) -> None:
        """Count the request no more, if nothing is left of the stream."""
        if stream.state is ENDED and not stream.running and stream in self._held:
            peer, size = self._held.pop(stream)
            self._request_bytes.change(peer, -size)

    def _sender(self, wanted: OpenStream, first: int) -> Sender:
        """The window of a private stream: what its client wants, within the limits."""
        limits = self.limits
        return Sender(
            min(wanted.window_items or limits.stream_window, limits.stream_window),
            min(wanted.window_bytes or limits.stream_window_bytes, limits.stream_window_bytes),
            first,
        )

    def _add(self, stream: ServedStream, deadline: float | None) -> None:
        self._streams[stream.topic] = stream
        self._running += 1
        self._keepalive.start()
        stream.open(deadline)

    def _opened(self, stream: ServedStream) -> ResponseHead:
        """The answer to an opening call."""
        sender, is_shared = stream.sender, stream.shared is not None
        return ResponseHead(
            stream=OpenedStream(
                stream.topic,
                stream.publisher.endpoint,
                self.epoch,
                sender.acknowledged,
                round(self.limits.stream_grace * 1000),
                shared=is_shared,
                window_items=0 if is_shared else sender.window_items,
                window_bytes=0 if is_shared else sender.window_bytes,
                bundle=b"" if stream.bundle is None else stream.bundle.topic,
            )
        )

    def _join(self, call: StreamCall, wanted: SharedRequest) -> ResponseHead:
        """Have a call share a run of the handler, which begins with the first one."""
        publisher = call.listener.multicast or call.listener.publisher
        if publisher is None or not publisher.is_open:
            return _NO_PUBLISHER
        run = self.shared.find(publisher, wanted.key)
        opener = call.place[0]
        if run is None:
            refusal = self._refusal(opener)
        else:
            refusal = self._refusal_of_opener(opener)
        if not refusal and len(self.shared) >= self.limits.subscribers:
            refusal = (
                f"{self.limits.subscribers} calls share streams on the server "
                "(ServerLimits.subscribers)"
            )
        if refusal:
            return self._refuse(refusal)
        if run is None:
            run = self._begin_run(publisher, wanted)
            self._hold(run, opener, call.size)
        if call.context.peer_identity is not None:
            self._users.setdefault(run, set()).add(call.user)
        left = self._end_of_shared(call, run)
        self.shared.join(run, call.key, self.clock.seconds(), left, opener)
        return self._opened(run)._replace(initial=run.context.initial_metadata)

    def _end_of_shared(self, call: StreamCall, run: ServedStream) -> Left | None:
        """What is to be told when a call does not share a run any more; None if nobody asked."""
        context, sender = call.context, run.sender
        if context.end is None:
            context.end_unasked()
            return None
        before = sender.count - len(sender)  # items that it does not get
        bytes_before = sender.given_bytes - sender.size
        request_bytes = call.size

        def left(head: ResponseHead | None) -> None:
            head = head or ResponseHead(Code.CANCELLED, "the call shares the stream no more")
            items = sender.count - before
            size = sender.given_bytes - bytes_before
            now = self.clock.seconds()
            tell_end(context, Kind.UNARY_STREAM, head, now, 1, items, request_bytes, size)

        return left

    def _begin_run(self, publisher: StreamPublisher, wanted: SharedRequest) -> ServedStream:
        """The handler serves all calls with this request, and knows of none of them."""
        method = wanted.method
        replay = 0 if method.stream is None else method.stream.replay
        run = ServedStream(
            self,
            publisher,
            method,
            Context(method.path, clock=self.clock, arrived=self.clock.seconds()),
            wanted,
            Ring(replay, self.limits.stream_window_bytes),
            self.shared.surroundings.copy(),
            shared=wanted.key,
            number=next(self._numbers),
        )
        self.shared.begin(publisher, wanted.key, run)
        limit = self.limits.stream_timeout
        self._add(run, None if limit is None else self.clock.seconds() + limit)
        return run

    # -- limits ------------------------------------------------------------------------------

    def _refuse(self, refusal: str) -> ResponseHead:
        self.count("shed stream")
        return ResponseHead(Code.RESOURCE_EXHAUSTED, refusal)

    def _refusal(self, opener: bytes) -> str:
        """The limit that forbids one more stream, in words; empty if none does.

        :param opener: whose it is: the user's, or else the peer's.
        """
        limits = self.limits
        # Of some the handler still runs, of others the client has not had the end.
        if max(self._running, len(self._streams)) >= limits.streams:
            return f"{limits.streams} streams are open on the server (ServerLimits.streams)"
        refusal = self._refusal_of_opener(opener)
        if refusal:
            return refusal
        if self.kept.size >= limits.streams_bytes:
            return (
                f"{limits.streams_bytes} bytes of streams are not acknowledged on the server "
                "(ServerLimits.streams_bytes)"
            )
        return ""

    def _refusal_of_opener(self, opener: bytes) -> str:
        """As :meth:`_refusal`, of the limits that each client has for itself."""
        limit = self.limits.streams_per_peer
        if self._of_opener(opener) < limit:
            return ""
        return (
            f"{limit} streams of this client are open on the server (ServerLimits.streams_per_peer)"
        )

    def _of_opener(self, opener: bytes) -> int:
        """How many streams a user has, or else a client."""
        own = max(self._running_of_peer[opener], self._kept_of_peer[opener])
        return own + self.shared.of_owner(opener)

    # -- what clients say --------------------------------------------------------------------

    def cancelled(self, key: CallKey) -> None:
        """A client cancels an opening call that was answered."""
        stream = self._unclaimed.get(key)
        if stream is not None:
            stream.cancel("the client cancelled it")
        else:
            self.shared.cancelled(key)

    def acknowledge(
        self, peer: bytes, positions: Iterable[Position], user: str = ""
    ) -> list[bytes]:
        """A client says how much it has of its streams; the topics of those that there are not."""
        unknown: list[bytes] = []
        shared: dict[ServedStream, int] = {}
        for position in positions:
            stream = self._own(position.topic, user)
            if stream is None:
                unknown.append(position.topic)
                continue
            stream.acknowledge(position.sequence, peer)
            if stream.shared is not None:
                shared[stream] = shared.get(stream, 0) + 1
        self._keepalive.heard(peer)
        opener = counted_as(user, peer)
        for stream, calls in shared.items():
            now = self.clock.seconds()
            self.shared.claim(stream, peer, calls, now, self._room(opener), opener)
        return unknown

    def _room(self, opener: bytes) -> int:
        """How many more calls of a user, or else a client, may share streams."""
        limits = self.limits
        return min(
            limits.subscribers - len(self.shared),
            limits.streams_per_peer - self._of_opener(opener),
        )

    def replay(
        self, peer: bytes, topic: bytes, sequence: int, user: str = ""
    ) -> Publication | None:
        """What a client asks for again, from an item on; None if there is no such stream."""
        stream = self._own(topic, user)
        if stream is None:
            return None
        self._keepalive.heard(peer)
        self.shared.heard(stream, peer, self.clock.seconds())
        return stream.replay(sequence)

    def cancel(self, peer: bytes, topics: Iterable[bytes], user: str = "") -> None:
        """A client does not want streams any more."""
        for topic in topics:
            stream = self._own(topic, user)
            if stream is None or stream.is_kept:
                continue
            if stream.shared is None:
                stream.cancel("the client cancelled it")
            else:
                self.shared.leave(stream, peer)

    # -- what streams tell (a StreamOwner) ---------------------------------------------------

    def claimed(self, key: CallKey) -> None:
        """The client has subscribed to the stream of this opening call."""
        stream = self._unclaimed.pop(key, None)
        if stream is not None:
            self._keepalive.heard(stream.peer)
            self._late.discard(stream)

    def handler_ended(self, stream: ServedStream) -> None:
        """The handler of a stream has ended."""
        self._running -= 1
        self._lingering.discard(stream)
        if stream.shared is None:
            _decrement(self._running_of_peer, stream.opener)
        self._let_go(stream)

    def removed(self, stream: ServedStream) -> None:
        """A stream has come to its end on both sides, or was cancelled."""
        del self._streams[stream.topic]
        self._users.pop(stream, None)
        if not self._streams:
            self._keepalive.stop()
        if stream.running:
            self._lingering.add(stream)
        if stream.shared is None:
            _decrement(self._kept_of_peer, stream.opener)
        self._unclaimed.pop(stream.key, None)
        self._late.discard(stream)
        self._heartbeats.forget(stream)
        self._greetings.forget(stream)
        self._let_go(stream)

    def _grace_is_over(self, stream: ServedStream) -> None:
        """End a stream for which nobody has come, unless its client may still be about to."""
        more = self.limits.stream_silence - self.limits.stream_grace
        is_new = stream.shared is None and stream.state is OPENING and stream not in self._late
        if is_new and more > 0 and self._may_come(stream):
            self._late.add(stream)
            stream.wait_on(more)
        else:
            stream.grace_is_over()

    def _may_come(self, stream: ServedStream) -> bool:
        """Whether the client of a new stream is alive, or has said what was not read yet.

        A client that opens thousands at once, or whose machine is busy, comes to them one after the
        other, and says something else meanwhile.
        """
        due = stream.waits_until
        if self.clock.seconds() - due > _BLOCKED:
            return True
        opened = due - self.limits.stream_grace
        return self._keepalive.has_heard(stream.peer, opened + 2 * TICK)

    # -- the end -----------------------------------------------------------------------------

    def end(self) -> None:
        """The server shuts down: end all streams."""
        for stream in list(self._streams.values()):
            stream.shut_down()

    def close(self) -> None:
        """Leave nothing behind, in the reactor or here."""
        for stream in list(self._streams.values()):
            stream.remove()
        self.deadlines.close()
        self.graces.close()
        self.returns.close()
        self._keepalive.stop()
        self._heartbeats.close()
        self._greetings.close()


def _number(stream: ServedStream) -> int:
    return stream.number


def _decrement(counts: Counter[bytes], peer: bytes) -> None:
    counts[peer] -= 1
    if counts[peer] <= 0:
        del counts[peer]
