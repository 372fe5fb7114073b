"""One call in which requests or responses stream, and one stream of responses."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from txzmq.rpc._core.coroutines import CoroutineRunner
from txzmq.rpc._server.request_stream import ServedRequests
from txzmq.rpc._server.shared import SharedKey
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import Sender, new_topic
from txzmq.rpc.context import Context
from txzmq.rpc.method import Method

if TYPE_CHECKING:
    from txzmq.rpc._server.publisher import Bundle, Publisher

__all__ = ["ServedStream"]


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
        self.pump: CoroutineRunner[ServedStream] | None = None
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
