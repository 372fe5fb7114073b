"""What tests of the sockets share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import zmq
from twisted.internet.testing import MemoryReactorClock

from tests.support import PATIENCE
from txzmq import (
    ZmqConnection,
    ZmqDealerConnection,
    ZmqEndpoint,
    ZmqEndpointType,
    ZmqFactory,
    ZmqPullConnection,
    ZmqREPConnection,
    ZmqSubConnection,
)


class Turns:
    """A reactor that does nothing by itself: the test says when time passes."""

    def __init__(self) -> None:
        # Any: its methods are typed with zope interfaces.
        self.reactor: Any = MemoryReactorClock()  # type: ignore[no-untyped-call]  # Twisted's
        self.factory = ZmqFactory(self.reactor)
        self.factory.lingerPeriod = 0
        self._made: list[zmq.Socket[bytes]] = []  # those that nobody keeps would be closed

    def raw(self, kind: int, *addresses: str, **options: int | bytes) -> zmq.Socket[bytes]:
        """As :func:`raw_socket`, of the factory's context; closed with it."""
        self._made.append(raw_socket(self.factory.context, kind, *addresses, **options))
        return self._made[-1]

    def turn(self, times: int = 1) -> None:
        """Run what is scheduled for now; what that schedules waits for the next turn."""
        for _ in range(times):
            # Not advance(0), which would go on with what was scheduled meanwhile.
            for call in self._due():
                if call.active():
                    self.reactor.calls.remove(call)
                    call.called = 1
                    call.func(*call.args, **call.kw)

    def settle(self) -> None:
        """Run until nothing is scheduled for now."""
        while self._due():
            self.turn()

    def scheduled(self) -> int:
        """How many calls wait."""
        return len([call for call in self.reactor.getDelayedCalls() if call.active()])

    def _due(self) -> list[Any]:
        now = self.reactor.seconds()
        return [call for call in self.reactor.getDelayedCalls() if call.getTime() <= now]


@contextmanager
def fresh_turns() -> Generator[Turns]:
    """A factory on a reactor without a life of its own; for inproc sockets."""
    turns = Turns()
    try:
        yield turns
    finally:
        turns.factory.shutdown()
    assert not turns.scheduled(), "something was left in the reactor"
    assert not turns.reactor.getReaders()


def bind(address: str) -> ZmqEndpoint:
    return ZmqEndpoint(ZmqEndpointType.bind, address)


def connect(address: str) -> ZmqEndpoint:
    return ZmqEndpoint(ZmqEndpointType.connect, address)


def address_of(connection: Any) -> str:
    """Where *connection* is bound: a wildcard port has become a real one."""
    address = connection.socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
    assert isinstance(address, str)
    return address


def connect_to(connection: Any) -> ZmqEndpoint:
    """Where to connect to reach *connection*."""
    return connect(address_of(connection))


@contextmanager
def raw_sockets() -> Generator[Callable[..., zmq.Socket[bytes]]]:
    """Makes plain sockets of a context of their own: ``make(zmq.DEALER, "tcp://...")``."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []  # those that nobody keeps would be closed

    def make(kind: int, *addresses: str, **options: int | bytes) -> zmq.Socket[bytes]:
        made.append(raw_socket(context, kind, *addresses, **options))
        return made[-1]

    try:
        yield make
    finally:
        context.destroy(linger=0)


def raw_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, *addresses: str, **options: int | bytes
) -> zmq.Socket[bytes]:
    """A plain socket, connected to all *addresses*; options by libzmq's names.

    What it sends or waits for too long raises :class:`zmq.Again`.
    """
    socket = context.socket(kind)
    socket.sndtimeo = socket.rcvtimeo = round(PATIENCE * 1000)
    for name, value in options.items():
        socket.set(zmq.SocketOption[name], value)
    for address in addresses:
        socket.connect(address)
    return socket


def send_if_connected(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> None:
    """Send a message, for a socket whose handshake may have been refused already.

    libzmq waits in :meth:`~zmq.Socket.send` where there is nobody to send it to.
    """
    with contextlib.suppress(zmq.Again):
        socket.send_multipart(parts, zmq.NOBLOCK)


def events_of(socket: Any) -> int:
    """The socket's events. Consumes the signal, and no connection notices that it does."""
    events = zmq.Socket[bytes].get(socket, zmq.EVENTS)
    assert isinstance(events, int)
    return events


def has_message(socket: Any) -> bool:
    """Whether a message waits; as :func:`events_of`."""
    return bool(events_of(socket) & zmq.POLLIN)


class Pull(ZmqPullConnection):
    """Keeps what it receives."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.messages: list[list[bytes]] = []

    def onPull(self, message: list[bytes]) -> None:
        self.messages.append(message)


class Sub(ZmqSubConnection):
    """Keeps what it receives."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.messages: list[tuple[bytes, bytes]] = []

    def gotMessage(self, message: bytes, tag: bytes) -> None:
        self.messages.append((message, tag))


class Dealer(ZmqDealerConnection):
    """Keeps what it receives."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.messages: list[tuple[bytes, ...]] = []

    def gotMessage(self, *args: bytes) -> None:
        self.messages.append(args)


class Echo(ZmqREPConnection):
    """Answers each request with its own parts."""

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        self.reply(messageId, *messageParts)


class Silent(ZmqREPConnection):
    """Keeps requests, and leaves the answers to the test."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.requests: list[tuple[bytes, tuple[bytes, ...]]] = []
        self.lost: list[bytes] = []

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        self.requests.append((messageId, messageParts))

    def peerLost(self, peerId: bytes) -> None:
        self.lost.append(peerId)


def error_of(result: Any) -> BaseException:
    """The exception of a Failure, which pyright cannot type."""
    assert isinstance(result.value, BaseException)
    return result.value


def tables(connection: Any) -> dict[str, int]:
    """How much a REP connection remembers; empty if nothing."""
    sizes = {
        name: len(getattr(connection, name))
        for name in ("_waiting", "_pending", "_peers", "_peerOfFd", "_lostPeers")
    }
    return {name: size for name, size in sizes.items() if size}


def count_reads(connection: ZmqConnection) -> list[int]:
    """Count, from now on, in the one number of the list, how often the connection reads."""
    counter = [0]
    reading: Any = connection  # Any: a private method
    original = reading._read

    def read(**kwargs: bool) -> None:
        counter[0] += 1
        original(**kwargs)

    reading._read = read
    return counter
