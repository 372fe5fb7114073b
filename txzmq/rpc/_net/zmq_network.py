"""The network of ZeroMQ sockets in the reactor: one class for each role in the RPC layer."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from txzmq._backend import SHARES_MEMORY, hasMulticast
from txzmq._budget import ByteBudget
from txzmq._memory import keep_large_blocks
from txzmq._reactor import Reactor, monotonic
from txzmq._send_result import SendResult
from txzmq._timer import ResettableTimer
from txzmq.auth import Credentials, CurveServerCredentials
from txzmq.connection import ZmqConnection, ZmqEndpoint, ZmqEndpointType
from txzmq.factory import ZmqFactory
from txzmq.monitor import ATTEMPT_EVENTS, CONNECTION_EVENTS, SocketEvent, ZmqMonitor
from txzmq.pubsub import ZmqPubConnection, ZmqSubConnection, ZmqXPubConnection
from txzmq.req_rep import ZmqREPConnection, ZmqREQConnection
from txzmq.rpc._core.transport import (
    ClientHandler,
    ClientTransport,
    Handler,
    PeerConnection,
    PublisherHandler,
    PublisherTransport,
    ServerHandler,
    ServerTransport,
    SubscriberHandler,
    SubscriberTransport,
    WorkerHandler,
)
from txzmq.rpc._net.accepted import accepted
from txzmq.rpc._net.addresses import is_multicast, on_interface, split_scheme
from txzmq.rpc._net.failures import (
    ACCEPTED,
    CLOSED_EARLY,
    ENDED,
    NO_HANDSHAKE,
    Attempt,
    handshake_failure,
    is_unexplained,
)
from txzmq.rpc._net.given_sockets import accept_no_more, duplicate
from txzmq.rpc._net.greeting import GreetingProbe
from txzmq.rpc._net.ipc import claim
from txzmq.rpc._net.named_worker import NamedWorker
from txzmq.rpc._net.names import check_numeric, dns_target
from txzmq.rpc._net.parsing import Use, parse_address, parse_group
from txzmq.rpc._net.server_keys import ServerKeys
from txzmq.rpc._net.twin import Twin
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.socket_options import SECURE_PUBLISHER_MESSAGE_SIZE, SocketOptions

__all__ = ["ZmqNetwork"]

#: Seconds beyond ``HANDSHAKE_IVL``, within which libzmq itself gives up most handshakes.
_HANDSHAKE_GRACE: Final = 0.5


def _family(address: str) -> dict[str, int]:
    """IPV6 only for an address that needs it: with it, libzmq resolves names to IPv6 first."""
    scheme, rest = split_scheme(address)
    return {"IPV6": 1} if scheme == "tcp" and rest.startswith("[") else {}


def _has_no_events(address: str) -> bool:
    """Whether libzmq reports no events for connections to an address."""
    return split_scheme(address)[0] == "inproc"


def _reset_if_connected_to_itself(descriptor: int) -> bool:
    """If both ends of a TCP connection are the same, have its port free once it is closed.

    A port where nobody listens may be in the range from which the kernel takes clients' ports. A
    client that tries to connect to it often enough gets that port for its own end, and is connected
    to itself. It would occupy the server's port for ever. (Versions of libzmq after 4.3.5 prevent
    it.)

    :return: whether they are the same.
    """
    try:
        # The descriptor is libzmq's: it may be closed by now, or belong to something else.
        with Twin(descriptor) as twin:
            if twin.name() != twin.peer():
                return False
            # Otherwise the port would be occupied for another minute (TIME_WAIT).
            twin.set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return True
    except OSError:
        return False


def _bound_bytes(
    budget: int, options: Mapping[str, int]
) -> tuple[ByteBudget | None, Mapping[str, int]]:
    """Bound the bytes of large messages that libzmq holds for each peer of a socket.

    Where nothing tells when libzmq is done with a message, only the high-water mark is left: it is
    lowered, so that as many of the largest messages are within the budget.

    :param options: the socket's; both sides send no larger messages than they receive.
    :return: what counts the bytes, if anything does, and the options to set.
    """
    if SHARES_MEMORY:
        return ByteBudget(budget), options
    most = max(1, budget // options.get("MAXMSGSIZE", MESSAGE_SIZE))
    return None, {**options, "SNDHWM": min(most, options["SNDHWM"])}


H = TypeVar("H", bound=Handler)


@contextmanager
def _place(address: str, options: dict[str, int]) -> Generator[dict[str, int]]:
    """The options to listen with: at an address that is free, or by a socket that is there.

    :param options: with ``USE_FD`` for the latter; the descriptor stays the caller's.
    :raises CannotListenError: and others, if the address cannot be had.
    """
    given = options.get("USE_FD")
    if given is None:
        with claim(address):
            yield options
    else:
        with duplicate(given) as own:
            yield {**options, "USE_FD": own}


def _ignore() -> None:
    """Take back nothing."""


class _TransportConnection(ZmqConnection, Generic[H]):
    """A socket that tells a handler what happens to it (a :class:`Transport`)."""

    _handler: H
    # Whether the handler must not be told of the end: while the socket is made, and in close().
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


class _HandshakeTimer:
    """Reports a peer that accepts a connection and does not begin the ZMTP handshake in time.

    ``HANDSHAKE_IVL`` does not cover it: libzmq takes a peer that sends something else for one of
    before 2011, with which there is no handshake.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        options: Mapping[str, int],
        failed: Callable[[str], None],
    ) -> None:
        """
        :param options: the socket's; ``HANDSHAKE_IVL`` is among them.
        :param failed: called with the reason.
        """
        self._failed = failed
        self._is_tcp = split_scheme(address)[0] == "tcp"
        self._seconds = options["HANDSHAKE_IVL"] / 1_000 + _HANDSHAKE_GRACE
        self._timer = ResettableTimer(reactor, self._too_late)

    def observe(self, event: SocketEvent) -> None:
        """Start the timer when the connection is made; stop it with any other event."""
        self.stop()
        if event.event.name != "CONNECTED":
            return
        if self._is_tcp and _reset_if_connected_to_itself(event.value):
            self._failed("nobody listens: the connection was made with itself")
        else:
            self._timer.start(self._seconds)

    def stop(self) -> None:
        """Leave nothing in the reactor."""
        self._timer.stop()

    def _too_late(self) -> None:
        self._failed(f"no ZeroMQ handshake within {self._seconds:g} s: {NO_HANDSHAKE}")


class _ClientConnection(_TransportConnection[ClientHandler], ZmqREQConnection):
    """A DEALER for one endpoint."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: ClientHandler,
        options: Mapping[str, int],
        defaults: SocketOptions,
        keys: ServerKeys,
    ) -> None:
        self._handler = handler
        self._keys = keys
        self.credentials, self._serverKey = keys.credentials, keys.key_for(address)
        self._closing = False
        self._ready = False
        # What to tell the handler once the socket is drained, so that replies come before the loss.
        self._lost = False
        self._reached = False
        self._unbound = False
        self._forget_address = _ignore
        self._probe: GreetingProbe | None = None
        self._address = address
        wanted = {**defaults.for_channel(), **_family(address), **options}
        self._byteBudget, merged = _bound_bytes(defaults.send_budget, wanted)
        self.socketOptions = merged
        self._handshake = _HandshakeTimer(factory.reactor, address, merged, handler.failed)
        self._attempt = Attempt(
            monotonic(factory.reactor), address, merged["CONNECT_TIMEOUT"] / 1_000
        )
        super().__init__(factory)
        try:
            if _has_no_events(address):
                self._forget_address = factory.inproc.watch(address, self._bound)
                self._bound(factory.inproc.isBound(address))
            else:
                ZmqMonitor(self, self._got_event, ATTEMPT_EVENTS)
                self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])
        except BaseException:
            self.close()
            raise

    def _bound(self, is_bound: bool) -> None:
        """Somebody listens at the inproc address, or nobody does (any more)."""
        if not is_bound:
            self._lost, self._unbound = self._lost or self._ready, not self._ready
            self._ready = self._reached = False
        elif not self._ready and not self._lost:  # a loss is told first
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, self._address)])
            self._ready = self._reached = True
        self.scheduleRead()

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.received(message)

    def send_message(self, message: list[bytes]) -> SendResult:
        # What is lost may still take messages over inproc, and drops them.
        return SendResult.BLOCKED if self._lost else self.trySend(message)

    def shutdown(self) -> None:
        self._forget_address()
        self._handshake.stop()
        self._end_probe()
        super().shutdown()

    def readyToSend(self) -> None:
        self._handler.flush()

    def drained(self) -> None:
        if self._unbound:
            self._unbound = False
            if not self._ready:
                self._handler.unreachable(
                    "no connection of this ZmqFactory is bound to it, and inproc reaches no other"
                )
        if self._lost:
            self._lost = False
            self._handler.disconnected()
            factory = self.factory  # None: the handler has closed it
            if factory is not None and _has_no_events(self._address):
                self._bound(factory.inproc.isBound(self._address))
        elif self._reached:
            self._reached = False
            self._handler.connected()

    def _got_event(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name, as only the socket layer imports zmq
        self._handshake.observe(event)
        self._attempt.observe(event)
        if self._probe is not None and name != "HANDSHAKE_SUCCEEDED":
            return  # libzmq's next attempts, until it is known why the first one failed
        if name == "HANDSHAKE_SUCCEEDED":
            self._end_probe()
            self._ready = self._reached = True
            self._keys.succeeded(self._address, self._serverKey)
            self.scheduleRead()
        elif self._keys.is_broken(event, was_ready=self._ready):
            is_last = self._keys.failed(self._address, self._serverKey)
            reason = self._keys.reason(event)
            if is_last and is_unexplained(event) and self._keys.may_have_ended(self._address):
                self._handler.failed(ENDED)
            elif is_last and is_unexplained(event):
                self._find_out(lambda: self._handler.refused(reason, is_last=True))
            else:
                self._handler.refused(reason, is_last=is_last)
        elif name == "DISCONNECTED" and self._ready:
            self._reached = False
            self._lost = True
            self.scheduleRead()
        elif name == "CONNECTED" and self.factory is not None:  # or it has connected to itself
            self._handler.accepted(ACCEPTED)
        elif is_unexplained(event):
            self._find_out(lambda: self._handler.failed(CLOSED_EARLY))
        elif name.startswith("HANDSHAKE_FAILED"):
            self._handler.failed(handshake_failure(event))
        elif name == "CONNECT_RETRIED" and not self._ready:
            self._keys.forget_mechanism(self._address)
            self._handler.unreachable(self._attempt.failure)

    def _find_out(self, otherwise: Callable[[], None]) -> None:
        """Tell the handler that the server has another mechanism; or else call *otherwise*."""
        assert self.factory is not None, "it has just got an event"

        def tell() -> None:
            reason = self._keys.mismatch(self._address)
            if reason:
                self._handler.refused(reason, is_last=True)
            else:
                otherwise()

        def found(mechanism: str) -> None:
            self._probe = None
            self._keys.found_mechanism(self._address, mechanism)
            tell()

        if self._keys.mechanism(self._address) is None:
            self._probe = GreetingProbe(self.factory.reactor, self._address, found)
        else:
            tell()

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.stop()
            self._probe = None


class _ServerConnection(_TransportConnection[ServerHandler], ZmqREPConnection):
    """A ROUTER that listens at one endpoint."""

    endpoint_type = ZmqEndpointType.bind
    #: A stranger could take a client's place; and no client of ours chooses its identity.
    handover = False

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: ServerHandler,
        options: Mapping[str, int],
        budget: int,
        credentials: Credentials | None,
    ) -> None:
        self._handler = handler
        self.credentials = credentials
        self._closing = True  # until it is open: the exception tells of a failure to bind
        wanted = {**_family(address), **options}
        self._byteBudget, self.socketOptions = _bound_bytes(budget, wanted)
        super().__init__(factory, ZmqEndpoint(self.endpoint_type, address))
        self.endpoint = self.lastEndpoint()
        self._is_inproc = _has_no_events(address)
        self.tells_of_loss = not self._is_inproc
        self._closing = False

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.received(message)

    def send_message(self, message: list[bytes]) -> SendResult:
        return self.trySend(message)

    def has_input(self) -> bool:
        return self._messageWaits()

    def peer_address(self, peer: bytes) -> str:
        return "inproc" if self._is_inproc else self.peerAddress(peer)

    def connection_of(self, peer: bytes) -> PeerConnection | None:
        return accepted(self.peerDescriptor(peer), self.endpoint)

    def accept_no_more(self) -> bool:
        given = self.socketOptions.get("USE_FD")
        return isinstance(given, int) and accept_no_more(given)

    @property
    def authenticates(self) -> bool:
        return isinstance(self.credentials, CurveServerCredentials)

    def peerLost(self, peerId: bytes) -> None:
        if self._byteBudget is not None:
            self._byteBudget.forget(peerId)
        self._handler.peer_lost(peerId)


class _WorkerConnection(_ServerConnection):
    """A ROUTER that connects to one endpoint."""

    endpoint_type = ZmqEndpointType.connect
    monitorEvents = ATTEMPT_EVENTS

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: WorkerHandler,
        options: Mapping[str, int],
        budget: int,
        credentials: Credentials | None,
        *,
        redials: bool,
    ) -> None:
        """:param redials: whether to fail, and not to try again, where nobody listens."""
        self._worker = handler
        self._redials = redials
        self._handshake = _HandshakeTimer(factory.reactor, address, options, self._fail)
        self._attempt = Attempt(
            monotonic(factory.reactor), address, options["CONNECT_TIMEOUT"] / 1_000
        )
        # What to tell the handler once the socket is drained; empty for nothing.
        self._failure = ""
        super().__init__(factory, address, handler, options, budget, credentials)

    def gotEvent(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name, as only the socket layer imports zmq
        self._handshake.observe(event)
        self._attempt.observe(event)
        if name == "DISCONNECTED":
            self._fail("the connection to the proxy was lost")
        elif name.startswith("HANDSHAKE_FAILED"):
            self._fail(handshake_failure(event))
        elif name == "CONNECT_RETRIED" and self._redials:
            self._fail(f"{self.endpoint}: {self._attempt.failure}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self.scheduleRead()

    def shutdown(self) -> None:
        self._handshake.stop()
        super().shutdown()

    def drained(self) -> None:
        super().drained()
        if self._failure and not self._closing:
            self._closing = True
            self._worker.failed(self._failure)


class _Publisher(_TransportConnection[PublisherHandler], ZmqXPubConnection):
    """An XPUB that accepts the subscriptions that its handler allows."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: PublisherHandler,
        options: Mapping[str, int],
        credentials: Credentials | None,
    ) -> None:
        self._handler = handler
        self.credentials = credentials
        self._closing = True  # until it is open: the exception tells of a failure to bind
        self.socketOptions = {**_family(address), **options}
        super().__init__(factory, ZmqEndpoint(ZmqEndpointType.bind, address))
        self.endpoint = self.lastEndpoint()
        self.high_water_mark = options["SNDHWM"]
        self._closing = False

    def gotSubscription(self, tag: bytes) -> None:
        connection = accepted(self.subscriberDescriptor(), self.endpoint)
        identity = self.subscriberIdentity()
        # Whoever was revoked since is nobody; and nobody subscribes where all authenticate.
        is_known = identity is not None or self.credentials is None
        if is_known and self._handler.allows(tag, connection, identity):
            self.acceptSubscription(tag)
            self._handler.subscribed(tag)
        else:
            self.discard("subscription that is not allowed")

    def gotUnsubscription(self, tag: bytes) -> None:
        self.acceptUnsubscription(tag)
        connection = accepted(self.subscriberDescriptor(), self.endpoint)
        self._handler.unsubscribed(tag, connection)

    def publish(self, frame: bytes) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # framed already
        self.trySend([frame])


class _Multicast(_TransportConnection[PublisherHandler], ZmqPubConnection):
    """A PUB that sends to a multicast group."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: PublisherHandler,
        options: Mapping[str, int],
    ) -> None:
        _check_multicast()
        self._handler = handler
        self._closing = True  # until it is open: the exception tells of a failure
        self.socketOptions = dict(options)
        super().__init__(factory, ZmqEndpoint(ZmqEndpointType.connect, address))
        self.endpoint = address
        self.high_water_mark = options["SNDHWM"]
        self._closing = False

    def publish(self, frame: bytes) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # framed already
        self.trySend([frame])


def _check_multicast() -> None:
    if not hasMulticast():
        raise RuntimeError(
            "epgm:// needs a libzmq with PGM, and this one was built without it, as those in "
            "pyzmq's wheels are: install pyzmq with --no-binary pyzmq against one that has it"
        )


class _Subscriber(_TransportConnection[SubscriberHandler], ZmqSubConnection):
    """A SUB for one publisher. libzmq connects and subscribes again when a connection is lost."""

    def __init__(
        self,
        factory: ZmqFactory,
        address: str,
        handler: SubscriberHandler,
        options: Mapping[str, int],
        keys: ServerKeys,
    ) -> None:
        multicast = is_multicast(address)
        if multicast:
            _check_multicast()
        self._handler = handler
        self._keys = keys
        if not multicast:
            self.credentials, self._serverKey = keys.credentials, keys.key_for(address)
        self._closing = False
        self._handshake = _HandshakeTimer(factory.reactor, address, options, handler.failed)
        self._ready = False
        self._address = address
        # What to tell the handler once the socket is drained.
        self._reached = self._lost = False
        self._forget_address = _ignore
        self.socketOptions = {**_family(address), **options}
        super().__init__(factory)
        try:
            self._reached = multicast  # told at once, as a group has no events
            if _has_no_events(address):
                self._forget_address = factory.inproc.watch(address, self._bound)
                self._bound(factory.inproc.isBound(address))
            else:
                if not multicast:
                    ZmqMonitor(self, self._got_event, CONNECTION_EVENTS)
                self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])
        except BaseException:
            self.close()
            raise

    def _bound(self, is_bound: bool) -> None:
        """A publisher listens at the inproc address, or none does (any more)."""
        if is_bound and not self._ready:
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, self._address)])
            self._ready = self._reached = True
        elif not is_bound and self._ready:
            self._ready = self._reached = False
            self._lost = True
        self.scheduleRead()

    def drained(self) -> None:
        if self._lost:
            self._lost = False
            self._handler.disconnected()
        if self._reached:
            self._reached = False
            self._handler.connected()

    def messageReceived(self, message: list[bytes]) -> None:
        self._handler.published(message[0])

    def shutdown(self) -> None:
        self._forget_address()
        self._handshake.stop()
        super().shutdown()

    def _got_event(self, event: SocketEvent) -> None:
        name = event.event.name or ""  # by name, as only the socket layer imports zmq
        self._handshake.observe(event)
        if name == "HANDSHAKE_SUCCEEDED":
            self._ready = True
            self._keys.succeeded(self._address, self._serverKey)
            self._handler.connected()
        elif self._keys.is_broken(event, was_ready=self._ready):
            self._keys.failed(self._address, self._serverKey)
            self._handler.failed(self._keys.reason(event))
        elif name == "DISCONNECTED" and self._ready:
            self._ready = False
            self._handler.disconnected()
        elif name == "DISCONNECTED":
            # libzmq does not connect again to a peer that does not speak ZMTP.
            self._handler.failed(CLOSED_EARLY)
        elif name.startswith("HANDSHAKE_FAILED"):
            self._handler.failed(handshake_failure(event))


class ZmqNetwork:
    """Makes the RPC layer's sockets with a :class:`~txzmq.ZmqFactory`."""

    def __init__(
        self,
        factory: ZmqFactory,
        options: SocketOptions | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """
        :param options: of all its sockets; None for the defaults.
        :param credentials: of all its sockets; None for none.
        """
        keep_large_blocks()
        self._factory = factory
        self._options = options or SocketOptions()
        self._credentials = credentials
        self._keys = ServerKeys(credentials)
        self.clock = monotonic(factory.reactor)
        self.random = random.Random()
        self.guard = factory.guard

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        """A DEALER connected to *address*.

        :raises ValueError: if it is malformed, or its host is a name.
        """
        parse_address(address, Use.CONNECT, "address")
        check_numeric(address)
        return _ClientConnection(
            self._factory, address, handler, options, self._options, self._keys
        )

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """A ROUTER bound to *address*.

        :raises ValueError: if it is malformed.
        :raises CannotListenError: if it is in use, or cannot be bound.
        :raises InsecureBindError: if others can lead the path of ipc elsewhere.
        """
        parse_address(address, Use.LISTEN, "address")
        merged = {**self._options.for_server(), **options}
        budget = self._options.send_budget
        with _place(address, merged) as placed:
            return _ServerConnection(
                self._factory, address, handler, placed, budget, self._credentials
            )

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        """A ROUTER connected to *address*; a name is looked up first.

        :raises ValueError: if it is malformed.
        """
        parse_address(address, Use.CONNECT, "address")
        merged = {**self._options.for_worker(), **options}
        target = dns_target(address)

        def connect(address: str) -> ServerTransport:
            budget, redials = self._options.send_budget, target is not None
            return _WorkerConnection(
                self._factory, address, handler, merged, budget, self._credentials, redials=redials
            )

        if target is None:
            return connect(address)
        return NamedWorker(self, address, target, handler, connect)

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        """An XPUB bound to *address*, or a PUB that sends to a multicast group.

        :raises RuntimeError: for a group, if libzmq was built without PGM.
        :raises ValueError: and others, as :meth:`listen`.
        """
        if is_multicast(address):
            parse_group(address, "address")
            merged = {**self._options.for_multicast(), **options}
            return _Multicast(self._factory, address, handler, merged)
        parse_address(address, Use.LISTEN, "address")
        merged = {**self._options.for_publisher(), **options}
        if self._credentials is not None:
            merged["MAXMSGSIZE"] = SECURE_PUBLISHER_MESSAGE_SIZE
        with _place(address, merged) as placed:
            return _Publisher(self._factory, address, handler, placed, self._credentials)

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        """A SUB connected to *address*, or one that joins the multicast group there.

        :raises ValueError: if it is malformed, or its host is a name.
        """
        if not is_multicast(address):
            parse_address(address, Use.CONNECT, "address")
        check_numeric(address)
        merged = {**self._options.for_subscriber(), **options}
        interface = self._options.multicast_interface
        if interface:
            address = on_interface(address, interface)
        return _Subscriber(self._factory, address, handler, merged, self._keys)

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the factory is shut down, before its connections are closed."""
        return self._factory.callWhenClosed(callback)
