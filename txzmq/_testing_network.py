"""A network in memory, in virtual time, with random faults; public through txzmq.testing."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._guard import Guard
from txzmq._identity import Identity
from txzmq._reactor import Timer
from txzmq._testing_faults import Faults, MessageKind, Script
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import (
    ClientHandler,
    Handler,
    PublisherHandler,
    SendResult,
    ServerHandler,
    SubscriberHandler,
    WorkerHandler,
)
from txzmq.rpc._net.addresses import announced, is_multicast, split_tcp

__all__ = ["MemoryNetwork"]

T = TypeVar("T")
H = TypeVar("H", bound=Handler)

#: Virtual seconds between attempts to connect.
_RETRY = 0.1
#: Virtual seconds until a full queue has room.
_UNBLOCK = 0.01
#: Virtual seconds from a SUBSCRIBE to a stranger's UNSUBSCRIBE of the same tag.
_STRANGER = 0.05

# Looked up once: reading a member of an enumeration is slow in Python 3.11.
_REQUEST: Final = MessageKind.REQUEST
_REPLY: Final = MessageKind.REPLY
_PUBLICATION: Final = MessageKind.PUBLICATION
_SUBSCRIPTION: Final = MessageKind.SUBSCRIPTION
_UNSUBSCRIPTION: Final = MessageKind.UNSUBSCRIPTION


def _in_use(address: str) -> CannotListenError:
    error = OSError(errno.EADDRINUSE, "it is in use")
    return CannotListenError(address, 0, error)  # type: ignore[no-untyped-call]  # Twisted leaves it untyped


def _plan_nothing() -> None:
    """What a socket that is closed does in place of planning a flush."""


class _Socket(Generic[H]):
    """What all sockets of a network in memory have in common."""

    def __init__(self, network: MemoryNetwork, handler: H) -> None:
        self.handler = handler
        self._network = network
        self._open = True
        # No ResettableTimer: a flush is planned for each message.
        self._flush: Timer | None = None
        self._plan_flush: Callable[[], Timer | None] = partial(
            network.clock.callLater, 0, self._flush_now
        )

    def flush_soon(self) -> None:
        if self._flush is None:
            self._flush = self._plan_flush()

    def _flush_now(self) -> None:
        self._flush = None
        self.handler.flush()

    def close(self) -> None:
        self._open = False
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._plan_flush = _plan_nothing
        # Later, so that messages sent before still arrive.
        self._network.clock.callLater(0, self.cut)

    def cut(self) -> None:
        """Break every connection of this socket."""
        raise NotImplementedError


class _Client(_Socket[ClientHandler]):
    """A client's socket for one server."""

    def __init__(self, network: MemoryNetwork, address: str, handler: ClientHandler) -> None:
        super().__init__(network, handler)
        self._address = address
        # The routing id that the server knows it by; a new one for each connection.
        self._peer = b""
        self._server: _Listener | None = None
        self._unblock = ResettableTimer(network.clock, self._has_room)
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
        clock, server = self._network.clock, self._network.listener(self._address)
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
            self._network.clock.callLater(_RETRY, self.try_to_connect)
        else:
            self._connect(server)
            self._tell_of_connection()

    def _connect(self, server: _Listener) -> None:
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
                self._network.clock.callLater(_RETRY, self.try_to_connect)

    def close(self) -> None:
        self._unblock.stop()
        super().close()


class _ClientConnection(NamedTuple):
    """One of a client's connections to a server (a :class:`PeerConnection`)."""

    listener: _Listener
    client: _Client
    peer: bytes

    def is_open(self) -> bool:
        return self.listener.is_connected(self.peer)

    def end(self) -> None:
        # Later, as libzmq's own thread breaks it.
        self.listener.clock.callLater(0, self._break)

    def _break(self) -> None:
        if self.is_open():
            self.client.cut()


class _Listener(_Socket[ServerHandler]):
    """A server's socket."""

    def __init__(self, network: MemoryNetwork, address: str, handler: ServerHandler) -> None:
        super().__init__(network, handler)
        self.endpoint = address
        self.clock = network.clock
        self.tells_of_loss = network.tells_of_loss
        self.authenticates = False
        # By routing id.
        self._clients: dict[bytes, _Client] = {}

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

    def connected(self, peer: bytes, client: _Client) -> None:
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


class _Subscriber(_Socket[SubscriberHandler]):
    """A client's socket for one publisher."""

    def __init__(self, network: MemoryNetwork, address: str, handler: SubscriberHandler) -> None:
        super().__init__(network, handler)
        #: The tags that it has subscribed to, and how often.
        self.tags: dict[bytes, int] = {}
        self._address = address
        self._publisher: _Publisher | None = None
        self._connections = 0

    def subscribe(self, tag: bytes) -> None:
        # Each SUBSCRIBE is sent, but one UNSUBSCRIBE for all of a tag.
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if self._publisher is not None:
            self._send_subscription(self._publisher, tag)

    def unsubscribe(self, tag: bytes) -> None:
        count = self.tags.get(tag, 0) - 1
        if count > 0:
            self.tags[tag] = count
        elif count == 0:
            del self.tags[tag]
            self._send_unsubscription(tag)

    def _send_subscription(self, publisher: _Publisher, tag: bytes) -> None:
        arrive = partial(publisher.take_subscription, self, self._connections, tag)
        self._network.carry_subscription(arrive, _SUBSCRIPTION, tag)
        if self._network.has_strangers():
            self._network.clock.callLater(_STRANGER, publisher.take_from_stranger, tag)

    def _send_unsubscription(self, tag: bytes) -> None:
        if self._publisher is not None:
            arrive = partial(self._publisher.take_unsubscription, self, self._connections, tag)
            self._network.carry_subscription(arrive, _UNSUBSCRIPTION, tag)

    def begin(self) -> None:
        """As :meth:`_Client.begin`."""
        clock, publisher = self._network.clock, self._network.publisher(self._address)
        if self._network.tells_of_loss or publisher is None:
            clock.callLater(0, self.try_to_connect)
        else:
            self._connect(publisher)
            clock.callLater(0, self._tell_of_connection)

    def try_to_connect(self) -> None:
        if not self._open:
            return
        publisher = self._network.publisher(self._address)
        if publisher is None:
            self._network.clock.callLater(_RETRY, self.try_to_connect)
        else:
            self._connect(publisher)
            self._tell_of_connection()

    def _tell_of_connection(self) -> None:
        if self._open:
            self.handler.connected()

    def _connect(self, publisher: _Publisher) -> None:
        self._publisher = publisher
        self._connections += 1
        publisher.connected(self, self._connections)
        if publisher.knows_subscribers:
            for tag in self.tags:
                self._send_subscription(publisher, tag)

    def deliver(self, connection: int, frame: bytes) -> None:
        """Take a frame that was sent to the connection with a number."""
        if (
            self._open
            and connection == self._connections
            and self._publisher is not None
            and frame.startswith(tuple(self.tags))
        ):
            self.handler.published(frame)

    def cut(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        publisher.disconnected(self)
        if self._open:
            self.handler.disconnected()
            self._network.clock.callLater(_RETRY, self.try_to_connect)

    def close(self) -> None:
        self.tags.clear()
        super().close()


class _SubscriberConnection(NamedTuple):
    """One of a subscriber's connections to a publisher (a :class:`SubscriberConnection`)."""

    publisher: _Publisher
    subscriber: _Subscriber
    number: int

    def is_open(self) -> bool:
        return self.publisher.is_connected(self.subscriber, self.number)

    def taken(self) -> int | None:
        return None  # nothing waits for it

    def end(self) -> None:
        # Later, as libzmq's own thread breaks it.
        self.publisher.clock.callLater(0, self._break)

    def _break(self) -> None:
        if self.is_open():
            self.subscriber.cut()


class _Publisher(_Socket[PublisherHandler]):
    """The socket of a server's publisher."""

    def __init__(
        self,
        network: MemoryNetwork,
        address: str,
        handler: PublisherHandler,
        *,
        knows_subscribers: bool,
    ) -> None:
        """:param knows_subscribers: whether the handler is told of them; False for a group."""
        super().__init__(network, handler)
        self.endpoint = address
        self.high_water_mark = 10_000
        self.knows_subscribers = knows_subscribers
        self.clock = network.clock
        #: The subscribers that are connected, and the tags that each receives.
        self.subscribers: dict[_Subscriber, set[bytes]] = {}
        # The number of each one's connection.
        self._connections: dict[_Subscriber, int] = {}
        # What each has asked for, and has not unsubscribed from: allowed or not.
        self._asked: dict[_Subscriber, dict[bytes, None]] = {}

    def publish(self, frame: bytes) -> None:
        for subscriber, tags in list(self.subscribers.items()):
            if frame.startswith(tuple(tags if self.knows_subscribers else subscriber.tags)):
                arrive = partial(subscriber.deliver, self._connections[subscriber], frame)
                self._network.carry(arrive, _PUBLICATION, (frame,))

    def connected(self, subscriber: _Subscriber, connection: int) -> None:
        """A subscriber has connected; it has no tags yet."""
        self.subscribers[subscriber] = set()
        self._asked[subscriber] = {}
        self._connections[subscriber] = connection

    def take_subscription(self, subscriber: _Subscriber, connection: int, tag: bytes) -> None:
        """A SUBSCRIBE has arrived; it may be one of many for the same tag."""
        if self.is_connected(subscriber, connection):
            self._asked[subscriber][tag] = None
            if self.handler.allows(tag, self._known(subscriber), None):
                self.subscribers[subscriber].add(tag)
                self.handler.subscribed(tag)

    def take_unsubscription(self, subscriber: _Subscriber, connection: int, tag: bytes) -> None:
        """An UNSUBSCRIBE has arrived, of a tag that was allowed or not."""
        if self.is_connected(subscriber, connection):
            self._asked[subscriber].pop(tag, None)
            self.subscribers[subscriber].discard(tag)
            self.handler.unsubscribed(tag, self._known(subscriber))

    def take_from_stranger(self, tag: bytes) -> None:
        """An UNSUBSCRIBE has arrived from somebody who never subscribed."""
        if self._open:
            self.handler.unsubscribed(tag, None)

    def _known(self, subscriber: _Subscriber) -> _SubscriberConnection | None:
        """A subscriber's connection, where the network tells of connections."""
        if not self._network.tells_of_loss:
            return None
        return _SubscriberConnection(self, subscriber, self._connections[subscriber])

    def is_connected(self, subscriber: _Subscriber, connection: int) -> bool:
        return self._open and self._connections.get(subscriber) == connection

    def disconnected(self, subscriber: _Subscriber) -> None:
        """A subscriber's connection has broken."""
        if self._connections.pop(subscriber, None) is None:
            return
        del self.subscribers[subscriber]
        for tag in self._asked.pop(subscriber):
            if self._open:
                self.handler.unsubscribed(tag, None)

    def close(self) -> None:
        self._network.forget_publisher(self)
        super().close()
        if self._network.loses_at_close():
            self.cut()

    def cut(self) -> None:
        for subscriber in list(self.subscribers):
            subscriber.cut()


class MemoryNetwork:
    """Takes the place of a :class:`~txzmq.ZmqFactory`; channels and servers on it meet in memory.

    Messages arrive only within :meth:`run`, and time passes only within :meth:`advance`. ::

        network = MemoryNetwork()
        server = Server(network, [Greeter()])
        client = GreeterClient(Channel(network, server.listen("inproc://greeter")))
        reply = network.result(client.say_hello(HelloRequest(name="x")))

    It does what ZeroMQ was seen to do: every SUBSCRIBE is passed on, but one UNSUBSCRIBE for all of
    one tag; a broken connection is an UNSUBSCRIBE of each of its tags; messages for a subscription
    that has not arrived are lost. One test of the contract runs over this network and over
    ZeroMQ's.

    :ivar clock: the virtual time.
    :ivar tells_of_loss: whether servers are told of lost connections.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        script: Script | None = None,
        tells_of_loss: bool = True,
    ) -> None:
        """
        :param faults: what happens to messages; None if all arrive at once and in order.
        :param script: what happens to single messages; None for nothing. Then :attr:`Faults.loss`,
            :attr:`Faults.duplication`, :attr:`Faults.delay` and those of subscriptions have no
            effect.
        :param tells_of_loss: False for what inproc does: a client is connected at once to who
            listens, a server is not told that a client has gone, and :meth:`cut` does nothing.
        :raises TypeError: for a value of a wrong type.
        """
        if faults is not None:
            _check.instance("faults", faults, Faults, "a Faults or None")
        if script is not None:
            _check.instance("script", script, Script, "a Script or None")
        _check.boolean("tells_of_loss", tells_of_loss)
        self.clock = Clock()
        self.tells_of_loss = tells_of_loss
        self.guard = Guard()
        self._faults = faults or Faults()
        self.random = random.Random(self._faults.seed)
        self._random = random.Random(self._faults.seed)
        self._listeners: dict[str, _Listener] = {}
        # By address, those that share it with the one above.
        self._sharing: dict[str, list[_Listener]] = {}
        self._publishers: dict[str, _Publisher] = {}
        self._peers = itertools.count(1)
        self._ports = itertools.count(49_152)
        self._script = script

    # -- for tests ---------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, and make all calls that are due meanwhile, in order.

        :raises ValueError: if *seconds* are below 0, or no number.
        """
        _check.number("seconds", seconds)
        self._advance(seconds)

    def _advance(self, seconds: float) -> None:
        end = self.clock.seconds() + seconds
        while True:
            # The items are typed with a zope interface, which hides their methods.
            calls = cast("list[Any]", self.clock.getDelayedCalls())
            due: list[float] = [call.getTime() for call in calls]
            if not due or min(due) > end:
                break
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def run(self) -> None:
        """Make all calls that are due now."""
        self._advance(0)

    def result(self, deferred: Deferred[T]) -> T:
        """Make all calls that are due now, and return the result of *deferred*.

        :raises Exception: the exception that it fails with.
        :raises AssertionError: if it has not fired; time may have to pass first.
        :raises TypeError: if *deferred* is none: a stream, for example, is read.
        """
        _check.instance("deferred", deferred, Deferred, "a Deferred")
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run()
        assert results, "the Deferred has not fired"
        result: T | Failure = results[0]
        if isinstance(result, Failure):
            result.raiseException()
            raise AssertionError("raiseException() raises")
        return result

    def cut(self, address: str) -> None:
        """Break every connection to *address*; clients try to connect again.

        The streams of a server at ``inproc://x`` come from ``inproc://x.streams``.

        :raises TypeError: if *address* is no str.
        """
        _check.text("address", address)
        if not self.tells_of_loss:
            return
        for socket in (self._listeners.get(address), self._publishers.get(address)):
            if socket is not None:
                socket.cut()

    def unsubscribe_as_stranger(self, address: str, tag: bytes) -> None:
        """Have the publisher at *address* get an UNSUBSCRIBE of who never subscribed to *tag*.

        :raises ValueError: if there is no publisher; TypeError for a value of a wrong type.
        """
        _check.text("address", address)
        _check.instance("tag", tag, bytes, "bytes")
        publisher = self._publishers.get(address)
        if publisher is None:
            raise ValueError(f"address={address!r}: no publisher is there")
        self.clock.callLater(0, publisher.take_from_stranger, tag)

    # -- what Network asks for ---------------------------------------------------------------

    def connect(self, address: str, handler: ClientHandler, options: Mapping[str, int]) -> _Client:
        """As :meth:`txzmq.rpc.transport.Network.connect`."""
        client = _Client(self, address, handler)
        client.begin()
        return client

    def listen(self, address: str, handler: ServerHandler, options: Mapping[str, int]) -> _Listener:
        """As :meth:`txzmq.rpc.transport.Network.listen`.

        A wildcard port becomes a number.

        :param options: with ``USE_FD``, it shares the address with who listens there: either may
            get a connection.
        :raises CannotListenError: if the address is in use.
        """
        address = self._place(address)
        before = self._listeners.get(address)
        if before is not None:
            if "USE_FD" not in options:
                raise _in_use(address)
            self._sharing.setdefault(address, []).append(before)
        listener = self._listeners[address] = _Listener(self, address, handler)
        return listener

    def _place(self, address: str) -> str:
        """Where a socket really listens that is to listen at *address*."""
        tcp = split_tcp(address)
        if tcp is None or tcp[1] not in ("*", "0"):
            return address
        host = "0.0.0.0" if tcp[0] == "*" else tcp[0]  # noqa: S104 - in memory
        return f"tcp://{host}:{next(self._ports)}"

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> _Listener:
        """As :meth:`txzmq.rpc.transport.Network.dial_out`; there are no proxies here."""
        raise NotImplementedError("there are no proxies in memory")

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> _Publisher:
        """As :meth:`txzmq.rpc.transport.Network.publish`; a group has one publisher here.

        A wildcard port becomes a number.

        :raises CannotListenError: if the address is in use.
        """
        knows_subscribers = not is_multicast(address)
        address = self._place(announced(address))
        if address in self._publishers:
            raise _in_use(address)
        publisher = self._publishers[address] = _Publisher(
            self, address, handler, knows_subscribers=knows_subscribers
        )
        return publisher

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> _Subscriber:
        """As :meth:`txzmq.rpc.transport.Network.subscribe`."""
        subscriber = _Subscriber(self, announced(address), handler)
        subscriber.begin()
        return subscriber

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As :meth:`txzmq.rpc.transport.Network.when_closed`; this one is never closed."""
        return lambda: None

    # -- for its sockets ---------------------------------------------------------------------

    def publisher(self, address: str) -> _Publisher | None:
        """The publisher at *address*."""
        return self._publishers.get(address)

    def forget_publisher(self, publisher: _Publisher) -> None:
        """Remove a publisher that is closed."""
        if self._publishers.get(publisher.endpoint) is publisher:
            del self._publishers[publisher.endpoint]

    def listener(self, address: str) -> _Listener | None:
        """The server's socket that accepts a connection to *address*; of several, any."""
        listener, others = self._listeners.get(address), self._sharing.get(address)
        if listener is not None and others:
            return self._random.choice([listener, *others])
        return listener

    def forget(self, listener: _Listener) -> None:
        """Remove a server's socket that is closed."""
        address = listener.endpoint
        others = self._sharing.get(address, [])
        if listener in others:
            others.remove(listener)
        elif self._listeners.get(address) is listener:
            del self._listeners[address]
            if others:
                self._listeners[address] = others.pop()
        if not others:
            self._sharing.pop(address, None)

    def new_peer(self) -> bytes:
        """A routing id as libzmq generates them."""
        return b"\0" + next(self._peers).to_bytes(4, "big")

    def is_full(self) -> bool:
        """Whether a sender's queue is full, as the faults have it."""
        return bool(self._faults.blocked) and self._random.random() < self._faults.blocked

    def has_strangers(self) -> bool:
        """Whether a stranger unsubscribes from what was just subscribed to."""
        return bool(self._faults.strangers) and self._random.random() < self._faults.strangers

    def loses_at_close(self) -> bool:
        """Whether clients lose what was sent just before a socket is closed."""
        probability = self._faults.loss_at_close
        return bool(probability) and self._random.random() < probability

    def tell_of_loss(self, server: _Listener, peer: bytes) -> None:
        """Tell a server that a client's connection was lost: now, later, or not at all."""
        faults, chance = self._faults, self._random.random
        unreported = bool(faults.unreported_loss) and chance() < faults.unreported_loss
        if unreported or not self.tells_of_loss:
            server.disconnected(peer, tell=False)
        elif faults.late_loss:
            self.clock.callLater(
                faults.late_loss * chance(), partial(server.disconnected, peer, tell=True)
            )
        else:
            server.disconnected(peer, tell=True)

    def carry(self, arrive: Callable[[], None], kind: MessageKind, parts: Sequence[bytes]) -> None:
        """Call *arrive* later for a message: once, twice or never, as the faults have it."""
        if self._script is not None:
            self._carry_by_script(self._script.arrivals(kind, parts), arrive)
            return
        faults, chance = self._faults, self._random.random
        if faults.loss and chance() < faults.loss:
            return
        copies = 2 if faults.duplication and chance() < faults.duplication else 1
        for _ in range(copies):
            self.clock.callLater(faults.delay * chance() if faults.delay else 0, arrive)

    def carry_subscription(self, arrive: Callable[[], None], kind: MessageKind, tag: bytes) -> None:
        """As :meth:`carry`, for a SUBSCRIBE or UNSUBSCRIBE."""
        if self._script is not None:
            self._carry_by_script(self._script.arrivals(kind, (tag,)), arrive)
            return
        faults, chance = self._faults, self._random.random
        if faults.subscription_loss and chance() < faults.subscription_loss:
            return
        doubled = faults.subscription_duplication
        for _ in range(2 if doubled and chance() < doubled else 1):
            delay = faults.subscription_delay
            self.clock.callLater(delay * chance() if delay else 0, arrive)

    def _carry_by_script(self, arrivals: Sequence[float], arrive: Callable[[], None]) -> None:
        for seconds in arrivals:
            self.clock.callLater(seconds, arrive)
