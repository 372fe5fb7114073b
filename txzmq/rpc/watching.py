"""What happens to channels and servers, for whoever watches them: metrics, alarms, a dashboard.

Events are told as they happen, to an :class:`Observer`; what happens too often for that is counted,
and read when it is wanted::

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

Changes are also logged, by ``twisted.logger``: each once, those of an endpoint that goes up and
down all the time no more than twice a minute.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ClientLoss",
    "ConnectivityState",
    "Count",
    "EndpointChange",
    "EndpointStatus",
    "Observer",
    "Watched",
]


class ConnectivityState(enum.Enum):
    """What a channel, or its connection to one endpoint, is doing; names and meaning are gRPC's.

    A connection that failed stays in TRANSIENT_FAILURE until an attempt succeeds, so that calls
    which do not wait are told at once. A channel's state is the best of its connections': READY,
    CONNECTING, IDLE, TRANSIENT_FAILURE.
    """

    #: Nothing has been begun.
    IDLE = enum.auto()
    #: An attempt is going on, and the last one did not fail; or the name is being resolved.
    CONNECTING = enum.auto()
    #: Calls can be sent.
    READY = enum.auto()
    #: The last attempt failed; others follow.
    TRANSIENT_FAILURE = enum.auto()
    #: It was closed.
    SHUTDOWN = enum.auto()


class Count(enum.StrEnum):
    """What the counters of a channel and a server count; a member is equal to its name in text."""

    # -- of replies that a channel dropped: nobody got them

    #: Its call had ended: its time was up, or it was cancelled.
    LATE_REPLY = "late reply"
    #: Its call has had a reply.
    DUPLICATE_REPLY = "duplicate reply"
    #: There was no such call.
    UNKNOWN_REPLY = "unknown reply"

    # -- of a channel's connections

    #: A connection was made anew; attempts that libzmq repeats by itself do not count.
    RECONNECT = "reconnect"
    #: A server was asked for a sign of life.
    PING = "ping"
    #: An endpoint got no calls until it answered a ping: too many calls had run out of time.
    SUSPECTED = "suspected"
    #: A connection was given up, for its server gave no sign of life.
    STOPPED_ANSWERING = "stopped answering"

    # -- of a channel's calls

    #: A further attempt by a retry policy.
    RETRY = "retry"
    #: A further attempt by a hedging policy.
    HEDGE = "hedge"
    #: A request was sent to another server, because one had refused it without having begun.
    SENT_AGAIN = "sent again"

    # -- of a channel's streams

    #: A stream that was lost went on, with the same server or another one.
    STREAM_RESUMED = "stream resumed"
    #: Something was published of a stream that has ended here.
    STRAY_PUBLICATION = "publication of no stream"

    # -- of both sides

    #: A message that was none, or a batch that could not be read.
    MALFORMED = "malformed"

    # -- of a server

    #: A call was refused, because too many ran and waited.
    SHED_REQUEST = "shed request"
    #: The time of a call was up when it came.
    LATE_REQUEST = "late request"
    #: The same request came again, from the network.
    DUPLICATE_REQUEST = "duplicate request"
    #: A request came whose key a client gave to an earlier attempt; it was not executed again.
    REPEATED_REQUEST = "repeated request"
    #: A stream was refused, because too many were open or too much waited for acknowledgement.
    SHED_STREAM = "shed stream"
    #: A stream was ended, because nobody subscribed to it for a while.
    FORSAKEN_STREAM = "stream without subscriber"
    #: A stream was ended, because its client acknowledged nothing and did not answer.
    SILENT_SUBSCRIBER = "silent subscriber"
    #: A client missed items of a stream, and got them again.
    REPLAY = "replay"
    #: A server that dials out lost its connection to a proxy, or made none.
    PROXY_LOST = "connection to a proxy lost"
    #: A client asked for signs of life too often.
    PING_TOO_SOON = "ping too soon"
    #: Nobody was there any more to take a reply.
    REPLY_TO_NOBODY = "reply to a peer that has gone"
    #: A client did not take its replies; this one became an error.
    BACKLOG = "reply over a slow client's backlog"


class Watched(Protocol):
    """What a channel and a server have in common for those who watch them."""

    @property
    def counters(self) -> Counter[str]:
        """How often what has happened since it was made; a copy. The keys are :class:`Count`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointStatus:
    """A channel's connection to one endpoint, at one moment.

    :ivar address: where it is.
    :ivar state: what it is doing.
    :ivar reason: why it is not READY, if something is wrong; otherwise empty.
    :ivar load: how many calls are in flight there.
    """

    address: str
    state: ConnectivityState
    reason: str
    load: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointChange:
    """The state of a channel's connection to one endpoint has changed.

    A new endpoint begins in IDLE; one that is let go of ends in SHUTDOWN.

    :ivar address: where it is.
    :ivar previous: what it was doing.
    :ivar state: what it is doing now.
    :ivar reason: why, if something is wrong; otherwise empty.
    """

    address: str
    previous: ConnectivityState
    state: ConnectivityState
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientLoss:
    """The connection of a server's client is gone.

    :ivar address: where the client connected from; empty if that is not known.
    :ivar calls: how many of its calls were cancelled.
    """

    address: str
    calls: int


class Observer:
    """Is told what happens; give one to any number of channels and servers.

    Override what you want to know. All methods are called in the reactor's thread, in the order of
    the events, and must not take long. They may use the channel. What they raise is logged, and
    changes nothing.
    """

    def started(self, source: Watched) -> None:
        """A channel or server was made; what it was made with can be read."""

    def stopped(self, source: Watched) -> None:
        """It was closed. Its counters can still be read, and do not change any more."""

    def channel_changed(
        self, source: Watched, previous: ConnectivityState, state: ConnectivityState
    ) -> None:
        """What a channel is doing, all in all, has changed."""

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        """What a channel's connection to one endpoint is doing has changed."""

    def client_lost(self, source: Watched, loss: ClientLoss) -> None:
        """A client of a server has gone; of inproc, nothing is told."""
