"""Where the items of a connection's streams come from: its SUB sockets and their topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

from twisted.logger import Logger

from txzmq._escape import escaped
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import Network, SubscriberHandler, SubscriberTransport
from txzmq.rpc._net.addresses import is_multicast
from txzmq.rpc._wire.streams import SEPARATOR, BadPublication, decode, topic_of
from txzmq.rpc.limits import MESSAGE_SIZE

__all__ = ["GroupError", "Subscriber", "SubscriberOwner"]

_log = Logger()
#: Seconds until the next attempt to connect to what turned out to be no publisher.
_RETRY: Final = 1.0
#: Seconds within which a connection that is to take the place of another has to bring all topics.
#: If it is connected by then, what is missing is asked for.
_TAKE_OVER: Final = 5.0
#: Bytes that such a connection may hold before it does.
_MOST_HELD: Final = 16 * 1024 * 1024


class GroupError(Exception):
    """A multicast group cannot be joined, or a publisher is not accepted; the message says why."""


#: Where to subscribe to the publisher that the server has told; ValueError if that is refused.
PublisherFor: TypeAlias = Callable[[str], str]


class SubscriberOwner(Protocol):
    """What a subscriber tells, and whom it asks."""

    def topics(self) -> list[bytes]:
        """The topics of all open streams, each once."""
        ...

    def published(self, frame: bytes) -> None:
        """Something arrived under a topic that was subscribed to."""
        ...

    def flush(self) -> None:
        """What had arrived has been dispatched."""
        ...

    def flush_soon(self) -> None:
        """What had arrived is dispatched, and no socket tells when."""
        ...

    def has_received(self, topic: bytes, sequence: int) -> bool:
        """Whether a stream has all before an item; True where nobody has it any more."""
        ...

    def publisher_lost(self) -> None:
        """The connection to the publisher was lost; libzmq makes it anew."""
        ...

    def cannot_subscribe(self, reason: str) -> None:
        """No socket can be connected to the publisher: its streams cannot go on."""
        ...


class _Group:
    """A multicast group that shared streams come from (a SubscriberHandler).

    Nobody tells whether its publisher is there; the loss of the server is told by its connection.
    """

    def __init__(self, subscriber: Subscriber, endpoint: str) -> None:
        self.endpoint = endpoint
        #: None before the group is joined, and when it is left.
        self.transport: SubscriberTransport | None = None
        #: How many topics come from it.
        self.topics = 0
        self._subscriber = subscriber

    def published(self, frame: bytes) -> None:
        """Something was published to the group."""
        self._subscriber.read(frame, self.transport)

    def flush(self) -> None:
        """What had arrived has been dispatched."""
        self._subscriber.flush()

    def connected(self) -> None:
        """The socket has joined the group; there is no connection."""

    def disconnected(self) -> None:
        """Not called: there is no connection."""

    def failed(self, reason: str) -> None:
        """Not called: there is no connection."""

    def closed(self) -> None:
        """The socket was closed with its factory."""
        self.transport = None

    def close(self) -> None:
        """Leave the group."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()


class _Connection:
    """A SUB socket for the server's publisher (a SubscriberHandler).

    :ivar transport: None before it is open, and once it is closed.
    :ivar is_connected: whether the publisher is connected.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self.transport: SubscriberTransport | None = None
        self.is_connected = False
        self._subscriber = subscriber

    def open(self, transport: SubscriberTransport) -> None:
        """It has a socket, which tells of events later."""
        self.transport = transport

    def published(self, frame: bytes) -> None:
        """The publisher has sent something."""
        self._subscriber.read(frame, self.transport)

    def flush(self) -> None:
        """What had arrived has been dispatched."""
        self._subscriber.flush()

    def connected(self) -> None:
        """The publisher is connected, again perhaps."""
        self.is_connected = True
        self._subscriber.connected(self)

    def disconnected(self) -> None:
        """The connection was lost; libzmq makes it anew."""
        self.is_connected = False
        self._subscriber.disconnected(self)

    def failed(self, reason: str) -> None:
        """Something answers there that is no publisher: libzmq would not try again."""
        self._subscriber.failed(self, reason)

    def closed(self) -> None:
        """The socket was closed with its factory."""
        self.transport = None
        self.is_connected = False

    def close(self) -> None:
        """Drop the connection."""
        transport = self.transport
        self.closed()
        if transport is not None:
            transport.close()


class _Successor(_Connection):
    """One that is to take the place of another, as soon as that would miss nothing.

    What it brings is held until then, and the other one goes on: a heartbeat may come by this one
    while items from before it are still on their way by the other.
    """

    def __init__(self, subscriber: Subscriber, owner: SubscriberOwner, topics: list[bytes]) -> None:
        """:param topics: all that the other one brings."""
        super().__init__(subscriber)
        self._owner = owner
        # Of each topic, the number of the first that this one has brought; None before that. Those
        # up to whose first number the other one has brought all are not among them any more.
        self._firsts: dict[bytes, int | None] = dict.fromkeys(topics)
        self._held: list[bytes] | None = []
        self._size = 0

    def published(self, frame: bytes) -> None:
        """Hold what the publisher sends; it greets each subscription with a heartbeat."""
        if self._held is None:
            super().published(frame)
            return
        self._held.append(frame)
        self._size += len(frame)
        topic = topic_of(frame)
        if topic in self._firsts and self._firsts[topic] is None:
            with suppress(BadPublication):  # it will be told when it is dispatched
                self._firsts[topic] = decode(frame).sequence
        if self._size > _MOST_HELD:
            self._subscriber.take_over()
        else:
            self.caught_up(topic)

    def caught_up(self, topic: bytes) -> None:
        """Look whether the other one has brought what comes before the first of a topic here."""
        first = self._firsts.get(topic)
        if first is not None and self._owner.has_received(topic, first):
            self.ended(topic)

    def ended(self, topic: bytes) -> None:
        """Nothing of a topic is waited for any more."""
        if self._firsts.pop(topic, self) is not self and not self._firsts:
            self._subscriber.take_over()

    def begin(self) -> None:
        """It has taken the other one's place: dispatch what was held."""
        held, self._held = self._held or [], None
        for frame in held:
            if self.transport is not None:  # not closed by what one has led to
                super().published(frame)


class Subscriber:
    """The SUB socket for a server's publisher, and those for multicast groups."""

    def __init__(
        self,
        network: Network,
        owner: SubscriberOwner,
        publisher_for: PublisherFor,
        message_size: int,
    ) -> None:
        """
        :param publisher_for: decides whether and where to connect to a publisher.
        :param message_size: bytes that an item may have.
        """
        self._network = network
        self._owner = owner
        self._publisher_for = publisher_for
        self._message_size = message_size
        # None before there is one, and after a failure; and the one that is to take its place.
        self._connection: _Connection | None = None
        self._successor: _Successor | None = None
        self._take_over = ResettableTimer(network.clock, self._take_over_late)
        #: Where the server's publisher listens; empty before a stream has said so.
        self.endpoint = ""
        #: Why the last attempt to connect to it failed; empty if that is not known.
        self.reason = ""
        self._reconnect = ResettableTimer(network.clock, self._connect_again)
        # How many streams there are of each bundle, by the bundle's topic.
        self._bundles: Counter[bytes] = Counter()
        # By endpoint, and by the topics of the streams that come from them.
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[bytes, _Group] = {}
        # The socket whose message is being dispatched, while one is.
        self._reading: SubscriberTransport | None = None
        self._closed = False

    def _open_socket(self, endpoint: str, handler: SubscriberHandler) -> SubscriberTransport:
        # A publication has 64 KiB and an item at most.
        options = {"MAXMSGSIZE": max(self._message_size, MESSAGE_SIZE) + 2 * 65_536}
        return self._network.subscribe(endpoint, handler, options)

    @property
    def is_connected(self) -> bool:
        """Whether the publisher is connected."""
        return self._connection is not None and self._connection.is_connected

    # -- topics ------------------------------------------------------------------------------

    @property
    def group_topics(self) -> int:
        """How many topics come from multicast groups."""
        return len(self._group_of)

    def is_from_group(self, topic: bytes) -> bool:
        """Whether a stream comes from a multicast group."""
        return topic in self._group_of

    def is_bundle(self, topic: bytes) -> bool:
        """Whether a topic is that of a bundle: its messages carry publications of streams."""
        return topic in self._bundles

    def subscribe(self, topic: bytes, bundle: bytes, publisher: str) -> None:
        """Receive a topic. Not for one that is subscribed to: libzmq would pass that on, too.

        :param bundle: the topic under which it may be published with others; empty for none.
        :param publisher: where the server says that it is published.
        :raises GroupError: if the group cannot be joined, or the publisher is not accepted;
            :meth:`unsubscribe` all the same.
        """
        if bundle:
            self._bundles[bundle] += 1
        try:
            endpoint = self._publisher_for(publisher)
        except ValueError as error:
            raise GroupError(str(error)) from error
        if is_multicast(endpoint):
            self._join(topic, endpoint)
        elif self._connection is None or endpoint != self.endpoint:
            self.endpoint = endpoint
            self.reason = ""
            self._connect()
        else:
            for transport in self._transports():
                transport.subscribe(topic + SEPARATOR)
                if self._bundles[bundle] == 1:
                    transport.subscribe(bundle + SEPARATOR)

    def _transports(self) -> list[SubscriberTransport]:
        """The sockets for the server's publisher: one, but while another takes its place."""
        connections = (self._connection, self._successor)
        return [each.transport for each in connections if each is not None and each.transport]

    def subscribe_again(self, topic: bytes) -> None:
        """Ask the publisher for a topic once more: the first SUBSCRIBE may be lost."""
        if self.is_connected and topic not in self._group_of:
            for transport in self._transports():
                transport.unsubscribe(topic + SEPARATOR)
                transport.subscribe(topic + SEPARATOR)

    def _join(self, topic: bytes, endpoint: str) -> None:
        group = self._groups.get(endpoint) or _Group(self, endpoint)
        group.topics += 1
        self._group_of[topic] = group
        if group.transport is None:
            try:
                group.transport = self._open_socket(endpoint, group)
            except Exception as error:
                raise GroupError(f"cannot join the group {endpoint}: {error}") from error
            self._groups[endpoint] = group
        group.transport.subscribe(topic + SEPARATOR)

    def unsubscribe(self, topic: bytes, bundle: bytes) -> None:
        """Receive a topic no more."""
        group = self._group_of.pop(topic, None)
        if group is not None:
            self._leave(topic, group)
        else:
            for transport in self._transports():
                transport.unsubscribe(topic + SEPARATOR)
            if self._successor is not None:
                self._successor.ended(topic)
        if bundle:
            self._unbundle(bundle)

    def _leave(self, topic: bytes, group: _Group) -> None:
        group.topics -= 1
        if group.topics:
            if group.transport is not None:
                group.transport.unsubscribe(topic + SEPARATOR)
        else:
            self._groups.pop(group.endpoint, None)
            if self._reading is group.transport:
                self._reading = None  # it would not flush any more
            group.close()

    def _unbundle(self, bundle: bytes) -> None:
        self._bundles[bundle] -= 1
        if not self._bundles[bundle]:
            del self._bundles[bundle]
            for transport in self._transports():
                transport.unsubscribe(bundle + SEPARATOR)

    # -- the publisher's connection ----------------------------------------------------------

    def _connect(self) -> None:
        """Connect to the publisher, in place of another connection if there is one."""
        self._disconnect()
        connection = _Connection(self)
        try:
            self._open(connection)
        except Exception as error:  # noqa: BLE001 - the server may have told what is no address
            self._owner.cannot_subscribe(f"cannot subscribe at {self.endpoint}: {error}")
            return
        self._connection = connection

    def _open(self, connection: _Connection) -> None:
        """Connect to the publisher, and subscribe to all that comes from it.

        :raises Exception: if the address is none, or there is no room for a socket.
        """
        transport = self._open_socket(self.endpoint, connection)
        connection.open(transport)
        for topic in (*self._topics(), *self._bundles):
            transport.subscribe(topic + SEPARATOR)

    def _topics(self) -> list[bytes]:
        """Those of the server's publisher."""
        return [topic for topic in self._owner.topics() if topic not in self._group_of]

    def _disconnect(self) -> None:
        self._give_up_successor()
        connection, self._connection = self._connection, None
        self._close(connection)

    def _close(self, connection: _Connection | None) -> None:
        if connection is not None:
            if self._reading is connection.transport:
                self._reading = None  # it would not flush any more
            connection.close()
            self._owner.flush_soon()  # nor what it has brought before

    # -- another connection in its place -----------------------------------------------------

    def renew(self) -> None:
        """Connect anew, and let go of the connection that there is when that brings all topics.

        Nothing is missed: what both bring is taken once.
        """
        topics = self._topics()
        if not topics:
            self._disconnect()  # the next stream connects
            return
        if not self.is_connected or self._successor is not None:
            return
        successor = _Successor(self, self._owner, topics)
        try:
            self._open(successor)
        except Exception as error:  # noqa: BLE001 - whatever a socket lacks now
            endpoint = escaped(self.endpoint)
            _log.warn("cannot connect to {endpoint} anew: {error}", endpoint=endpoint, error=error)
            return
        self._successor = successor
        self._take_over.start(_TAKE_OVER)

    def take_over(self) -> None:
        """The successor takes the place of the connection before it."""
        self._take_over.stop()
        successor = self._successor
        if successor is not None:
            before, self._connection, self._successor = self._connection, successor, None
            self._close(before)
            successor.begin()

    def _take_over_late(self) -> None:
        """What the successor has not brought by now is asked for, if it is connected at all."""
        if self._successor is not None and self._successor.is_connected:
            self.take_over()
            self._owner.publisher_lost()
        else:
            self._give_up_successor()

    def _give_up_successor(self) -> None:
        self._take_over.stop()
        successor, self._successor = self._successor, None
        self._close(successor)

    # -- what the connections tell -----------------------------------------------------------

    def read(self, frame: bytes, transport: SubscriberTransport | None) -> None:
        """Dispatch a message that a socket has received."""
        self._reading = transport
        try:
            self._owner.published(frame)
        finally:
            self._reading = None
        if self._successor is not None:
            self._successor.caught_up(topic_of(frame))

    def flush_soon(self) -> bool:
        """Have the owner's ``flush()`` called when what is being received has been dispatched.

        :return: False where nothing is being received.
        """
        if self._reading is None:
            return False
        self._reading.flush_soon()
        return True

    def flush(self) -> None:
        """What had arrived has been dispatched."""
        self._owner.flush()

    def connected(self, connection: _Connection) -> None:
        """The publisher is connected, again perhaps."""
        if connection is self._connection:
            self.reason = ""

    def disconnected(self, connection: _Connection) -> None:
        """A connection was lost; libzmq makes it anew."""
        if connection is self._connection:
            if self._successor is not None:
                self._take_over_late()
            self._owner.publisher_lost()

    def failed(self, connection: _Connection, reason: str) -> None:
        """Something answers there that is no publisher: libzmq would not try again."""
        endpoint = escaped(self.endpoint)  # the server has told it
        _log.warn("{endpoint}: {reason}", endpoint=endpoint, reason=escaped(reason))
        if connection is self._successor:
            self._give_up_successor()
            return
        self._disconnect()
        self.reason = reason
        if not self._closed and not self._reconnect.is_running:
            self._reconnect.start(_RETRY)

    def _connect_again(self) -> None:
        if self._connection is None and self._owner.topics():
            self._connect()

    # -- the end -----------------------------------------------------------------------------

    def stop_timers(self) -> None:
        """No stream is left: leave nothing in the reactor."""
        self._reconnect.stop()
        if self._successor is not None:
            self._disconnect()

    def close(self) -> None:
        """Close all sockets."""
        self._closed = True
        self.stop_timers()
        self._bundles.clear()
        self._disconnect()
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        self._group_of.clear()
