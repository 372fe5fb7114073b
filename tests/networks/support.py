"""Networks of every kind for one contract: in memory, and ZeroMQ's over tcp, ipc and inproc."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from tests.support import PATIENCE, fresh_loop
from txzmq import ZmqFactory
from txzmq._identity import Identity
from txzmq.rpc import SocketOptions
from txzmq.rpc.transport import (
    ClientTransport,
    Network,
    PublisherTransport,
    SendResult,
    ServerTransport,
    SubscriberConnection,
    SubscriberTransport,
)
from txzmq.testing import MemoryNetwork

#: Virtual seconds that a test in memory may take.
_PATIENCE = 60

#: What a SUB without security sends first, in ZMTP 3.0.
_GREETING = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB"

Main = Callable[[], Coroutine[Deferred[Any], Any, None]]


class Rig(ABC):
    """A network, and how to wait for what happens on it."""

    network: Network
    #: Whether losses of connections, and failures to connect, are told to calls' sockets.
    tells_of_loss = True

    @abstractmethod
    def address(self, name: str) -> str:
        """Where to listen."""

    @abstractmethod
    def cut(self, endpoint: str) -> None:
        """Break all connections to an address."""

    @abstractmethod
    def run(self, main: Main) -> None:
        """Run a test."""

    @abstractmethod
    def pause(self, seconds: float) -> Deferred[None]:
        """Let time pass."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds; the test's own time limit bounds it."""
        while not condition():
            await self.pause(0.001)

    @abstractmethod
    def stranger(self, endpoint: str) -> Callable[[bytes], object] | None:
        """Unsubscribes at a publisher without having subscribed; None if nobody can."""


class MemoryRig(Rig):
    """In memory."""

    def __init__(self, *, tells_of_loss: bool) -> None:
        self.network = self.memory = MemoryNetwork(tells_of_loss=tells_of_loss)
        self.tells_of_loss = tells_of_loss

    def address(self, name: str) -> str:
        return f"inproc://{name}"

    def cut(self, endpoint: str) -> None:
        self.memory.cut(endpoint)

    def run(self, main: Main) -> None:
        results: list[Any] = []
        ensureDeferred(main()).addBoth(results.append)
        while not results and self.memory.clock.seconds() < _PATIENCE:
            self.memory.advance(0.001)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()

    def pause(self, seconds: float) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self.memory.clock.callLater(seconds, deferred.callback, None)
        return deferred

    def stranger(self, endpoint: str) -> Callable[[bytes], object]:
        return partial(self.memory.unsubscribe_as_stranger, endpoint)


class ZmqRig(Rig):
    """ZeroMQ's, in a reactor of its own."""

    def __init__(self, transport: str, folder: Path, stack: ExitStack) -> None:
        from txzmq.rpc.transport import ZmqNetwork

        self._loop = stack.enter_context(fresh_loop("epoll"))
        self._factory = ZmqFactory(self._loop.reactor)
        stack.callback(self._shutdown)
        options = SocketOptions(reconnect_interval=(0.01, 0.02), reconnect_interval_max=(0.1, 0.2))
        self.network = ZmqNetwork(self._factory, options)
        self._transport = transport
        self._folder = folder
        self._stack = stack
        self.tells_of_loss = transport != "inproc"

    def address(self, name: str) -> str:
        return {
            "tcp": "tcp://127.0.0.1:*",
            "ipc": f"ipc://{self._folder}/{name}",
            "inproc": f"inproc://{name}",
        }[self._transport]

    def cut(self, endpoint: str) -> None:
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # it is no socket, has no peer, or was the listing's own
                copy = os.dup(int(name))
                try:
                    each = socket.socket(fileno=copy)
                except OSError:
                    os.close(copy)
                    continue
                with each:
                    if each.getpeername() is not None and _is_at(each.getsockname(), endpoint):
                        each.shutdown(socket.SHUT_RDWR)

    def run(self, main: Main) -> None:
        async def whole() -> None:
            try:
                await main()
            finally:
                self._shutdown()

        self._loop.run(whole)

    def _shutdown(self) -> None:
        if not self._factory.closed:  # else it ran to its end
            self._factory.shutdown()

    def pause(self, seconds: float) -> Deferred[None]:
        return self._loop.sleep(seconds)

    def stranger(self, endpoint: str) -> Callable[[bytes], object] | None:
        # libzmq's own sockets send no UNSUBSCRIBE for what they have not subscribed to.
        if self._transport == "inproc":
            return None
        family = socket.AF_INET if self._transport == "tcp" else socket.AF_UNIX
        host, _, port = endpoint.partition("://")[2].rpartition(":")
        stranger = socket.socket(family)
        self._stack.callback(stranger.close)
        stranger.connect((host, int(port)) if host else port)
        stranger.settimeout(PATIENCE)
        stranger.sendall(_GREETING)
        assert stranger.recv(len(_GREETING), socket.MSG_WAITALL)
        stranger.sendall(_READY)
        # What comes before libzmq has sent its READY is taken for a part of the handshake.
        assert stranger.recv(len(_READY) + len("X"), socket.MSG_WAITALL)  # of an XPUB
        return lambda tag: stranger.sendall(bytes([0, 1 + len(tag), 0]) + tag)

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """Of the network's sockets, for sockets of other kinds."""
        return self._factory.context


def _is_at(name: Any, endpoint: str) -> bool:
    """Whether a socket's own name is that of an endpoint."""
    if isinstance(name, str):
        return endpoint == f"ipc://{name}"
    return endpoint.endswith(f":{name[1]}")


RIGS = ["memory", "silent memory", "tcp", "ipc", "inproc"]


@contextmanager
def rig_of(kind: str, folder: Path) -> Generator[Rig]:
    """The network of one of RIGS."""
    with ExitStack() as stack:
        if "memory" in kind:
            yield MemoryRig(tells_of_loss=kind == "memory")
        else:
            yield ZmqRig(kind, folder, stack)


class Told(list[Any]):
    """What a socket has told its handler, in order: a handler of every role."""

    transport: Any = None
    #: By which connection a subscriber of a publisher has asked last.
    connection: SubscriberConnection | None = None
    #: What a publisher does not accept.
    forbidden: bytes | None = None

    def __init__(self) -> None:
        super().__init__()
        #: By which connections subscribers have unsubscribed; None for those that are gone.
        self.left: list[SubscriberConnection | None] = []

    def received(self, message: list[bytes]) -> None:
        self.append(("received", *message))

    def connected(self) -> None:
        self.append("connected")

    def disconnected(self) -> None:
        self.append("disconnected")

    def accepted(self, what: str) -> None: ...

    def unreachable(self, reason: str) -> None:
        if "unreachable" not in self:  # others follow
            self.append("unreachable")

    def failed(self, reason: str) -> None:
        self.append("failed")

    def refused(self, reason: str, *, is_last: bool) -> None:
        self.append("refused")

    def peer_lost(self, peer: bytes) -> None:
        self.append(("lost", peer))

    def allows(
        self, tag: bytes, connection: SubscriberConnection | None, identity: Identity | None
    ) -> bool:
        self.connection = connection
        return tag != self.forbidden

    def subscribed(self, tag: bytes) -> None:
        self.append(("subscribed", tag))

    def unsubscribed(self, tag: bytes, connection: SubscriberConnection | None) -> None:
        self.append(("unsubscribed", tag))
        self.left.append(connection)

    def published(self, frame: bytes) -> None:
        self.append(("published", frame))

    def flush(self) -> None:
        self.append("flush")

    def closed(self) -> None:
        self.append("closed")


class Client(Told):
    def __init__(self, rig: Rig, endpoint: str, **options: int) -> None:
        super().__init__()
        self.transport: ClientTransport = rig.network.connect(endpoint, self, options)


class Server(Told):
    def __init__(self, rig: Rig, name: str = "server", *, endpoint: str = "") -> None:
        super().__init__()
        address = endpoint or rig.address(name)
        self.transport: ServerTransport = rig.network.listen(address, self, {})

    @property
    def peers(self) -> list[bytes]:
        """The routing ids of those whose messages came, in order, each once."""
        return list(dict.fromkeys(event[1] for event in self if event[0] == "received"))


class Publisher(Told):
    def __init__(self, rig: Rig, name: str = "publisher", *, endpoint: str = "") -> None:
        super().__init__()
        address = endpoint or rig.address(name)
        self.transport: PublisherTransport = rig.network.publish(address, self, {})


class Subscriber(Told):
    def __init__(self, rig: Rig, endpoint: str, **options: int) -> None:
        super().__init__()
        self.transport: SubscriberTransport = rig.network.subscribe(endpoint, self, options)


async def sent(rig: Rig, transport: ClientTransport | ServerTransport, *parts: bytes) -> None:
    """Send a message as soon as there is room for it."""
    await rig.until(lambda: transport.send_message(list(parts)) is SendResult.SENT)
