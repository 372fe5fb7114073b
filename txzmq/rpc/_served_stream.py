"""One call in which requests or responses stream, and one stream of responses."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.defer import Deferred

from txzmq.rpc._listener import Listener
from txzmq.rpc._pump import Pump
from txzmq.rpc._served import Entry, ServedCall
from txzmq.rpc._served_requests import ServedRequests
from txzmq.rpc._wire.headers import OpenStream
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import Sender, new_topic
from txzmq.rpc.context import Context
from txzmq.rpc.method import Method

if TYPE_CHECKING:
    from txzmq.rpc._publisher import Bundle, Publisher

__all__ = ["ServedStream", "SharedKey", "StreamCall"]

#: What calls that share a run have in common: the method's path and the serialised request.
SharedKey: TypeAlias = tuple[str, bytes]


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


class ServedStream:
    """A stream of responses, from the opening call until the client has had its end."""

    __slots__ = (
        "alarm",
        "begun",
        "bundle",
        "context",
        "deadline",
        "gone",
        "heard",
        "key",
        "method",
        "opener",
        "pause",
        "peer",
        "publisher",
        "pump",
        "quiet",
        "requests",
        "room",
        "running",
        "sender",
        "shared",
        "source",
        "started",
        "subscribers",
        "surroundings",
        "tick",
        "topic",
    )

    def __init__(
        self,
        # Any: a server has methods of any messages.
        method: Method[Any, Any],
        key: CallKey,
        context: Context,
        deadline: float | None,
        surroundings: contextvars.Context,
        publisher: Publisher,
        source: object,
        sender: Sender,
    ) -> None:
        self.method = method
        #: Of the opening call, until its client has subscribed; empty if it is shared.
        self.key = key
        #: Who opened it, and who spoke of it last; empty if it is shared.
        self.opener = self.peer = key[0] if key else b""
        self.context = context
        self.deadline = deadline
        self.surroundings = surroundings
        self.publisher = publisher
        #: What calls with the same request have in common; None of a private stream.
        self.shared: SharedKey | None = None
        #: Whether the handler has not ended, be it that it has not begun.
        self.running = True
        #: Whether the handler has been asked for items.
        self.started = False
        self.topic = new_topic()
        self.sender = sender
        #: What the handler returned; given up when it is asked for items.
        self.source = source
        #: Of the coroutine that asks the handler for items, while it runs.
        self.pump: Pump[ServedStream] | None = None
        #: While the handler has to wait.
        self.room: Deferred[None] | None = None
        #: What the client streams.
        self.requests: ServedRequests | None = None
        #: With which others of its client it may be published.
        self.bundle: Bundle | None = None
        self.subscribers = 0
        #: Whether anything was published.
        self.begun = False
        #: Nobody wants what the handler has yet to say.
        self.gone = False
        self.tick = 0
        #: When it ends because nobody subscribes to it; 0 while somebody does.
        self.alarm = 0
        #: When the client gave a sign of life last, while one is waited for.
        self.heard = 0.0
        #: Beats that have passed since the last heartbeat or publication, and how many have to.
        self.quiet = 0
        self.pause = 1
