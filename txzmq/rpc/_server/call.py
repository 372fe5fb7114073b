"""One call on the server, from its arrival to its answer."""

from __future__ import annotations

import contextvars
from collections.abc import Hashable
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from txzmq._identity import user_of
from txzmq.rpc._core.cancelling import cancel
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._server.admission import Place, RequestBytes
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.request_stream import ReceivedRequests, Replies
from txzmq.rpc._server.response_stream import StreamPublisher
from txzmq.rpc._wire.headers import OpenStream
from txzmq.rpc._wire.server import CallKey, ServerWire
from txzmq.rpc.context import Context

__all__ = [
    "CallListener",
    "OpenCalls",
    "ServedCall",
    "StreamCall",
    "counted_as",
    "user_counted_as",
]


#: In front of the name of a user, where calls are counted.
_USER: Final = b"\0user "


class CallListener(Replies, Protocol):
    """What a call needs of the listener that it came by."""

    @property
    def wire(self) -> ServerWire[ServedCall]:
        """The calls that came by it."""
        ...

    @property
    def publisher(self) -> StreamPublisher | None:
        """Publishes the streams that are opened by it; None if it has none."""
        ...

    @property
    def multicast(self) -> StreamPublisher | None:
        """Publishes those that are shared, in place of the other; None if it has none."""
        ...

    def call_started(self, peer: bytes) -> None:
        """Count a call of a peer, where connections are remembered."""
        ...


def counted_as(user: str, peer: bytes) -> bytes:
    """The name under which a user's calls count, by all connections; no routing id is like it.

    :param user: empty where nobody has authenticated: then each *peer* counts for itself.
    """
    return _USER + user.encode() if user else peer


def user_counted_as(counted: bytes) -> str:
    """The user under whose name something counts; empty where it is a peer's."""
    return counted.removeprefix(_USER).decode() if counted.startswith(_USER) else ""


class OpenCalls(NamedTuple):
    """What the calls of a server share that wait or run.

    :ivar deadlines: when their times are up.
    :ivar request_bytes: the bytes of their requests.
    """

    deadlines: Deadlines[ServedCall]
    request_bytes: RequestBytes


class ServedCall:
    """A call that the server has taken on.

    It waits in the queue or runs at once. It is settled when it is answered, or when nobody waits
    for its answer any more; its handler may end later than that, and keeps its place until then.
    """

    __slots__ = (
        "_size",
        "_tick",
        "body",
        "cache_key",
        "context",
        "deadline",
        "deferred",
        "detached",
        "end",
        "ended",
        "key",
        "listener",
        "method",
        "place",
        "queued",
        "registered",
        "settled",
        "waited",
    )

    def __init__(
        self,
        listener: CallListener,
        key: CallKey,
        method: ServedMethod,
        context: Context,
        deadline: float | None,
        body: bytes,
        cache_key: Hashable | None = None,
    ) -> None:
        """
        :param deadline: when its time is up, by the clock; None for never.
        :param body: the serialised request; given up when the handler starts.
        :param cache_key: under which its reply may be asked for again; None if it may not.
        """
        self.listener = listener
        self.key = key
        self.method = method
        self.context = context
        self.deadline = deadline
        self.body = body
        self.cache_key = cache_key
        self.place: Place = (key[0], method.path)
        if context.peer_identity is not None:
            self.place = (counted_as(context.peer_identity.name, key[0]), method.path)
        #: The handler's result, while it is awaited.
        self.deferred: Deferred[Any] | None = None
        #: Whether it is answered, or nobody waits for its answer any more.
        self.settled = False
        #: Whether the handler's result is there.
        self.ended = False
        #: Whether its client waits no more, but others with the same key do.
        self.detached = False
        #: Whether it waits in the queue, and whether it ever did.
        self.queued = False
        self.waited = False
        #: Its deadline once it runs, where it has to begin before that; else None.
        self.end: float | None = None
        #: Whether cancellation, loss of the peer and the deadline find the call.
        self.registered = False
        self._size = len(body)
        self._tick = 0

    @property
    def user(self) -> str:
        """Whose it is: the connection's user; empty where none has authenticated."""
        return user_of(self.context.peer_identity)

    @property
    def may_have_run(self) -> bool:
        """Whether its handler was called, as far as its client is to know."""
        return not self.queued

    def wait_in_queue(self, calls: OpenCalls) -> None:
        """It waits for a place."""
        self.queued = self.waited = True
        self.register(calls)

    def begin_before(self, when: float) -> None:
        """Have it run before a time or not at all; call this before it waits."""
        if self.deadline is None or when < self.deadline:
            self.end, self.deadline = self.deadline, when

    def begin(self, calls: OpenCalls) -> None:
        """It has waited, and begins in time: it may go on until its deadline."""
        if self.end is None:
            return
        calls.deadlines.remove(self, self._tick)
        self.deadline, self.end = self.end, None
        self._tick = calls.deadlines.set(self, self.deadline)

    def leave_queue(self) -> None:
        """It waits for a place no longer."""
        self.queued = False

    def register(self, calls: OpenCalls) -> None:
        """Have cancellation, loss of the peer and the deadline find the call."""
        if self.registered:
            return
        self.registered = True
        self.listener.wire.start(self.key, self)
        if self._size:
            # Also while it runs: what its handler got is as large, or larger.
            calls.request_bytes.change(self.place[0], self._size)
        if self.deadline is not None:
            self._tick = calls.deadlines.set(self, self.deadline)

    def _unregister(self, calls: OpenCalls) -> None:
        self.registered = False
        calls.deadlines.remove(self, self._tick)
        self.listener.wire.finish(self.key)
        if self._size:
            calls.request_bytes.change(self.place[0], -self._size)

    def wait_for_reply(self, calls: OpenCalls) -> None:
        """It gets the reply to another request, which is the same, so that its own may go."""
        self.body = b""
        self._size = 0
        self.register(calls)

    @property
    def size(self) -> int:
        """Bytes of its request."""
        return self._size

    def take_request(self) -> Any:
        """What the handler gets; the serialised request is given up.

        :raises DecodeError: if it cannot be parsed; on PyPy also UnicodeDecodeError.
        """
        body, self.body = self.body, b""
        return self.method.request_type.FromString(body)

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in."""
        return contextvars.copy_context()

    def wait_for(self, result: Deferred[Any], calls: OpenCalls) -> None:
        """The handler has started, and its result is not there yet."""
        self.deferred = result
        self.register(calls)

    def handler_ended(self, calls: OpenCalls) -> bool:
        """The handler's result is there; whether it was waited for, and the call had a place."""
        self.ended = True
        if self.deferred is None:
            return False
        self.deferred = None
        if self.registered:
            self._unregister(calls)
        return True

    def settle(self, calls: OpenCalls) -> None:
        """It is answered, or nobody waits for its answer any more."""
        self.settled = True
        if self.registered and self.deferred is None:
            self._unregister(calls)

    def detach(self) -> None:
        """Its client waits no more, but others with the same key do."""
        self.detached = True
        self.listener.wire.finish(self.key)

    @property
    def requests_taken(self) -> int:
        """How many requests the handler was given; 1 where there is one."""
        return 1

    @property
    def bytes_taken(self) -> int:
        """Bytes of these requests."""
        return self._size

    def interrupt(self, reason: str, calls: OpenCalls) -> None:
        """Have the handler end; the call has been answered, or nobody wants its answer."""
        self.context.cancel(reason)
        if self.deferred is not None:
            cancel(self.deferred, f"the handler of {self.method.path}")
        elif self.registered:
            self._unregister(calls)


class StreamCall(ServedCall):
    """A call in which requests or responses stream."""

    __slots__ = ("_received", "_surroundings", "open_stream", "requests")

    def __init__(
        self,
        listener: CallListener,
        key: CallKey,
        method: ServedMethod,
        context: Context,
        deadline: float | None,
        body: bytes,
        open_stream: OpenStream,
        requests: ReceivedRequests | None,
    ) -> None:
        """
        :param open_stream: what the client wants.
        :param requests: what the client streams; None if it does not.
        """
        super().__init__(listener, key, method, context, deadline, body)
        self.open_stream = open_stream
        self.requests = self._received = requests
        self._surroundings = super().surroundings

    def take_request(self) -> Any:
        """What the handler gets: a request, or the stream of them."""
        return self.requests if self.method.request_streaming else super().take_request()

    @property
    def requests_taken(self) -> int:
        """How many requests the handler was given."""
        return 1 if self._received is None else self._received.taken

    @property
    def bytes_taken(self) -> int:
        """Bytes of these requests."""
        return super().bytes_taken if self._received is None else self._received.taken_bytes

    def hand_over_requests(self) -> ReceivedRequests | None:
        """The stream of requests, which lives as long as the stream of responses from now on."""
        requests, self.requests = self.requests, None
        return requests

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in, when it is called and when it is asked for items."""
        return self._surroundings

    def settle(self, calls: OpenCalls) -> None:
        """As of any call; its stream of requests ends with it."""
        super().settle(calls)
        requests = self.hand_over_requests()
        if requests is not None:
            requests.close()  # last: its reader may be the handler, which goes on at once
