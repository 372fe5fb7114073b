"""What a server tells of itself when it is asked, and nothing is paid for before."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from txzmq.rpc._core.hosting import Hosted
from txzmq.rpc._core.stream_state import StreamState
from txzmq.rpc.method import Kind
from txzmq.rpc.watching import Observer

__all__ = [
    "Inspecting",
    "Inspector",
    "LimitUse",
    "MethodState",
    "OpenStreamState",
    "PeerState",
    "ServerState",
]


class PeerState(NamedTuple):
    """The connection of a client.

    :ivar number: which one it is, among all that the server has had.
    :ivar identity: who has authenticated; empty if nobody has.
    :ivar public_key: theirs, in Z85; empty if they have none.
    :ivar address: where the client connected from; empty if that is not known.
    :ivar endpoint: where it connected to, or the proxy that it comes through.
    :ivar age: seconds since its first message.
    :ivar user_agent: what it says that it is; empty if it does not.
    :ivar is_proxy: whether it is a proxy that the server has connected to.
    :ivar started: calls that it has made.
    :ivar running: those whose handlers run.
    :ivar queued: those that wait for a place.
    :ivar streams: streams of responses that are its own.
    :ivar shared_streams: calls of it that share a stream.
    :ivar unacknowledged_items: of its own streams.
    :ivar unacknowledged_bytes: of these.
    :ivar backlog_bytes: of replies that it has not read.
    """

    number: int
    identity: str
    public_key: str
    address: str
    endpoint: str
    age: float
    user_agent: str
    is_proxy: bool
    started: int
    running: int
    queued: int
    streams: int
    shared_streams: int
    unacknowledged_items: int
    unacknowledged_bytes: int
    backlog_bytes: int


class OpenStreamState(NamedTuple):
    """A stream of responses that has not come to its end on both sides.

    :ivar number: which one it is, among all that the server has had.
    :ivar method: the path of its method.
    :ivar state: where it is in its life.
    :ivar peer: the number of the client's connection; 0 where that has gone, or calls share it.
    :ivar identity: who has asked for it; empty where nobody has authenticated.
    :ivar age: seconds since it was asked for.
    :ivar is_shared: whether calls share it.
    :ivar callers: how many do; 1 where it is one client's own.
    :ivar items: that its handler has given.
    :ivar unacknowledged_items: 0 of a shared one.
    :ivar unacknowledged_bytes: of these.
    :ivar window_items: how many may be unacknowledged; 0 of a shared one.
    :ivar window_bytes: how many bytes of them.
    :ivar is_running: whether its handler has not ended.
    :ivar is_blocked: whether the handler waits for room.
    """

    number: int
    method: str
    state: StreamState
    peer: int
    identity: str
    age: float
    is_shared: bool
    callers: int
    items: int
    unacknowledged_items: int
    unacknowledged_bytes: int
    window_items: int
    window_bytes: int
    is_running: bool
    is_blocked: bool


class MethodState(NamedTuple):
    """A method that the server has.

    :ivar queued: calls of it that wait for a place.
    """

    path: str
    kind: Kind
    queued: int


class LimitUse(NamedTuple):
    """A limit, and how much of it is used.

    :ivar name: as a field of ``ServerLimits``.
    :ivar value: None for no limit.
    :ivar used: None where nothing is counted; of a limit for each client, the most that one uses.
    :ivar unit: ``bytes``, ``seconds``, or empty for a number.
    :ivar method: of which method it is; empty for all.
    :ivar fullest: who uses most of a limit for each client.
    """

    name: str
    value: float | None
    used: float | None = None
    unit: str = ""
    method: str = ""
    fullest: str = ""


class ServerState(NamedTuple):
    """What a server has in all.

    :ivar running: calls whose handlers run.
    :ivar running_limit: how many may.
    :ivar queued: calls that wait for a place.
    :ivar streams: streams of responses that have not come to their end on both sides.
    :ivar peers: connections of clients.
    """

    running: int
    running_limit: int
    queued: int
    streams: int
    peers: int


class Inspector(Protocol):
    """Answers with what there is at this moment."""

    def server(self) -> ServerState:
        """The server as a whole."""
        ...

    def peers(self, after: int, most: int) -> list[PeerState]:
        """The connections with numbers above *after*, in their order, so many at most."""
        ...

    def streams(self, after: int, most: int) -> list[OpenStreamState]:
        """The streams with numbers above *after*, in their order, so many at most."""
        ...

    def methods(self) -> Iterator[MethodState]:
        """All methods, by their paths."""
        ...

    def limits(self) -> Iterator[LimitUse]:
        """All limits."""
        ...


class Inspecting(Hosted):
    """A service that tells what its server has.

    Its methods are only for callers on the server's own machine, unless the server knows who calls,
    and its rule of who may call what allows it.
    """

    __slots__ = ()

    @property
    @abc.abstractmethod
    def __txzmq_observer__(self) -> Observer | None:
        """What is to be told of the server's calls, beside the server's own observer."""

    @abc.abstractmethod
    def __txzmq_inspects__(self, inspector: Inspector) -> None:
        """Its server was made, and answers from now on."""
