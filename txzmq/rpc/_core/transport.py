"""The seam between the RPC layer and whatever carries its messages.

:class:`~txzmq.rpc.transport.ZmqNetwork` is the real network; ``txzmq.testing`` has another, in
memory. Nothing here knows ZeroMQ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Protocol

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq._send_result import SendResult

__all__ = [
    "ClientHandler",
    "ClientTransport",
    "Handler",
    "Network",
    "PublisherHandler",
    "PublisherTransport",
    "SendResult",
    "ServerHandler",
    "ServerTransport",
    "SubscriberHandler",
    "SubscriberTransport",
    "Transport",
    "WorkerHandler",
]


class Transport(Protocol):
    """What all sockets can do."""

    def flush_soon(self) -> None:
        """Call the handler's ``flush()`` once, when what is being received has been dispatched."""
        ...

    def close(self) -> None:
        """Drop all connections; the handler is not called any more."""
        ...


class Handler(Protocol):
    """What all sockets tell."""

    def flush(self) -> None:
        """As asked for by :meth:`Transport.flush_soon`."""
        ...

    def closed(self) -> None:
        """The socket was closed, not by :meth:`Transport.close`: with its factory."""
        ...


class ClientTransport(Transport, Protocol):
    """A client's connection to one endpoint: attempts until one succeeds, and what comes of it."""

    def send_message(self, message: list[bytes]) -> SendResult:
        """Hand over a message, or not at all; never raises for a full queue."""
        ...


class ClientHandler(Handler, Protocol):
    """What a client's connection tells."""

    def received(self, message: list[bytes]) -> None:
        """A message arrived."""
        ...

    def connected(self) -> None:
        """The server can be reached."""
        ...

    def disconnected(self) -> None:
        """The connection was lost: what was sent will not be answered.

        It does not come back: close it, and make another.
        """
        ...

    def unreachable(self, reason: str) -> None:
        """An attempt to connect failed. Others follow."""
        ...

    def failed(self, reason: str) -> None:
        """Something answers that is no such server. Close this, and try another time."""
        ...

    def flush(self) -> None:
        """As asked for, and after :attr:`SendResult.BLOCKED`: it is worth trying again."""
        ...


class ServerTransport(Transport, Protocol):
    """A server's socket."""

    @property
    def endpoint(self) -> str:
        """Where it listens, with a wildcard port made real; or the proxy that it connects to."""
        ...

    @property
    def tells_of_loss(self) -> bool:
        """Whether :meth:`ServerHandler.peer_lost` is called."""
        ...

    def send_message(self, message: list[bytes]) -> SendResult:
        """Hand over a message to the peer that its first part names."""
        ...

    def peer_address(self, peer: bytes) -> str:
        """Where a peer connected from, for logs; empty if that is not known."""
        ...


class ServerHandler(Handler, Protocol):
    """What a server's socket tells."""

    def received(self, message: list[bytes]) -> None:
        """A message arrived; its first part is the peer's routing id."""
        ...

    def peer_lost(self, peer: bytes) -> None:
        """A peer's connection was lost; it will not come back under this routing id."""
        ...


class PublisherTransport(Transport, Protocol):
    """A server's publisher."""

    @property
    def endpoint(self) -> str:
        """Where it listens; a wildcard port has become a real one."""
        ...

    def publish(self, frame: bytes) -> None:
        """Send to all whose subscription it begins with; a slow one may miss it."""
        ...


class PublisherHandler(Handler, Protocol):
    """What a publisher tells."""

    def allows(self, tag: bytes) -> bool:
        """Whether a subscriber may have what begins with *tag*."""
        ...

    def subscribed(self, tag: bytes) -> None:
        """A subscriber has it from now on."""
        ...

    def unsubscribed(self, tag: bytes) -> None:
        """A subscriber has it no more: it does not want it, or has gone."""
        ...


class SubscriberTransport(Transport, Protocol):
    """A client's connection to one publisher; it connects again by itself."""

    def subscribe(self, tag: bytes) -> None:
        """Receive what begins with *tag*, also on later connections."""
        ...

    def unsubscribe(self, tag: bytes) -> None:
        """Undo :meth:`subscribe`."""
        ...


class SubscriberHandler(Handler, Protocol):
    """What a connection to a publisher tells."""

    def published(self, frame: bytes) -> None:
        """Something arrived that was subscribed to."""
        ...

    def connected(self) -> None:
        """The publisher is reached, again perhaps."""
        ...

    def disconnected(self) -> None:
        """The connection was lost; attempts to connect again follow."""
        ...

    def failed(self, reason: str) -> None:
        """Something answers that is no publisher. Close this, and try another time."""
        ...


class WorkerHandler(ServerHandler, Protocol):
    """What the socket of a server that dials out tells besides."""

    def failed(self, reason: str) -> None:
        """A connection of :meth:`Network.dial_out` was lost, or something else answers there.

        It does not come back: close it, and make another.
        """
        ...


class Network(Protocol):
    """Makes connections."""

    @property
    def clock(self) -> Clock:
        """The time, for deadlines."""
        ...

    @property
    def random(self) -> random.Random:
        """What backoff, jitter and policies are drawn from."""
        ...

    @property
    def guard(self) -> Guard:
        """Who may use what is made here."""
        ...

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        """Begin to connect to *address*; what cannot be reached is tried again until closed.

        :param options: socket options by libzmq's names, over the defaults.
        """
        ...

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """Listen at *address*."""
        ...

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """Begin to connect a server to *address*, where a proxy gives it requests."""
        ...

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        """Listen for subscribers at *address*, or publish to the multicast group there.

        Of who is in a group the handler is not told.
        """
        ...

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        """Begin to connect to the publisher at *address*, or join the group there."""
        ...

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when no connections can be made any more.

        :return: a function that takes this back.
        """
        ...
