"""What the RPC layer needs of a network, and what a network tells the RPC layer.

:class:`~txzmq.rpc.transport.ZmqNetwork` is the network of ZeroMQ sockets; ``txzmq.testing`` has one
in memory. Nothing here imports ZeroMQ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Protocol

from txzmq._guard import Guard
from txzmq._identity import Identity
from txzmq._reactor import Clock
from txzmq._send_result import SendResult

__all__ = [
    "ClientHandler",
    "ClientTransport",
    "Handler",
    "Network",
    "PeerConnection",
    "PublisherHandler",
    "PublisherTransport",
    "SendResult",
    "ServerHandler",
    "ServerTransport",
    "SubscriberConnection",
    "SubscriberHandler",
    "SubscriberTransport",
    "Transport",
    "WorkerHandler",
]


class Transport(Protocol):
    """What the RPC layer asks of every socket."""

    def flush_soon(self) -> None:
        """Call the handler's ``flush()`` once, after the messages that are being received."""
        ...

    def close(self) -> None:
        """Drop all connections; the handler is not called any more."""
        ...


class Handler(Protocol):
    """What every socket tells."""

    def flush(self) -> None:
        """The time has come that :meth:`Transport.flush_soon` asked for."""
        ...

    def closed(self) -> None:
        """The socket was closed with its factory, and not by :meth:`Transport.close`."""
        ...


class ClientTransport(Transport, Protocol):
    """A client's socket for one endpoint, which tries to connect until it succeeds."""

    def send_message(self, message: list[bytes]) -> SendResult:
        """Send a message, now or not at all; a full queue is a result, not an exception."""
        ...


class ClientHandler(Handler, Protocol):
    """What a client's socket tells."""

    def received(self, message: list[bytes]) -> None:
        """A message arrived."""
        ...

    def connected(self) -> None:
        """The connection is made: messages can be sent."""
        ...

    def disconnected(self) -> None:
        """The connection was lost: requests that were sent will not be answered.

        The socket does not connect again: close it, and make another.
        """
        ...

    def accepted(self, what: str) -> None:
        """The other side has accepted a connection; the handshake is to follow.

        A network that does not know it need not call this.

        :param what: so far the attempt has come, and what may be wrong if it comes no further.
        """
        ...

    def unreachable(self, reason: str) -> None:
        """An attempt to connect failed. Others follow."""
        ...

    def failed(self, reason: str) -> None:
        """The endpoint does not answer as a server does. Close the socket, and try again later."""
        ...

    def refused(self, reason: str, *, is_last: bool) -> None:
        """The two sides do not trust each other. Close the socket, and try again.

        :param is_last: whether to try later: there is no other key of the server to try now.
        """
        ...

    def flush(self) -> None:
        """As of :class:`Handler`; also when there is room after :attr:`SendResult.BLOCKED`."""
        ...


class PeerConnection(Protocol):
    """A client's connection to a server's socket; hashable, and equal while it is the same."""

    def is_open(self) -> bool:
        """Whether it has not ended."""
        ...

    def end(self) -> None:
        """Break it, soon. The client may connect again."""
        ...

    def __hash__(self) -> int: ...


class ServerTransport(Transport, Protocol):
    """A server's socket."""

    @property
    def endpoint(self) -> str:
        """Where it listens, with the real port for a wildcard; or the proxy that it connects to."""
        ...

    @property
    def tells_of_loss(self) -> bool:
        """Whether :meth:`ServerHandler.peer_lost` is called."""
        ...

    def send_message(self, message: list[bytes]) -> SendResult:
        """Send a message to the peer whose routing id is its first part."""
        ...

    def has_input(self) -> bool:
        """Whether messages have arrived that the handler was not given yet."""
        ...

    def peer_address(self, peer: bytes) -> str:
        """The address that a peer connected from, for logs; empty if it is not known."""
        ...

    def connection_of(self, peer: bytes) -> PeerConnection | None:
        """The connection of a peer that has sent something; None where it is not known."""
        ...

    def accept_no_more(self) -> bool:
        """Leave further connections to other processes that have the same listening socket.

        :return: False where that is not possible: there is none, or the system does not know how.
        """
        ...

    @property
    def authenticates(self) -> bool:
        """Whether only those are let in who have authenticated."""
        ...

    def sender(self) -> Identity | None:
        """Who has sent the message that is being received, while it has an identity."""
        ...


class ServerHandler(Handler, Protocol):
    """What a server's socket tells."""

    def received(self, message: list[bytes]) -> None:
        """A message arrived; its first part is the peer's routing id."""
        ...

    def peer_lost(self, peer: bytes) -> None:
        """A peer's connection was lost; the peer does not come back with this routing id."""
        ...


class PublisherTransport(Transport, Protocol):
    """The socket of a server's publisher."""

    @property
    def endpoint(self) -> str:
        """Where it listens, with the real port for a wildcard."""
        ...

    @property
    def high_water_mark(self) -> int:
        """How many frames wait for one subscriber at most; further ones are dropped."""
        ...

    def publish(self, frame: bytes) -> None:
        """Send a frame to those who subscribed to what it begins with; a slow one may miss it."""
        ...


class SubscriberConnection(PeerConnection, Protocol):
    """A subscriber's connection to a publisher."""

    def taken(self) -> int | None:
        """How many bytes its host has taken; None where it has ended, or nobody knows."""
        ...

    def __hash__(self) -> int: ...


class PublisherHandler(Handler, Protocol):
    """What the socket of a publisher tells, and asks."""

    def allows(
        self, tag: bytes, connection: SubscriberConnection | None, identity: Identity | None
    ) -> bool:
        """A subscriber asks for frames that begin with *tag*; whether it may receive them.

        :param connection: the subscriber's; None where the network does not know it.
        :param identity: who it is; None where nobody has authenticated.
        """
        ...

    def subscribed(self, tag: bytes) -> None:
        """A subscriber receives frames that begin with *tag* from now on."""
        ...

    def unsubscribed(self, tag: bytes, connection: SubscriberConnection | None) -> None:
        """A subscriber of *tag* has unsubscribed, or has gone.

        :param connection: the subscriber's; None where it has gone, or is not known.
        """
        ...


class SubscriberTransport(Transport, Protocol):
    """A client's socket for one publisher; it connects again by itself."""

    def subscribe(self, tag: bytes) -> None:
        """Receive frames that begin with *tag*, on later connections, too."""
        ...

    def unsubscribe(self, tag: bytes) -> None:
        """Undo :meth:`subscribe`."""
        ...


class SubscriberHandler(Handler, Protocol):
    """What the socket of a subscriber tells."""

    def published(self, frame: bytes) -> None:
        """A frame arrived that was subscribed to."""
        ...

    def connected(self) -> None:
        """The connection is made, for the first time or again."""
        ...

    def disconnected(self) -> None:
        """The connection was lost; attempts to connect again follow."""
        ...

    def failed(self, reason: str) -> None:
        """The endpoint does not answer as a publisher does. Close the socket, try again later."""
        ...


class WorkerHandler(ServerHandler, Protocol):
    """What the socket of a server tells that connects to a proxy."""

    def failed(self, reason: str) -> None:
        """The connection was lost, or the endpoint does not answer as a proxy does.

        The socket does not connect again: close it, and make another.
        """
        ...


class Network(Protocol):
    """Makes sockets."""

    @property
    def clock(self) -> Clock:
        """The clock of deadlines and timers."""
        ...

    @property
    def random(self) -> random.Random:
        """The source of random numbers for backoff, jitter and balancing."""
        ...

    @property
    def guard(self) -> Guard:
        """Tells whether the current thread may use the sockets."""
        ...

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        """Begin to connect to *address*; attempts go on until one succeeds or it is closed.

        :param options: socket options by libzmq's names, which override the defaults.
        """
        ...

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """Listen at *address*.

        :param options: with ``USE_FD``, by that listening socket, which stays the caller's.
        """
        ...

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """Begin to connect a server to the proxy at *address*, which passes requests on to it."""
        ...

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        """Listen for subscribers at *address*, or publish to the multicast group there.

        The handler is not told of the members of a group.
        """
        ...

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        """Begin to connect to the publisher at *address*, or join the group there."""
        ...

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the network is closed, before its sockets are.

        :return: a function that takes this back.
        """
        ...
