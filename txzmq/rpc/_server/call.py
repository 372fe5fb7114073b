"""A method that a server has, and a call of it from arrival to answer."""

from __future__ import annotations

import contextvars
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from txzmq.rpc._server.admission import Place
from txzmq.rpc._server.methods import Entry
from txzmq.rpc._server.request_stream import ServedRequests
from txzmq.rpc._wire.headers import OpenStream
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context

if TYPE_CHECKING:
    from txzmq.rpc._server.listener import Listener

__all__ = ["ServedCall", "StreamCall"]


class ServedCall:
    """A call that the server has taken on."""

    __slots__ = (
        "answered",
        "body",
        "cache_key",
        "context",
        "deadline",
        "deferred",
        "detached",
        "ended",
        "entry",
        "key",
        "listener",
        "place",
        "queued",
        "registered",
        "tick",
        "waited",
    )

    def __init__(
        self,
        listener: Listener,
        key: CallKey,
        entry: Entry,
        context: Context,
        deadline: float | None,
        body: bytes,
    ) -> None:
        self.listener = listener
        self.key = key
        self.entry = entry
        self.context = context
        self.deadline = deadline
        #: The serialised request; given up when the handler starts.
        self.body = body
        #: Of the handler's result, while it is awaited.
        self.deferred: Deferred[Any] | None = None
        #: Nobody waits for the handler's result any more.
        self.answered = False
        #: The handler's result is there.
        self.ended = False
        #: Under which its reply may be asked for again.
        self.cache_key: Hashable | None = None
        #: Its own client does not wait any more, but others that asked for the same do.
        self.detached = False
        self.place: Place = (key[0], entry.path)
        self.queued = False
        #: Whether it is or was.
        self.waited = False
        #: Whether cancellation, loss of the peer and the deadline find the call.
        self.registered = False
        self.tick = 0

    def take_request(self) -> Any:
        """What the handler gets; the serialised request is given up.

        :raises DecodeError: if it cannot be parsed; on PyPy also UnicodeDecodeError.
        """
        body, self.body = self.body, b""
        return self.entry.request_type.FromString(body)

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in."""
        return contextvars.copy_context()


class StreamCall(ServedCall):
    """A call in which requests or responses stream."""

    __slots__ = ("_answered", "_surroundings", "open_stream", "requests")

    def __init__(
        self,
        listener: Listener,
        key: CallKey,
        entry: Entry,
        context: Context,
        deadline: float | None,
        body: bytes,
        open_stream: OpenStream,
    ) -> None:
        #: What the client streams, until the call has ended or a stream of responses has it.
        self.requests: ServedRequests | None = None
        super().__init__(listener, key, entry, context, deadline, body)
        self.open_stream = open_stream
        self._surroundings = super().surroundings

    # A property in place of the attribute: whatever ends the call ends its stream of requests.
    @property
    def answered(self) -> bool:
        """Nobody waits for the handler's result any more."""
        return self._answered

    @answered.setter
    def answered(self, answered: bool) -> None:
        self._answered = answered
        if answered:
            requests, self.requests = self.requests, None
            if requests is not None:
                requests.close()

    def take_request(self) -> Any:
        """What the handler gets: a request, or the stream of them."""
        return self.requests if self.entry.request_streaming else super().take_request()

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in, when it is called and when it is asked for items."""
        return self._surroundings
