"""The real network: ZeroMQ sockets in the reactor, one class for each role of the RPC layer."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from txzmq._backend import hasMulticast
from txzmq._budget import ByteBudget
from txzmq._memory import keep_large_blocks
from txzmq._reactor import Timer, monotonic
from txzmq._send_result import SendResult
from txzmq.connection import ZmqConnection, ZmqEndpoint, ZmqEndpointType
from txzmq.factory import ZmqFactory
from txzmq.monitor import CONNECTION_EVENTS, SocketEvent, ZmqMonitor
from txzmq.pubsub import ZmqPubConnection, ZmqSubConnection, ZmqXPubConnection
from txzmq.req_rep import ZmqREPConnection, ZmqREQConnection
from txzmq.rpc._core.transport import (
    ClientHandler,
    ClientTransport,
    Handler,
    PublisherHandler,
    PublisherTransport,
    ServerHandler,
    ServerTransport,
    SubscriberHandler,
    SubscriberTransport,
    WorkerHandler,
)
from txzmq.rpc._net.addresses import announced, is_multicast
from txzmq.rpc.socket_options import SocketOptions

__all__ = ["ZmqNetwork"]

#: Seconds beyond ``HANDSHAKE_IVL``, when libzmq itself gives up most handshakes.
_HANDSHAKE_GRACE: Final = 0.5


def _family(address: str) -> dict[str, int]:
    """IPV6 only where an address needs it: with it, libzmq resolves names to IPv6 first."""
    return {"IPV6": 1} if address.startswith("tcp://[") else {}


def _reset_if_connected_to_itself(descriptor: int) -> bool:
    """Whether a TCP connection had one end only; its port is free when it is closed.

    Where nobody listens at a port of the range that the kernel takes clients' ports from, a client
    that tries often enough gets that port itself, and reaches itself. It would keep the port from
    the server for ever. (libzmq sees to it in versions after 4.3.5.)
    """
    try:
        # It is libzmq's, and may be closed by now, or already be something else.
        with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as twin:
            if twin.getsockname() != twin.getpeername():
                return False
            # Otherwise its port would be taken for another minute after its end (TIME_WAIT).
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return True
    except OSError:
        return False


H = TypeVar("H", bound=Handler)


class _Told(ZmqConnection, Generic[H]):
    """A socket that tells a handler (a :class:`Transport`)."""

    _handler: H
    # While it is made, and when it is closed on purpose.
    _closing: bool

    def flush_soon(self) -> None:
        self.scheduleTurnEnd()

    def turnEnded(self) -> None:
        self._handler.flush()

    def close(self) -> None:
        self._closing = True
        self.shutdown()

    def shutdown(self) -> None:
        was_open = self.factory is not None
        super().shutdown()
        if was_open and not self._closing:
            self._handler.closed()


class _Handshake:
    """Gives up who accepts a connection and does not show in time that it speaks ZMTP.

    libzmq takes what does not look like it for a peer of before 2011, with which there is no
    handshake that could fail, or be waited for too long (``HANDSHAKE_IVL``).
    """

    def __init__(
        self, connection: ZmqConnection, address: str, failed: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._failed = failed
        self._is_tcp = address.startswith("tcp:")
        self._timer: Timer | None = None

    def got(self, event: SocketEvent) -> None:
        """Something happened to the connection."""
        self.end()
        if event.event.name != "CONNECTED":
            return
        if self._is_tcp and _reset_if_connected_to_itself(event.value):
            self._failed("nobody listens: the connection was made with itself")
            return
        factory = self._connection.factory
        if factory is not None:
            seconds = int(self._connection.socketOptions["HANDSHAKE_IVL"]) / 1_000
            seconds += _HANDSHAKE_GRACE
            self._timer = factory.reactor.callLater(seconds, self._too_late, seconds)

    def end(self) -> None:
        """Leave nothing in the reactor."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _too_late(self, seconds: float) -> None:
        self._timer = None
        self._failed(f"it is no ZeroMQ socket, as far as {seconds:g} s have shown")


class _ClientConnection(_Told[ClientHandler], ZmqREQConnection):
    """A DEALER for one endpoint."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: ClientHandler,
        options: Mapping[str, int],
        defaults: SocketOptions,
    ) -> None:
        self._handler = handler
        self._closing = False
        self._ready = False
        self._handshake = _Handshake(self, address, handler.failed)
        # What the handler is told when the socket is drained: replies come before the loss.
        self._lost = False
        self._reached = False
        self._byteBudget = ByteBudget(defaults.send_budget)
        self.socketOptions = {**defaults.for_channel(), **_family(address), **options}
        super().__init__(factory)
        try:
            if address.startswith("inproc:"):
                self._reached = True  # inproc tells nothing, and is not lost before it is closed
            else:
                ZmqMonitor(self, self._got_event, CONNECTION_EVENTS)
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])
        except BaseException:
            self.close()
            raise

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.received(message)

    def send_message(self, message: list[bytes]) -> SendResult:
        return self.trySend(message)

    def shutdown(self) -> None:
        self._handshake.end()
        super().shutdown()

    def readyToSend(self) -> None:
        self._handler.flush()

    def drained(self) -> None:
        if self._lost:
            self._lost = self._reached = False
            self._handler.disconnected()
        elif self._reached:
            self._reached = False
            self._handler.connected()

    def _got_event(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name: zmq itself is the socket layer's
        self._handshake.got(event)
        if name == "HANDSHAKE_SUCCEEDED":
            self._ready = self._reached = True
            self.scheduleRead()
        elif name == "DISCONNECTED" and self._ready:
            self._reached = False
            self._lost = True
            self.scheduleRead()
        elif name == "DISCONNECTED":
            self._handler.failed("the connection was closed before the handshake was done")
        elif name.startswith("HANDSHAKE_FAILED"):
            self._handler.failed(f"the handshake failed: {name}")
        elif name == "CONNECT_RETRIED" and not self._ready:
            self._handler.unreachable("connecting failed")


class _ServerConnection(_Told[ServerHandler], ZmqREPConnection):
    """A ROUTER that listens at one endpoint."""

    endpoint_type = ZmqEndpointType.bind

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: ServerHandler,
        options: Mapping[str, int],
        budget: int,
    ) -> None:
        self._handler = handler
        self._closing = True  # until it is open: a failure to bind is told by the exception
        self._byteBudget = ByteBudget(budget)
        self.socketOptions = {**_family(address), **options}
        super().__init__(factory, ZmqEndpoint(self.endpoint_type, address))
        self.endpoint = self.lastEndpoint()
        self.tells_of_loss = not address.startswith("inproc:")
        self._closing = False

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.received(message)

    def send_message(self, message: list[bytes]) -> SendResult:
        return self.trySend(message)

    def peer_address(self, peer: bytes) -> str:
        return self.peerAddress(peer)

    def peerLost(self, peerId: bytes) -> None:
        if self._byteBudget is not None:
            self._byteBudget.forget(peerId)
        self._handler.peer_lost(peerId)


class _WorkerConnection(_ServerConnection):
    """A ROUTER that connects to one endpoint."""

    endpoint_type = ZmqEndpointType.connect
    monitorEvents = CONNECTION_EVENTS

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: WorkerHandler,
        options: Mapping[str, int],
        budget: int,
    ) -> None:
        self._worker = handler
        self._handshake = _Handshake(self, address, self._fail)
        # What the handler is told when the socket is drained.
        self._failure = ""
        super().__init__(factory, address, handler, options, budget)

    def gotEvent(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name: zmq itself is the socket layer's
        self._handshake.got(event)
        if name == "DISCONNECTED":
            self._fail("the connection to the proxy was lost")
        elif name.startswith("HANDSHAKE_FAILED"):
            self._fail(f"the handshake failed: {name}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self.scheduleRead()

    def shutdown(self) -> None:
        self._handshake.end()
        super().shutdown()

    def drained(self) -> None:
        super().drained()
        if self._failure and not self._closing:
            self._closing = True
            self._worker.failed(self._failure)


class _Publisher(_Told[PublisherHandler], ZmqXPubConnection):
    """An XPUB that lets in whom its handler allows."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: PublisherHandler,
        options: Mapping[str, int],
    ) -> None:
        self._handler = handler
        self._closing = True  # until it is open: a failure to bind is told by the exception
        self.socketOptions = {**_family(address), **options}
        super().__init__(factory, ZmqEndpoint(ZmqEndpointType.bind, address))
        self.endpoint = self.lastEndpoint()
        self._closing = False

    def gotSubscription(self, tag: bytes) -> None:
        if self._handler.allows(tag):
            self.acceptSubscription(tag)
            self._handler.subscribed(tag)
        else:
            self.discard("subscription that is not allowed")

    def gotUnsubscription(self, tag: bytes) -> None:
        self.acceptUnsubscription(tag)
        self._handler.unsubscribed(tag)

    def publish(self, frame: bytes) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # framed already
        self.trySend([frame])


class _Multicast(_Told[PublisherHandler], ZmqPubConnection):
    """A PUB for all who are in a group."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: PublisherHandler,
        options: Mapping[str, int],
    ) -> None:
        _check_multicast()
        self._handler = handler
        self._closing = True  # until it is open: a failure is told by the exception
        self.socketOptions = dict(options)
        super().__init__(factory, ZmqEndpoint(ZmqEndpointType.connect, address))
        self.endpoint = address
        self._closing = False

    def publish(self, frame: bytes) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # framed already
        self.trySend([frame])


def _check_multicast() -> None:
    if not hasMulticast():
        raise RuntimeError(
            "epgm:// needs a libzmq with PGM, and this one was built without it, as those in "
            "pyzmq's wheels are: install pyzmq with --no-binary pyzmq against one that has it"
        )


class _Subscriber(_Told[SubscriberHandler], ZmqSubConnection):
    """A SUB for one publisher. libzmq connects and subscribes again when a connection is lost."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: SubscriberHandler,
        options: Mapping[str, int],
    ) -> None:
        multicast = is_multicast(address)
        if multicast:
            _check_multicast()
        self._handler = handler
        self._closing = False
        self._handshake = _Handshake(self, address, handler.failed)
        self._ready = False
        self.socketOptions = {**_family(address), **options}
        super().__init__(factory)
        try:
            # inproc tells nothing, and is not lost before it is closed; nor does a group.
            self._reached = multicast or address.startswith("inproc:")
            if not self._reached:
                ZmqMonitor(self, self._got_event, CONNECTION_EVENTS)
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])
        except BaseException:
            self.close()
            raise

    def drained(self) -> None:
        if self._reached:
            self._reached = False
            self._handler.connected()

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.published(message[0])

    def shutdown(self) -> None:
        self._handshake.end()
        super().shutdown()

    def _got_event(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name: zmq itself is the socket layer's
        self._handshake.got(event)
        if name == "HANDSHAKE_SUCCEEDED":
            self._ready = True
            self._handler.connected()
        elif name == "DISCONNECTED" and self._ready:
            self._ready = False
            self._handler.disconnected()
        elif name == "DISCONNECTED":
            # libzmq does not come back from what is no ZeroMQ.
            self._handler.failed("the connection was closed before the handshake was done")
        elif name.startswith("HANDSHAKE_FAILED"):
            self._handler.failed(f"the handshake failed: {name}")


class ZmqNetwork:
    """Sockets of a :class:`~txzmq.ZmqFactory`."""

    def __init__(self, factory: ZmqFactory, options: SocketOptions | None = None) -> None:
        """:param options: None for the defaults."""
        keep_large_blocks()
        self._factory = factory
        self._options = options or SocketOptions()
        self.clock = monotonic(factory.reactor)
        self.random = random.Random()
        self.guard = factory.guard

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        """A DEALER connected to *address*."""
        return _ClientConnection(self._factory, address, handler, options, self._options)

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """A ROUTER bound to *address*."""
        merged = {**self._options.for_server(), **options}
        return _ServerConnection(self._factory, address, handler, merged, self._options.send_budget)

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """A ROUTER connected to *address*."""
        merged = {**self._options.for_worker(), **options}
        return _WorkerConnection(self._factory, address, handler, merged, self._options.send_budget)

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        """An XPUB bound to *address*, or a PUB that sends to a multicast group.

        :raises RuntimeError: for a group, if libzmq was built without PGM.
        """
        if is_multicast(address):
            merged = {**self._options.for_multicast(), **options}
            return _Multicast(self._factory, address, handler, merged)
        merged = {**self._options.for_publisher(), **options}
        return _Publisher(self._factory, address, handler, merged)

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        """A SUB connected to *address*."""
        merged = {**self._options.for_subscriber(), **options}
        interface = self._options.multicast_interface
        if interface and is_multicast(address):
            scheme, _, group = announced(address).partition("://")
            address = f"{scheme}://{interface};{group}"
        return _Subscriber(self._factory, address, handler, merged)

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the factory is shut down, before its connections are."""
        return self._factory.callWhenClosed(callback)
