"""Events and counters of channels and servers, for metrics, alarms and dashboards.

An :class:`Observer` is told of events as they happen. What happens too often for that is counted,
and the counters are read when they are wanted::

    class Metrics(Observer):
        def __init__(self) -> None:
            self.sources: list[Watched] = []

        def started(self, source: Watched) -> None:
            self.sources.append(source)

        def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
            ...

        def scrape(self) -> int:
            return sum(source.counters[Count.RETRY] for source in self.sources)

    channel = Channel(factory, endpoints, observer=Metrics())

Changes are also logged, by ``twisted.logger``: each once, or no more than twice a minute for an
endpoint that goes up and down all the time.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final, Protocol

from txzmq import _check
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.records import CallRecord, StartedCall

__all__ = [
    "Authentication",
    "ChannelStats",
    "ClientLoss",
    "ConnectivityState",
    "Count",
    "Denial",
    "EndpointChange",
    "EndpointStatus",
    "Observer",
    "Observers",
    "Refusal",
    "ServerStats",
    "Watched",
]


class ConnectivityState(enum.Enum):
    """The state of a channel, or of its connection to one endpoint; names and meaning are gRPC's.

    A connection that failed stays in TRANSIENT_FAILURE until an attempt succeeds, so that calls
    which do not wait fail at once. A channel's state is the best of its connections': READY,
    CONNECTING, IDLE, TRANSIENT_FAILURE.
    """

    #: No attempt to connect has begun.
    IDLE = enum.auto()
    #: An attempt is going on, and the last one did not fail; or the name is being resolved.
    CONNECTING = enum.auto()
    #: Calls can be sent.
    READY = enum.auto()
    #: The last attempt failed; others follow.
    TRANSIENT_FAILURE = enum.auto()
    #: The channel or connection was closed.
    SHUTDOWN = enum.auto()


class Count(enum.StrEnum):
    """What the counters of channels and servers count; a member equals its key in them."""

    # -- of replies that a channel dropped

    #: A reply came after its call had ended by its deadline or by cancellation.
    LATE_REPLY = "late reply"
    #: A second reply to one call came.
    DUPLICATE_REPLY = "duplicate reply"
    #: A reply came to a call that was never made.
    UNKNOWN_REPLY = "unknown reply"

    # -- of a channel's connections

    #: The channel tried to connect again; attempts that libzmq repeats by itself do not count.
    RECONNECT = "reconnect"
    #: The channel pinged a server.
    PING = "ping"
    #: An endpoint gets no calls until it answers a ping: too many calls ran out of time.
    SUSPECTED = "suspected"
    #: A connection was given up, because its server did not answer.
    STOPPED_ANSWERING = "stopped answering"
    #: An endpoint gets no calls for a while, because too many failed (``outlierDetection``).
    EJECTED = "ejected"

    # -- of a channel's calls

    #: A further attempt by a retry policy.
    RETRY = "retry"
    #: A further attempt by a hedging policy.
    HEDGE = "hedge"
    #: A request was sent again, because a server had refused it without executing it.
    SENT_AGAIN = "sent again"

    # -- of a channel's streams

    #: A stream went on after a loss, with the same server or another one.
    STREAM_RESUMED = "stream resumed"
    #: Items of a stream were lost for good: the server did not have them any more.
    STREAM_GAP = "gap in a stream"
    #: A publication came for a stream that has ended at the client.
    STRAY_PUBLICATION = "publication of no stream"

    # -- of both sides

    #: A message or a batch could not be parsed.
    MALFORMED = "malformed"

    # -- of a server

    #: A call was refused, because too many calls ran and waited.
    SHED_REQUEST = "shed request"
    #: A call's time was up when its request came, or before its handler could start.
    LATE_REQUEST = "late request"
    #: A request was refused that may have lain too long while the reactor stood still.
    MAY_BE_LATE = "request that may be late"
    #: The reactor stood still for longer than ``blocked_after``.
    REACTOR_BLOCKED = "reactor blocked"
    #: A request came whose id had come before, or was overtaken by a later one.
    DUPLICATE_REQUEST = "duplicate request"
    #: A request came with the key of an earlier attempt; it was not executed again.
    REPEATED_REQUEST = "repeated request"
    #: A stream was refused, because too many were open or too many bytes unacknowledged.
    SHED_STREAM = "shed stream"
    #: A stream was ended, because nobody subscribed to it for ``stream_grace`` seconds.
    FORSAKEN_STREAM = "stream without subscriber"
    #: A stream was ended, because its client neither acknowledged nor answered heartbeats.
    SILENT_SUBSCRIBER = "silent subscriber"
    #: A connection to a publisher was ended: it had too many subscriptions to topics of no stream
    #: (``ServerLimits.stray_subscriptions_per_peer``), or all had (``stray_subscriptions``).
    STRAY_SUBSCRIPTIONS = "connection with too many stray subscriptions"
    #: A connection to a publisher was ended: it did not read the items of shared streams, and more
    #: than ``ServerLimits.backlog_per_peer`` of them waited for it.
    SLOW_SUBSCRIBER = "connection that does not read shared streams"
    #: A request was refused, since its sender has not authenticated, or was revoked.
    UNAUTHENTICATED = "request of somebody unknown"
    #: A request was refused, since its sender may not call the method.
    DENIED = "request denied"
    #: A server refused a channel's connection, or is not the one that it should be.
    REFUSED = "refused"
    #: A channel's connection was made anew, since the server had asked for it
    #: (``ServerLimits.connection_age``).
    CONNECTION_RENEWED = "connection made anew"
    #: A server has told a client to connect anew: its connection has lasted for ``connection_age``.
    CONNECTION_AGED = "connection told to be made anew"
    #: A server has ended a connection that has lasted for ``connection_age``: its client has said
    #: that it has left it, or has not done so within ``connection_age_grace``.
    CONNECTION_ENDED = "connection ended for its age"
    #: A client missed items of a stream, and got them again.
    REPLAY = "replay"
    #: A server lost its connection to a proxy, or could not connect to it.
    PROXY_LOST = "connection to a proxy lost"
    #: A client pinged the server too often.
    PING_TOO_SOON = "ping too soon"
    #: A reply was dropped, because its client had gone.
    REPLY_TO_NOBODY = "reply to a peer that has gone"
    #: A client did not read its replies; this one became RESOURCE_EXHAUSTED.
    BACKLOG = "reply over a slow client's backlog"
    #: A client read so few of its replies that its next message was dropped, unanswered.
    BACKLOG_FULL = "request of a client whose backlog is full"


class Watched(Protocol):
    """What an :class:`Observer` sees of a channel or server."""

    @property
    def counters(self) -> Counter[str]:
        """How often each :class:`Count` has happened since its creation; a copy."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointStatus:
    """A channel's connection to one endpoint, at one moment.

    :ivar address: the endpoint's address.
    :ivar state: the connection's state.
    :ivar reason: why it is not READY, if something is wrong; otherwise empty.
    :ivar load: how many calls are in flight on it.
    """

    address: str
    state: ConnectivityState
    reason: str
    load: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointChange:
    """The state of a channel's connection to one endpoint has changed.

    A new endpoint begins in IDLE; one that leaves the channel ends in SHUTDOWN.

    :ivar address: the endpoint's address.
    :ivar previous: the state before.
    :ivar state: the state now.
    :ivar reason: why, if something is wrong; otherwise empty.
    """

    address: str
    previous: ConnectivityState
    state: ConnectivityState
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientLoss:
    """A server lost its connection to a client.

    :ivar address: where the client connected from; empty if that is not known.
    :ivar calls: how many calls of the client were cancelled.
    """

    address: str
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Authentication:
    """A client has shown a key that the server knows, and was let in.

    :ivar user: who has the key, the name of the :class:`~txzmq.auth.Identity`.
    :ivar public_key: the key, 40 characters of Z85.
    :ivar address: where the client connects from, an IP address; empty for ipc.
    :ivar mechanism: ``CURVE``.
    """

    user: str
    public_key: str
    address: str
    mechanism: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A connection was refused in its handshake.

    To a server's observer: a client was not let in. To a channel's: it was not let in, or the
    server is not the one that it should be.

    :ivar public_key: the client's key; empty if it has shown none, and on channels.
    :ivar address: where the client connects from, an IP address, and empty for ipc; on channels
        that of the endpoint.
    :ivar mechanism: the security mechanism that the client wanted, such as ``CURVE``; empty on
        channels.
    :ivar reason: why.
    """

    public_key: str
    address: str
    mechanism: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Denial:
    """A call was denied: the server does not know who calls, or they may not.

    :ivar user: who calls; empty if that is not known.
    :ivar public_key: the key that they have authenticated with, or else, where a token names them,
        the key of the connection; empty if there is none.
    :ivar address: where the client connected from; empty if that is not known.
    :ivar method: the path of the method.
    :ivar code: what the client is told: mostly PERMISSION_DENIED or UNAUTHENTICATED.
    :ivar reason: the same in words.
    """

    user: str
    public_key: str
    address: str
    method: str
    code: Code
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStats:
    """What a server has at one moment.

    :ivar running: handlers that have started and not ended.
    :ivar running_calls: of these, those of calls for which ``ServerLimits.running`` holds. The
        handlers of open streams are no such calls.
    :ivar queued: calls that wait for a place.
    :ivar streams: streams of responses that have not come to their end on both sides; a run that
        calls share is one.
    :ivar subscribers: calls that share streams.
    :ivar clients: connections of clients that are known.
    :ivar request_bytes: of requests that wait or are being served.
    :ivar unacknowledged_bytes: of streams' items that their clients have not acknowledged.
    :ivar backlog_bytes: of replies that wait for clients which do not read them.
    :ivar kept_replies: in the reply cache.
    :ivar is_draining: whether it takes no more calls, since it is being stopped.
    :ivar limits: the server's, to compare with.
    """

    running: int
    running_calls: int
    queued: int
    streams: int
    subscribers: int
    clients: int
    request_bytes: int
    unacknowledged_bytes: int
    backlog_bytes: int
    kept_replies: int
    is_draining: bool
    limits: ServerLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStats:
    """What a channel has at one moment.

    :ivar state: as :attr:`Channel.state <txzmq.rpc.Channel.state>`.
    :ivar endpoints: as :attr:`Channel.endpoints <txzmq.rpc.Channel.endpoints>`.
    :ivar waiting: calls that wait for a connection.
    :ivar request_bytes: of calls that wait for their replies, or to be sent.
    :ivar backlog: the limit of these bytes (Channel's ``backlog``).
    """

    state: ConnectivityState
    endpoints: tuple[EndpointStatus, ...]
    waiting: int
    request_bytes: int
    backlog: int


class Observer:
    """Is told of the events of channels and servers; one may serve any number of them.

    Override the methods of the events that you want. All are called in the reactor's thread, in the
    order of the events, and must not take long. They may use the channel. An exception that they
    raise is logged, and has no other effect.
    """

    def started(self, source: Watched) -> None:
        """A channel or server was created; its attributes can be read."""

    def stopped(self, source: Watched) -> None:
        """A channel or server was closed. Its counters stay readable, and change no more."""

    def channel_changed(
        self, source: Watched, previous: ConnectivityState, state: ConnectivityState
    ) -> None:
        """The state of a channel has changed."""

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        """The state of a channel's connection to one endpoint has changed."""

    def client_lost(self, source: Watched, loss: ClientLoss) -> None:
        """A server lost a client; not told of clients by ``inproc://``."""

    def authenticated(self, source: Watched, authentication: Authentication) -> None:
        """A server with credentials has let a client in.

        Once for each connection: a client that has streams makes a second one.
        """

    def refused(self, source: Watched, refusal: Refusal) -> None:
        """A server with credentials has refused a client, or a server a channel.

        Once for each attempt to connect.
        """

    def denied(self, source: Watched, denial: Denial) -> None:
        """A server has denied a call, or a control call; once for each."""

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """A call begins: a channel is about to make it, or a server has got its request.

        Calls of all four kinds, with and without interceptors, once each, however many attempts
        follow. On a server also those that are refused before a handler runs: one that there is no
        room for, that is too late, not allowed, or of a method that it does not have. Each request
        that a server answers is a call of its own there, also one that it answers from its reply
        cache. Control calls are no calls, nor is what is dropped without an answer.

        On a channel, ``call.add_metadata()`` adds to what is sent. On a server this is called in
        the :class:`contextvars.Context` in which the handler will run: what is set here, the
        handler and its interceptors see, and the calls that they make.

        Channels and servers look once, when they are made, whether an observer has this method or
        :meth:`call_ended`: who has neither costs nothing per call.
        """

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """A call has truly ended; *record* is the object that :meth:`call_started` was given.

        A call with one response ends with that, or with its error. A stream of responses ends on
        the server when its end is published, and on the client when that has arrived, long after
        it was opened; on both sides when it is cancelled, or nobody wants it any more.
        """


#: The names of all events.
_EVENTS: Final = [name for name, it in vars(Observer).items() if isinstance(it, FunctionType)]


class Observers(Observer):
    """Several observers in place of one: each is told of all events that it has a method for.

    They are told in their order. What one raises keeps no other from being told, and is logged as
    that of a single observer is. ::

        channel = Channel(factory, endpoint, observer=Observers(metrics, telemetry))

    Of events that none of them has a method for, nothing is paid.

    :ivar observers: all of them.
    """

    def __init__(self, *observers: Observer) -> None:
        """
        :param observers: which of their methods there are is looked up now.
        :raises TypeError: if one of them is no observer.
        """
        for observer in observers:
            _check.instance("observers", observer, Observer, "an Observer")
        self.observers = observers
        for event in _EVENTS:
            told: list[Callable[..., object]] = [
                getattr(observer, event)
                for observer in observers
                if getattr(getattr(observer, event), "__func__", None) is not vars(Observer)[event]
            ]
            if told:  # Observer's own methods, which cost nothing, stay where nobody has one
                setattr(self, event, told[0] if len(told) == 1 else _tell_each(told))


def _tell_each(told: list[Callable[..., object]]) -> Callable[..., None]:
    """One function that calls all of them, whatever any of them raises, and raises that at last."""

    def tell(source: Watched, *arguments: Any) -> None:  # Any: of whatever event
        errors: list[BaseException] | None = None
        for each in told:
            try:
                each(source, *arguments)
            except BaseException as error:  # noqa: BLE001 - raised below, when all are told
                errors = [*(errors or ()), error]
        if errors is not None:
            raise errors[0] if len(errors) == 1 else BaseExceptionGroup("observers", errors)

    return tell
