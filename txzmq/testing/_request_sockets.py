"""The sockets of calls in a network in memory: DEALER and ROUTER."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from txzmq._identity import Identity
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import ClientHandler, SendResult, ServerHandler
from txzmq.testing._faults import MessageKind
from txzmq.testing._socket import RETRY, Medium, MemorySocket

__all__ = ["MemoryClient", "MemoryListener", "RequestMedium"]

#: Virtual seconds until a full queue has room.
_UNBLOCK: Final = 0.01

# Looked up once: reading a member of an enumeration is slow in Python 3.11.
_REQUEST: Final = MessageKind.REQUEST
_REPLY: Final = MessageKind.REPLY


class RequestMedium(Medium, Protocol):
    """What knows who listens where."""

    def listener(self, address: str) -> MemoryListener | None:
        """The server's socket that accepts a connection to *address*."""
        ...

    def forget(self, listener: MemoryListener) -> None:
        """Remove a server's socket that is closed."""
        ...

    def new_peer(self) -> bytes:
        """A routing id as libzmq generates them."""
        ...

    def tell_of_loss(self, server: MemoryListener, peer: bytes) -> None:
        """Tell a server that a client's connection was lost: now, later, or not at all."""
        ...


class MemoryClient(MemorySocket[ClientHandler]):
    """A client's socket for one server."""

    def __init__(self, network: RequestMedium, address: str, handler: ClientHandler) -> None:
        super().__init__(network.clock, handler)
        self._network = network
        self._address = address
        # The routing id that the server knows it by; a new one for each connection.
        self._peer = b""
        self._server: MemoryListener | None = None
        self._unblock = ResettableTimer(self.clock, self._has_room)
        # Whether a message was refused for want of a connection.
        self._refused = False

    def send_message(self, message: list[bytes]) -> SendResult:
        if not self._open:
            raise RuntimeError("the socket is closed")
        if self._server is None:
            self._refused = True
            return SendResult.BLOCKED
        if self._network.is_full():
            if not self._unblock.is_running:
                self._unblock.start(_UNBLOCK)
            return SendResult.BLOCKED
        server, peer = self._server, self._peer
        self._network.carry(lambda: server.deliver(peer, message), _REQUEST, message)
        return SendResult.SENT

    def _has_room(self) -> None:
        if self._server is not None and self._open:
            self.handler.flush()

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        """Take a message for the connection that has the routing id *peer*."""
        if self._open and peer == self._peer and self._server is not None:
            self.handler.received(list(message))

    def begin(self) -> None:
        """Begin to connect; where losses are not told, be connected to whoever listens."""
        clock, server = self.clock, self._network.listener(self._address)
        if self._network.tells_of_loss or server is None:
            clock.callLater(0, self.try_to_connect)
        else:
            self._connect(server)
            clock.callLater(0, self._tell_of_connection)

    def try_to_connect(self) -> None:
        if not self._open:
            return
        server = self._network.listener(self._address)
        if server is None:
            self.handler.unreachable("nobody listens")
            self.clock.callLater(RETRY, self.try_to_connect)
        else:
            self._connect(server)
            self._tell_of_connection()

    def _connect(self, server: MemoryListener) -> None:
        self._server = server
        self._peer = self._network.new_peer()
        server.connected(self._peer, self)

    def _tell_of_connection(self) -> None:
        if self._refused and self._open:
            self._refused = False
            self.handler.flush()
        if self._open:
            self.handler.connected()

    def cut(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        self._network.tell_of_loss(server, self._peer)
        if self._open:
            self.handler.disconnected()
            if self._open:
                self.clock.callLater(RETRY, self.try_to_connect)

    def close(self) -> None:
        self._unblock.stop()
        super().close()


class _ClientConnection(NamedTuple):
    """One of a client's connections to a server (a :class:`PeerConnection`)."""

    listener: MemoryListener
    client: MemoryClient
    peer: bytes

    def is_open(self) -> bool:
        return self.listener.is_connected(self.peer)

    def end(self) -> None:
        # Later, as libzmq's own thread breaks it.
        self.listener.clock.callLater(0, self._break)

    def _break(self) -> None:
        if self.is_open():
            self.client.cut()


class MemoryListener(MemorySocket[ServerHandler]):
    """A server's socket."""

    def __init__(self, network: RequestMedium, address: str, handler: ServerHandler) -> None:
        super().__init__(network.clock, handler)
        self._network = network
        self.endpoint = address
        self.tells_of_loss = network.tells_of_loss
        self.authenticates = False
        # By routing id.
        self._clients: dict[bytes, MemoryClient] = {}

    def send_message(self, message: list[bytes]) -> SendResult:
        if not self._open:
            raise RuntimeError("the socket is closed")
        peer, *rest = message
        client = self._clients.get(peer)
        if client is None:
            return SendResult.UNREACHABLE
        if self._network.is_full():
            return SendResult.BLOCKED
        self._network.carry(lambda: client.deliver(peer, rest), _REPLY, rest)
        return SendResult.SENT

    def sender(self) -> Identity | None:
        return None

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        """Take a message from the client with the routing id *peer*."""
        if self._open and peer in self._clients:
            self.handler.received([peer, *message])

    def connected(self, peer: bytes, client: MemoryClient) -> None:
        """A client has connected."""
        self._clients[peer] = client

    def disconnected(self, peer: bytes, *, tell: bool) -> None:
        """A client's connection has broken.

        :param tell: whether the handler hears of it.
        """
        self._clients.pop(peer, None)
        if self._open and tell:
            self.handler.peer_lost(peer)

    def has_input(self) -> bool:
        return False  # each message is handed out when it arrives

    def peer_address(self, peer: bytes) -> str:
        return "memory"

    def is_connected(self, peer: bytes) -> bool:
        return self._open and peer in self._clients

    def connection_of(self, peer: bytes) -> _ClientConnection | None:
        client = self._clients.get(peer)
        known = client is not None and self.tells_of_loss
        return _ClientConnection(self, client, peer) if known and client is not None else None

    def accept_no_more(self) -> bool:
        self._network.forget(self)
        return True

    def close(self) -> None:
        self._network.forget(self)
        super().close()
        if self._network.loses_at_close():
            self.cut()

    def cut(self) -> None:
        for client in list(self._clients.values()):
            client.cut()
