"""A network in memory, in virtual time, with random faults; public through txzmq.testing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._reactor import Timer
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
from txzmq.rpc._net.addresses import announced, is_multicast

__all__ = ["Faults", "MemoryNetwork"]

T = TypeVar("T")
H = TypeVar("H", bound=Handler)

#: Virtual seconds between attempts to connect.
_RETRY = 0.1
#: Virtual seconds until a full queue has room.
_UNBLOCK = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What a :class:`MemoryNetwork` does to messages: the same for the same seed."""

    #: The seed of the random numbers.
    seed: int = 0
    #: The probability, from 0 to 1, that a message never arrives.
    loss: float = 0.0
    #: The probability, from 0 to 1, that it arrives twice.
    duplication: float = 0.0
    #: It takes between zero and so many seconds, so that later messages overtake it.
    delay: float = 0.0
    #: The probability, from 0 to 1, that the sender's queue is full, so that the message is refused
    #: now, and sent later.
    blocked: float = 0.0


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

    def send_message(self, message: list[bytes]) -> SendResult:
        if self._server is None:
            return SendResult.BLOCKED
        if self._network.is_full():
            if not self._unblock.is_running:
                self._unblock.start(_UNBLOCK)
            return SendResult.BLOCKED
        server, peer = self._server, self._peer
        self._network.carry(lambda: server.deliver(peer, message))
        return SendResult.SENT

    def _has_room(self) -> None:
        if self._server is not None and self._open:
            self.handler.flush()

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        """Take a message for the connection that has the routing id *peer*."""
        if self._open and peer == self._peer:
            self.handler.received(list(message))

    def try_to_connect(self) -> None:
        if not self._open:
            return
        server = self._network.listener(self._address)
        if server is None:
            self.handler.unreachable("nobody listens")
            self._network.clock.callLater(_RETRY, self.try_to_connect)
            return
        self._server = server
        self._peer = self._network.new_peer()
        server.connected(self._peer, self)
        self.handler.connected()

    def cut(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.disconnected(self._peer)
        if self._open:
            self.handler.disconnected()

    def close(self) -> None:
        self._unblock.stop()
        super().close()


class _Listener(_Socket[ServerHandler]):
    """A server's socket."""

    def __init__(self, network: MemoryNetwork, address: str, handler: ServerHandler) -> None:
        super().__init__(network, handler)
        self.endpoint = address
        self.tells_of_loss = True
        # By routing id.
        self._clients: dict[bytes, _Client] = {}

    def send_message(self, message: list[bytes]) -> SendResult:
        peer, *rest = message
        client = self._clients.get(peer)
        if client is None:
            return SendResult.UNREACHABLE
        if self._network.is_full():
            return SendResult.BLOCKED
        self._network.carry(lambda: client.deliver(peer, rest))
        return SendResult.SENT

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        """Take a message from the client with the routing id *peer*."""
        if self._open and peer in self._clients:
            self.handler.received([peer, *message])

    def connected(self, peer: bytes, client: _Client) -> None:
        """A client has connected."""
        self._clients[peer] = client

    def disconnected(self, peer: bytes) -> None:
        """A client's connection has broken."""
        self._clients.pop(peer, None)
        self.handler.peer_lost(peer)

    def peer_address(self, peer: bytes) -> str:
        return "memory"

    def close(self) -> None:
        self._network.forget(self)
        super().close()

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
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if self.tags[tag] == 1:
            self._tell(tag)

    def unsubscribe(self, tag: bytes) -> None:
        self.tags[tag] = self.tags.get(tag, 0) - 1
        if self.tags[tag] <= 0:
            del self.tags[tag]
            self._tell(tag)

    def _tell(self, tag: bytes) -> None:
        if self._publisher is not None:
            self._network.clock.callLater(0, self._publisher.changed, self, tag)

    def try_to_connect(self) -> None:
        if not self._open:
            return
        publisher = self._network.publisher(self._address)
        if publisher is None:
            self._network.clock.callLater(_RETRY, self.try_to_connect)
            return
        self._publisher = publisher
        self._connections += 1
        publisher.connected(self)
        self.handler.connected()
        for tag in list(self.tags):
            self._tell(tag)

    def deliver(self, connection: int, frame: bytes) -> None:
        """Take a frame that was sent to the connection with a number."""
        if self._open and connection == self._connections and self._publisher is not None:
            self.handler.published(frame)

    @property
    def connection(self) -> int:
        """The number of its connection, which grows with each."""
        return self._connections

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
        #: The subscribers that are connected, and the tags that each receives.
        self.subscribers: dict[_Subscriber, set[bytes]] = {}
        self._knows_subscribers = knows_subscribers

    def publish(self, frame: bytes) -> None:
        for subscriber, tags in list(self.subscribers.items()):
            if any(frame.startswith(tag) for tag in tags):
                connection = subscriber.connection
                self._network.carry(partial(subscriber.deliver, connection, frame))

    def connected(self, subscriber: _Subscriber) -> None:
        """A subscriber has connected; it has no tags yet."""
        self.subscribers[subscriber] = set()

    def changed(self, subscriber: _Subscriber, tag: bytes) -> None:
        """A subscriber has subscribed to a tag, or unsubscribed."""
        tags = self.subscribers.get(subscriber)
        if tags is None or not self._open:
            return
        if not self._knows_subscribers:
            tags.intersection_update(subscriber.tags)
            tags.update(subscriber.tags)
        elif tag not in subscriber.tags:
            tags.discard(tag)
            self.handler.unsubscribed(tag)
        elif tag not in tags and self.handler.allows(tag):
            tags.add(tag)
            self.handler.subscribed(tag)

    def disconnected(self, subscriber: _Subscriber) -> None:
        """A subscriber's connection has broken."""
        tags = self.subscribers.pop(subscriber, set())
        if self._open and self._knows_subscribers:
            for tag in tags:
                self.handler.unsubscribed(tag)

    def close(self) -> None:
        self._network.forget_publisher(self)
        super().close()

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

    :ivar clock: the virtual time.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        """:param faults: what happens to messages; None if all arrive at once and in order."""
        self.clock = Clock()
        self.guard = Guard()
        self._faults = faults or Faults()
        self.random = random.Random(self._faults.seed)
        self._random = random.Random(self._faults.seed)
        self._listeners: dict[str, _Listener] = {}
        self._publishers: dict[str, _Publisher] = {}
        self._peers = itertools.count(1)

    # -- for tests ---------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, and make all calls that are due meanwhile, in order."""
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
        self.advance(0)

    def result(self, deferred: Deferred[T]) -> T:
        """Make all calls that are due now, and return the result of *deferred*.

        :raises Exception: the exception that it fails with.
        :raises AssertionError: if it has not fired; time may have to pass first.
        """
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
        """
        for socket in (self._listeners.get(address), self._publishers.get(address)):
            if socket is not None:
                socket.cut()

    # -- what Network asks for ---------------------------------------------------------------

    def connect(self, address: str, handler: ClientHandler, options: Mapping[str, int]) -> _Client:
        """As :meth:`txzmq.rpc.transport.Network.connect`."""
        client = _Client(self, address, handler)
        self.clock.callLater(0, client.try_to_connect)
        return client

    def listen(self, address: str, handler: ServerHandler, options: Mapping[str, int]) -> _Listener:
        """As :meth:`txzmq.rpc.transport.Network.listen`.

        :raises OSError: if the address is in use.
        """
        if address in self._listeners:
            raise OSError(f"{address} is in use")
        listener = self._listeners[address] = _Listener(self, address, handler)
        return listener

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> _Listener:
        """As :meth:`txzmq.rpc.transport.Network.dial_out`; there are no proxies here."""
        raise NotImplementedError("there are no proxies in memory")

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> _Publisher:
        """As :meth:`txzmq.rpc.transport.Network.publish`; a group has one publisher here.

        :raises OSError: if the address is in use.
        """
        knows_subscribers = not is_multicast(address)
        address = announced(address)
        if address in self._publishers:
            raise OSError(f"{address} is in use")
        publisher = self._publishers[address] = _Publisher(
            self, address, handler, knows_subscribers=knows_subscribers
        )
        return publisher

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> _Subscriber:
        """As :meth:`txzmq.rpc.transport.Network.subscribe`."""
        subscriber = _Subscriber(self, announced(address), handler)
        self.clock.callLater(0, subscriber.try_to_connect)
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
        """The server's socket at *address*."""
        return self._listeners.get(address)

    def forget(self, listener: _Listener) -> None:
        """Remove a server's socket that is closed."""
        self._listeners.pop(listener.endpoint, None)

    def new_peer(self) -> bytes:
        """A routing id as libzmq generates them."""
        return b"\0" + next(self._peers).to_bytes(4, "big")

    def is_full(self) -> bool:
        """Whether a sender's queue is full, as the faults have it."""
        return bool(self._faults.blocked) and self._random.random() < self._faults.blocked

    def carry(self, arrive: Callable[[], None]) -> None:
        """Call *arrive* later for a message: once, twice or never, as the faults have it."""
        faults, chance = self._faults, self._random.random
        if faults.loss and chance() < faults.loss:
            return
        copies = 2 if faults.duplication and chance() < faults.duplication else 1
        for _ in range(copies):
            self.clock.callLater(faults.delay * chance() if faults.delay else 0, arrive)
