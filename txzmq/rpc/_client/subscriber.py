"""Where the items of a connection's streams come from: its SUB sockets and their topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from twisted.logger import Logger

from txzmq._escape import escaped
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import Network, SubscriberHandler, SubscriberTransport
from txzmq.rpc._net.addresses import is_multicast
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.limits import MESSAGE_SIZE

__all__ = ["GroupError", "Subscriber", "SubscriberOwner"]

_log = Logger()
#: Seconds until the next attempt to connect to what turned out to be no publisher.
_RETRY: Final = 1.0


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


class Subscriber:
    """The SUB socket for a server's publisher, and those for multicast groups.

    It is a SubscriberHandler for the former.
    """

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
        self._transport: SubscriberTransport | None = None
        #: Where the server's publisher listens; empty before a stream has said so.
        self.endpoint = ""
        #: Whether the publisher is connected.
        self.is_connected = False
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
        elif self._transport is None or endpoint != self.endpoint:
            self.endpoint = endpoint
            self.reason = ""
            self._connect()
        else:
            self._transport.subscribe(topic + SEPARATOR)
            if self._bundles[bundle] == 1:
                self._transport.subscribe(bundle + SEPARATOR)

    def subscribe_again(self, topic: bytes) -> None:
        """Ask the publisher for a topic once more: the first SUBSCRIBE may be lost."""
        if self._transport is not None and self.is_connected and topic not in self._group_of:
            self._transport.unsubscribe(topic + SEPARATOR)
            self._transport.subscribe(topic + SEPARATOR)

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
        elif self._transport is not None:
            self._transport.unsubscribe(topic + SEPARATOR)
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
            if self._transport is not None:
                self._transport.unsubscribe(bundle + SEPARATOR)

    # -- the publisher's connection ----------------------------------------------------------

    def _connect(self) -> None:
        """Connect to the publisher, in place of another connection if there is one."""
        self._disconnect()
        try:
            self._transport = self._open_socket(self.endpoint, self)
        except Exception as error:  # noqa: BLE001 - the server may have told what is no address
            self._owner.cannot_subscribe(f"cannot subscribe at {self.endpoint}: {error}")
            return
        topics = [topic for topic in self._owner.topics() if topic not in self._group_of]
        for topic in (*topics, *self._bundles):
            self._transport.subscribe(topic + SEPARATOR)

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        self.is_connected = False
        if transport is not None:
            if self._reading is transport:
                self._reading = None  # it would not flush any more
            transport.close()

    def published(self, frame: bytes) -> None:
        """The publisher has sent something."""
        self.read(frame, self._transport)

    def read(self, frame: bytes, transport: SubscriberTransport | None) -> None:
        """Dispatch a message that a socket has received."""
        self._reading = transport
        try:
            self._owner.published(frame)
        finally:
            self._reading = None

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

    def connected(self) -> None:
        """The publisher is connected, again perhaps."""
        self.is_connected = True
        self.reason = ""

    def disconnected(self) -> None:
        """The connection was lost; libzmq makes it anew."""
        self.is_connected = False
        self._owner.publisher_lost()

    def failed(self, reason: str) -> None:
        """Something answers there that is no publisher: libzmq would not try again."""
        endpoint = escaped(self.endpoint)  # the server has told it
        _log.warn("{endpoint}: {reason}", endpoint=endpoint, reason=escaped(reason))
        self._disconnect()
        self.reason = reason
        if not self._closed and not self._reconnect.is_running:
            self._reconnect.start(_RETRY)

    def _connect_again(self) -> None:
        if self._transport is None and self._owner.topics():
            self._connect()

    def closed(self) -> None:
        """The socket was closed with its factory."""
        self._transport = None

    # -- the end -----------------------------------------------------------------------------

    def stop_timers(self) -> None:
        """No stream is left: leave nothing in the reactor."""
        self._reconnect.stop()

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
