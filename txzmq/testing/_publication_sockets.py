"""The sockets of streams in a network in memory: XPUB and SUB."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from txzmq.rpc._core.transport import PublisherHandler, SubscriberHandler
from txzmq.testing._faults import MessageKind
from txzmq.testing._socket import RETRY, Medium, MemorySocket

__all__ = ["MemoryPublisher", "MemorySubscriber", "PublicationMedium"]

#: Virtual seconds from a SUBSCRIBE to a stranger's UNSUBSCRIBE of the same tag.
_STRANGER: Final = 0.05

# Looked up once: reading a member of an enumeration is slow in Python 3.11.
_PUBLICATION: Final = MessageKind.PUBLICATION
_SUBSCRIPTION: Final = MessageKind.SUBSCRIPTION
_UNSUBSCRIPTION: Final = MessageKind.UNSUBSCRIPTION


class PublicationMedium(Medium, Protocol):
    """What knows who publishes where."""

    def publisher(self, address: str) -> MemoryPublisher | None:
        """The publisher at *address*."""
        ...

    def forget_publisher(self, publisher: MemoryPublisher) -> None:
        """Remove a publisher that is closed."""
        ...

    def has_strangers(self) -> bool:
        """Whether a stranger unsubscribes from what was just subscribed to."""
        ...

    def carry_subscription(self, arrive: Callable[[], None], kind: MessageKind, tag: bytes) -> None:
        """Call *arrive* later for a SUBSCRIBE or UNSUBSCRIBE: once, twice or never."""
        ...


class MemorySubscriber(MemorySocket[SubscriberHandler]):
    """A client's socket for one publisher."""

    def __init__(
        self, network: PublicationMedium, address: str, handler: SubscriberHandler
    ) -> None:
        super().__init__(network.clock, handler)
        self._network = network
        #: The tags that it has subscribed to, and how often.
        self.tags: dict[bytes, int] = {}
        self._address = address
        self._publisher: MemoryPublisher | None = None
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

    def _send_subscription(self, publisher: MemoryPublisher, tag: bytes) -> None:
        arrive = partial(publisher.take_subscription, self, self._connections, tag)
        self._network.carry_subscription(arrive, _SUBSCRIPTION, tag)
        if self._network.has_strangers():
            self.clock.callLater(_STRANGER, publisher.take_from_stranger, tag)

    def _send_unsubscription(self, tag: bytes) -> None:
        if self._publisher is not None:
            arrive = partial(self._publisher.take_unsubscription, self, self._connections, tag)
            self._network.carry_subscription(arrive, _UNSUBSCRIPTION, tag)

    def begin(self) -> None:
        """As :meth:`MemoryClient.begin`."""
        clock, publisher = self.clock, self._network.publisher(self._address)
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
            self.clock.callLater(RETRY, self.try_to_connect)
        else:
            self._connect(publisher)
            self._tell_of_connection()

    def _tell_of_connection(self) -> None:
        if self._open:
            self.handler.connected()

    def _connect(self, publisher: MemoryPublisher) -> None:
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
            self.clock.callLater(RETRY, self.try_to_connect)

    def close(self) -> None:
        self.tags.clear()
        super().close()


class _SubscriberConnection(NamedTuple):
    """One of a subscriber's connections to a publisher (a :class:`SubscriberConnection`)."""

    publisher: MemoryPublisher
    subscriber: MemorySubscriber
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


class MemoryPublisher(MemorySocket[PublisherHandler]):
    """The socket of a server's publisher."""

    def __init__(
        self,
        network: PublicationMedium,
        address: str,
        handler: PublisherHandler,
        *,
        knows_subscribers: bool,
    ) -> None:
        """:param knows_subscribers: whether the handler is told of them; False for a group."""
        super().__init__(network.clock, handler)
        self._network = network
        self.endpoint = address
        self.high_water_mark = 10_000
        self.knows_subscribers = knows_subscribers
        #: The subscribers that are connected, and the tags that each receives.
        self.subscribers: dict[MemorySubscriber, set[bytes]] = {}
        # The number of each one's connection.
        self._connections: dict[MemorySubscriber, int] = {}
        # What each has asked for, and has not unsubscribed from: allowed or not.
        self._asked: dict[MemorySubscriber, dict[bytes, None]] = {}

    def publish(self, frame: bytes) -> None:
        for subscriber, tags in list(self.subscribers.items()):
            if frame.startswith(tuple(tags if self.knows_subscribers else subscriber.tags)):
                arrive = partial(subscriber.deliver, self._connections[subscriber], frame)
                self._network.carry(arrive, _PUBLICATION, (frame,))

    def connected(self, subscriber: MemorySubscriber, connection: int) -> None:
        """A subscriber has connected; it has no tags yet."""
        self.subscribers[subscriber] = set()
        self._asked[subscriber] = {}
        self._connections[subscriber] = connection

    def take_subscription(self, subscriber: MemorySubscriber, connection: int, tag: bytes) -> None:
        """A SUBSCRIBE has arrived; it may be one of many for the same tag."""
        if self.is_connected(subscriber, connection):
            self._asked[subscriber][tag] = None
            if self.handler.allows(tag, self._known(subscriber), None):
                self.subscribers[subscriber].add(tag)
                self.handler.subscribed(tag)

    def take_unsubscription(
        self, subscriber: MemorySubscriber, connection: int, tag: bytes
    ) -> None:
        """An UNSUBSCRIBE has arrived, of a tag that was allowed or not."""
        if self.is_connected(subscriber, connection):
            self._asked[subscriber].pop(tag, None)
            self.subscribers[subscriber].discard(tag)
            self.handler.unsubscribed(tag, self._known(subscriber))

    def take_from_stranger(self, tag: bytes) -> None:
        """An UNSUBSCRIBE has arrived from somebody who never subscribed."""
        if self._open:
            self.handler.unsubscribed(tag, None)

    def _known(self, subscriber: MemorySubscriber) -> _SubscriberConnection | None:
        """A subscriber's connection, where the network tells of connections."""
        if not self._network.tells_of_loss:
            return None
        return _SubscriberConnection(self, subscriber, self._connections[subscriber])

    def is_connected(self, subscriber: MemorySubscriber, connection: int) -> bool:
        return self._open and self._connections.get(subscriber) == connection

    def disconnected(self, subscriber: MemorySubscriber) -> None:
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
