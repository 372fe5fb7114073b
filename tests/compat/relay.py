"""A TCP relay in front of a server, which counts ZeroMQ's messages, holds bytes back, and cuts."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

#: Bytes of the greeting of ZMTP 3.
_GREETING = 64
#: Flags of a ZMTP frame.
_MORE, _LONG, _COMMAND = 1, 2, 4


class Counter:
    """Counts the messages in what one side of a ZMTP connection without security sends."""

    def __init__(self) -> None:
        self.messages = 0
        self._buffer = bytearray()
        self._skip = _GREETING

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            if self._skip or len(self._buffer) < 2:
                return
            flags = self._buffer[0]
            size = 9 if flags & _LONG else 2
            if len(self._buffer) < size:
                return
            self._skip = size + int.from_bytes(self._buffer[1:size], "big")
            self.messages += not flags & (_MORE | _COMMAND)


class Relay:
    """Passes connections on to another address.

    :ivar requests: the messages of clients so far.
    :ivar replies: those of the server.
    :ivar connections: of clients, that there have been.
    """

    def __init__(self, reactor: Any) -> None:
        """:param reactor: Any, for Twisted types it with zope interfaces."""
        self._reactor = reactor
        self._target: Any = None
        self._pairs: set[_Pair] = set()
        self.requests = self.replies = self.connections = 0
        self._holds = False
        factory: Any = Factory.forProtocol(lambda: _Pair(self).client)
        factory.noisy = False
        self._listening: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getHost().port}"

    def to(self, endpoint: str) -> None:
        """Connections that come from now on are passed on there."""
        scheme, _, where = endpoint.partition("://")
        if scheme == "ipc":
            self._target = UNIXClientEndpoint(self._reactor, where)  # type: ignore[no-untyped-call]  # Twisted's
        else:
            host, _, port = where.rpartition(":")
            self._target = HostnameEndpoint(self._reactor, host, int(port))

    def hold(self, yes: bool) -> None:
        """Keep back what servers send; what was kept is passed on when this is over."""
        self._holds = yes
        if not yes:
            for pair in self._pairs:
                pair.pass_on()

    def cut(self) -> None:
        """Reset all connections; what was held back is lost."""
        for pair in list(self._pairs):
            pair.end()

    # -- for its connections ---------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        return self._holds

    def begin(self, pair: _Pair) -> None:
        self.connections += 1
        self._pairs.add(pair)
        factory: Any = Factory.forProtocol(lambda: pair.server)
        factory.noisy = False
        self._target.connect(factory).addErrback(pair.not_connected)

    def ended(self, pair: _Pair) -> None:
        self._pairs.discard(pair)

    def count(self, requests: int, replies: int) -> None:
        self.requests += requests
        self.replies += replies


class _Half(Protocol):
    """One of the two connections of a pair."""

    transport: Any  # Twisted's zope interfaces

    def __init__(self, pair: _Pair, is_client: bool) -> None:
        self._pair = pair
        self._is_client = is_client
        self._counter = Counter()
        self.is_connected = False
        self._waiting = b""

    def connectionMade(self) -> None:
        self.is_connected = True
        if self._is_client:
            self._pair.relay.begin(self._pair)
        self.write(b"")

    def dataReceived(self, data: bytes) -> None:
        before = self._counter.messages
        self._counter.feed(data)
        self._pair.received(self._is_client, self._counter.messages - before, data)

    def write(self, data: bytes) -> None:
        """Send, as soon as there is a connection."""
        self._waiting += data
        if self.is_connected:
            self.transport.write(self._waiting)
            self._waiting = b""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_connected = False
        self._pair.end()

    def end(self) -> None:
        if self.is_connected:
            self.transport.abortConnection()


class _Pair:
    """A client's connection, and the one to the server that stands for it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client = _Half(self, is_client=True)
        self.server = _Half(self, is_client=False)
        self._held = b""
        self._has_ended = False

    def received(self, of_client: bool, messages: int, data: bytes) -> None:
        self.relay.count(messages * of_client, messages * (not of_client))
        if of_client:
            self.server.write(data)
        else:
            self._held += data
            if not self.relay.holds:
                self.pass_on()

    def pass_on(self) -> None:
        held, self._held = self._held, b""
        self.client.write(held)

    def not_connected(self, failure: Failure) -> None:
        """Nobody listens where the relay leads to."""
        self.end()

    def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self.client.end()
            self.server.end()
            self.relay.ended(self)
