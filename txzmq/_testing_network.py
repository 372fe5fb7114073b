"""Connections in memory, in virtual time, with faults by seed; public through txzmq.testing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._reactor import Timer
from txzmq.rpc._core.transport import (
    ClientHandler,
    PublisherHandler,
    SendResult,
    ServerHandler,
    SubscriberHandler,
    WorkerHandler,
)
from txzmq.rpc._net.addresses import announced, is_multicast

__all__ = ["Faults", "MemoryNetwork"]

T = TypeVar("T")

#: Virtual seconds between attempts to connect.
_RETRY = 0.1
#: Virtual seconds until a full queue has room.
_UNBLOCK = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What a :class:`MemoryNetwork` does to messages; the same seed does the same.

    Probabilities from 0 to 1, and seconds.
    """

    seed: int = 0
    #: The message never arrives.
    loss: float = 0.0
    #: It arrives twice.
    duplication: float = 0.0
    #: It takes between zero and so many seconds, so that later ones overtake it.
    delay: float = 0.0
    #: The sender's queue is full: the message is refused for now, and tried again.
    blocked: float = 0.0


class _Line:
    """One client's connection."""

    def __init__(self, network: MemoryNetwork, address: str, handler: ClientHandler) -> None:
        self.address = address
        self.handler = handler
        self.network = network
        #: The routing id under which the server knows it; new for each connection.
        self.peer = b""
        self.server: _Listener | None = None
        self.open = True
        self._flush: Timer | None = None
        self._unblock: Timer | None = None

    def send_message(self, message: list[bytes]) -> SendResult:
        if self.server is None:
            return SendResult.BLOCKED
        if self.network.is_full():
            if self._unblock is None:
                self._unblock = self.network.clock.callLater(_UNBLOCK, self._has_room)
            return SendResult.BLOCKED
        server, peer = self.server, self.peer
        self.network.carry(lambda: server.deliver(peer, message))
        return SendResult.SENT

    def flush_soon(self) -> None:
        if self._flush is None and self.open:
            self._flush = self.network.clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        if self.open:
            self.handler.flush()

    def _has_room(self) -> None:
        self._unblock = None
        if self.server is not None and self.open:
            self.handler.flush()

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        if self.open and peer == self.peer:
            self.handler.received(list(message))

    def try_to_connect(self) -> None:
        if not self.open:
            return
        server = self.network.listener(self.address)
        if server is None:
            self.handler.unreachable("nobody listens")
            self.network.clock.callLater(_RETRY, self.try_to_connect)
            return
        self.server = server
        self.peer = self.network.new_peer()
        server.lines[self.peer] = self
        self.handler.connected()

    def lose(self) -> None:
        """The connection breaks."""
        server, self.server = self.server, None
        if server is None:
            return
        server.lines.pop(self.peer, None)
        server.handler.peer_lost(self.peer)
        if self.open:
            self.handler.disconnected()

    def close(self) -> None:
        self.open = False
        if self._unblock is not None:
            self._unblock.cancel()
        self.network.clock.callLater(0, self.lose)


class _Listener:
    """A server's socket."""

    def __init__(self, network: MemoryNetwork, address: str, handler: ServerHandler) -> None:
        self.endpoint = address
        self.tells_of_loss = True
        self.handler = handler
        self.lines: dict[bytes, _Line] = {}
        self._network = network
        self._open = True
        self._flush: Timer | None = None

    def send_message(self, message: list[bytes]) -> SendResult:
        peer, *rest = message
        line = self.lines.get(peer)
        if line is None:
            return SendResult.UNREACHABLE
        if self._network.is_full():
            return SendResult.BLOCKED
        self._network.carry(lambda: line.deliver(peer, rest))
        return SendResult.SENT

    def flush_soon(self) -> None:
        if self._flush is None and self._open:
            self._flush = self._network.clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        if self._open:
            self.handler.flush()

    def deliver(self, peer: bytes, message: list[bytes]) -> None:
        if self._open and peer in self.lines:
            self.handler.received([peer, *message])

    def peer_address(self, peer: bytes) -> str:
        return "memory"

    def close(self) -> None:
        self._open = False
        self._network.forget(self)
        # What was sent before still arrives.
        self._network.clock.callLater(0, self.cut)

    def cut(self) -> None:
        """Every connection breaks."""
        for line in list(self.lines.values()):
            line.lose()


class _Subscriber:
    """A client's connection to a publisher."""

    def __init__(self, network: MemoryNetwork, address: str, handler: SubscriberHandler) -> None:
        self.handler = handler
        self.open = True
        #: What it subscribed to, and how often.
        self.tags: dict[bytes, int] = {}
        self._network = network
        self._address = address
        self._publisher: _Publisher | None = None
        self._connections = 0
        self._flush: Timer | None = None

    def flush_soon(self) -> None:
        if self._flush is None and self.open:
            self._flush = self._network.clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        if self.open:
            self.handler.flush()

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
        if not self.open:
            return
        publisher = self._network.publisher(self._address)
        if publisher is None:
            self._network.clock.callLater(_RETRY, self.try_to_connect)
            return
        self._publisher = publisher
        self._connections += 1
        publisher.subscribers[self] = set()
        self.handler.connected()
        for tag in list(self.tags):
            self._tell(tag)

    def deliver(self, connection: int, frame: bytes) -> None:
        if self.open and connection == self._connections and self._publisher is not None:
            self.handler.published(frame)

    @property
    def connection(self) -> int:
        """Which of its connections it has."""
        return self._connections

    def lose(self) -> None:
        """The connection breaks."""
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        publisher.lost(self)
        if self.open:
            self.handler.disconnected()
            self._network.clock.callLater(_RETRY, self.try_to_connect)

    def close(self) -> None:
        self.open = False
        self.tags.clear()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._network.clock.callLater(0, self.lose)


class _Publisher:
    """A server's publisher."""

    def __init__(
        self, network: MemoryNetwork, address: str, handler: PublisherHandler, *, told: bool
    ) -> None:
        """:param told: whether the handler is told of subscribers; not that of a group."""
        self.endpoint = address
        self._told = told
        #: Who is connected, and what each of them gets.
        self.subscribers: dict[_Subscriber, set[bytes]] = {}
        self._handler = handler
        self._network = network
        self._open = True
        self._flush: Timer | None = None

    def publish(self, frame: bytes) -> None:
        for subscriber, tags in list(self.subscribers.items()):
            if any(frame.startswith(tag) for tag in tags):
                connection = subscriber.connection
                self._network.carry(partial(subscriber.deliver, connection, frame))

    def changed(self, subscriber: _Subscriber, tag: bytes) -> None:
        """A subscriber wants a tag, or does not any more."""
        tags = self.subscribers.get(subscriber)
        if tags is None or not self._open:
            return
        if not self._told:
            tags.intersection_update(subscriber.tags)
            tags.update(subscriber.tags)
        elif tag not in subscriber.tags:
            tags.discard(tag)
            self._handler.unsubscribed(tag)
        elif tag not in tags and self._handler.allows(tag):
            tags.add(tag)
            self._handler.subscribed(tag)

    def lost(self, subscriber: _Subscriber) -> None:
        """A subscriber is gone."""
        tags = self.subscribers.pop(subscriber, set())
        if self._open and self._told:
            for tag in tags:
                self._handler.unsubscribed(tag)

    def flush_soon(self) -> None:
        if self._flush is None and self._open:
            self._flush = self._network.clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        if self._open:
            self._handler.flush()

    def cut(self) -> None:
        """Every connection breaks."""
        for subscriber in list(self.subscribers):
            subscriber.lose()

    def close(self) -> None:
        self._open = False
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._network.forget_publisher(self)
        # What was sent before still arrives.
        self._network.clock.callLater(0, self.cut)


class MemoryNetwork:
    """Stands for a :class:`~txzmq.ZmqFactory`: channels and servers on it meet in memory.

    Nothing happens by itself: :meth:`run` lets it, and time passes only by :meth:`advance`. ::

        network = MemoryNetwork()
        server = Server(network, [Greeter()])
        client = GreeterClient(Channel(network, server.listen("inproc://greeter")))
        reply = network.result(client.say_hello(HelloRequest(name="x")))

    :ivar clock: the virtual time.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        """Make a network of its own; *faults* says what happens to messages, None for nothing."""
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
        """Let time pass, and all happen that is due in it, in order."""
        end = self.clock.seconds() + seconds
        while True:
            # Typed with a zope interface, which hides the methods.
            calls = cast("list[Any]", self.clock.getDelayedCalls())
            due: list[float] = [call.getTime() for call in calls]
            if not due or min(due) > end:
                break
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def run(self) -> None:
        """Let all happen that is due now."""
        self.advance(0)

    def result(self, deferred: Deferred[T]) -> T:
        """What *deferred* gives, once all has happened that is due now.

        :raises Exception: what it fails with.
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
        for end in (self._listeners.get(address), self._publishers.get(address)):
            if end is not None:
                end.cut()

    # -- what Network asks for ---------------------------------------------------------------

    def connect(self, address: str, handler: ClientHandler, options: Mapping[str, int]) -> _Line:
        """As :meth:`txzmq.rpc.transport.Network.connect`."""
        line = _Line(self, address, handler)
        self.clock.callLater(0, line.try_to_connect)
        return line

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
        told = not is_multicast(address)
        address = announced(address)
        if address in self._publishers:
            raise OSError(f"{address} is in use")
        publisher = self._publishers[address] = _Publisher(self, address, handler, told=told)
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

    # -- for its connections -----------------------------------------------------------------

    def publisher(self, address: str) -> _Publisher | None:
        """Who publishes at *address*."""
        return self._publishers.get(address)

    def forget_publisher(self, publisher: _Publisher) -> None:
        """Nobody publishes there any more."""
        if self._publishers.get(publisher.endpoint) is publisher:
            del self._publishers[publisher.endpoint]

    def listener(self, address: str) -> _Listener | None:
        """Who listens at *address*."""
        return self._listeners.get(address)

    def forget(self, listener: _Listener) -> None:
        """Nobody listens there any more."""
        self._listeners.pop(listener.endpoint, None)

    def new_peer(self) -> bytes:
        """A routing id as libzmq makes them up."""
        return b"\0" + next(self._peers).to_bytes(4, "big")

    def is_full(self) -> bool:
        """Whether a sender's queue has no room."""
        return bool(self._faults.blocked) and self._random.random() < self._faults.blocked

    def carry(self, arrive: Callable[[], None]) -> None:
        """Have a message arrive, or not, or twice."""
        faults, chance = self._faults, self._random.random
        if faults.loss and chance() < faults.loss:
            return
        copies = 2 if faults.duplication and chance() < faults.duplication else 1
        for _ in range(copies):
            self.clock.callLater(faults.delay * chance() if faults.delay else 0, arrive)
