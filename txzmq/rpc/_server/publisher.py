"""The publisher beside a listener: where the items of streams go out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from txzmq._identity import Identity, key_of, user_of
from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Clock
from txzmq.rpc._core.stream_state import ENDED
from txzmq.rpc._core.transport import PublisherTransport, SubscriberConnection
from txzmq.rpc._server.ages import ConnectionAges
from txzmq.rpc._server.bundle import Bundle
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.rpc._server.slow_subscribers import SlowSubscribers
from txzmq.rpc._server.subscriptions import Subscriptions
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCHED_SIZE
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import SEPARATOR, encode
from txzmq.rpc.limits import ServerLimits

__all__ = ["Publisher", "StreamTable"]


class StreamTable(Protocol):
    """Where a publisher finds the stream that a client subscribes to."""

    def find(self, tag: bytes) -> ServedStream | None:
        """The stream with a topic, given with the separator behind it."""
        ...

    def is_for(self, stream: ServedStream, user: str) -> bool:
        """Whether a stream is a user's."""
        ...


class Publisher:
    """The publisher beside a listener (a :class:`PublisherHandler`)."""

    def __init__(
        self,
        clock: Clock,
        streams: StreamTable,
        flush_soon: Callable[[], None],
        limits: ServerLimits,
        count: Callable[[str], None],
        endpoint: str = "",
        *,
        multicast: bool = False,
        ages: ConnectionAges | None = None,
    ) -> None:
        """
        :param clock: tells the time and calls later.
        :param flush_soon: has :meth:`flush` called when the turn ends.
        :param count: counts something that was refused or dropped.
        :param endpoint: what clients are told to connect to; empty for where it listens.
        :param multicast: whether it reaches all at once, and is not told of subscriptions.
        :param ages: counts the time of connections; None where they may last for any time.
        """
        self.multicast = multicast
        self._streams = streams
        self._flush_soon = flush_soon
        self._endpoint = endpoint
        self._transport: PublisherTransport | None = None
        # Streams that have something to publish.
        self._fresh: OrderedSet[ServedStream] = OrderedSet()
        # By client, and by topic.
        self._bundles: dict[CallKey, Bundle] = {}
        self._bundle_of: dict[bytes, Bundle] = {}
        # Bundles that have something to publish.
        self._filled: OrderedSet[Bundle] = OrderedSet()
        self._subscriptions = Subscriptions(self._is_used, limits, count)
        self._slow = SlowSubscribers(clock, limits, count)
        self._ages = ages

    def opened(self, transport: PublisherTransport) -> None:
        """It has a socket."""
        self._transport = transport
        self._slow.keep_for_each(transport.high_water_mark)

    @property
    def is_open(self) -> bool:
        """Whether it has a socket."""
        return self._transport is not None

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return self._endpoint or ("" if self._transport is None else self._transport.endpoint)

    # -- subscriptions -----------------------------------------------------------------------

    def allows(
        self, tag: bytes, connection: SubscriberConnection | None, identity: Identity | None
    ) -> bool:
        """Whether there is a stream with this topic, or a bundle, for this subscriber."""
        user = user_of(identity)
        if connection is not None:
            self._subscriptions.add(connection, tag, key_of(identity))
            if self._ages is not None:
                self._ages.subscribed(connection)
        stream = self._streams.find(tag)
        if stream is None:
            bundle = self._find_bundle(tag)
            return bundle is not None and bundle.user == user
        if not self._streams.is_for(stream, user):
            return False
        if connection is not None and stream.shared is not None:
            self._slow.add(connection, tag)
        return True

    def end_connections(self, keys: Collection[str]) -> None:
        """Who has one of these keys is not to receive anything any more."""
        self._subscriptions.revoke(keys)

    def _is_used(self, tag: bytes) -> bool:
        return self._streams.find(tag) is not None or self._find_bundle(tag) is not None

    def subscribed(self, tag: bytes) -> None:
        """A client is ready for a stream or a bundle."""
        subscribed_to = self._streams.find(tag) or self._find_bundle(tag)
        if subscribed_to is not None:
            subscribed_to.subscribed()

    def unsubscribed(self, tag: bytes, connection: SubscriberConnection | None) -> None:
        """A client has gone, or does not want a stream or a bundle any more."""
        if connection is None:
            self._subscriptions.somebody_has_gone()
            self._slow.somebody_has_gone()
        else:
            self._subscriptions.remove(connection, tag)
            self._slow.remove(connection, tag)
        subscribed_to = self._streams.find(tag) or self._find_bundle(tag)
        if subscribed_to is not None:
            subscribed_to.unsubscribed()

    def _find_bundle(self, tag: bytes) -> Bundle | None:
        return self._bundle_of.get(tag[:-1]) if tag[-1:] == SEPARATOR else None

    def bundle(self, client: CallKey, user: str) -> Bundle:
        """Have one more stream of a client published together with its others.

        :param client: the route to it.
        :param user: whose the streams are.
        """
        bundle = self._bundles.get(client)
        if bundle is None:
            bundle = self._bundles[client] = Bundle(client, user)
            self._bundle_of[bundle.topic] = bundle
        bundle.stream_added()
        return bundle

    def unbundle(self, bundle: Bundle) -> None:
        """A stream of a bundle has ended."""
        bundle.stream_removed()
        if not bundle.streams:
            del self._bundles[bundle.client], self._bundle_of[bundle.topic]

    # -- publishing --------------------------------------------------------------------------

    def publish_soon(self, stream: ServedStream) -> None:
        """Publish what a stream has when the turn ends, or when many streams have something."""
        if not self._fresh:
            # With the replies of the turn, so that a client gets both together.
            self._flush_soon()
        self._fresh[stream] = None
        if len(self._fresh) >= EARLY_BATCH:
            self.flush()

    def flush(self) -> None:
        """The turn ends: publish what streams and bundles have."""
        while self._fresh:
            self._publish(self._fresh.popitem(last=False)[0])
        while self._filled:
            self._publish_bundle(next(iter(self._filled)))

    def publish(self, stream: ServedStream) -> None:
        """Publish what a stream has now."""
        self._fresh.pop(stream, None)
        self._publish(stream)
        bundle = stream.bundle
        if bundle is not None and bundle in self._filled:
            self._publish_bundle(bundle)

    def _publish(self, stream: ServedStream) -> None:
        """Publish what a stream has, or put it into its bundle."""
        if stream.state is ENDED:
            return  # it has ended since publish_soon()
        sender, transport = stream.sender, self._transport
        size = sender.size
        publication = stream.take()
        if publication is not None and transport is not None:
            frame = encode(stream.topic, publication)
            bundle = stream.bundle
            if stream.shared is not None:
                transport.publish(frame)
                self._slow.published(stream.topic + SEPARATOR, len(frame))
            elif bundle is None or not bundle.subscribers:
                transport.publish(frame)
            elif len(frame) > MAX_BATCHED_SIZE:
                self._publish_bundle(bundle)  # or the frame would overtake what is in it
                transport.publish(frame)
            else:
                self._filled[bundle] = None
                if bundle.add(frame):
                    self._publish_bundle(bundle)
        if sender.size != size:
            # What a shared stream keeps no longer. It may let its handler go on, which may publish
            # more: that has to come after the frame.
            stream.released(size - sender.size)

    def _publish_bundle(self, bundle: Bundle) -> None:
        self._filled.pop(bundle, None)
        frame = bundle.take()
        if frame and self._transport is not None:
            self._transport.publish(frame)

    def heartbeat(self, stream: ServedStream) -> None:
        """Tell the client how much of a stream has been published."""
        if self._transport is not None:
            self._transport.publish(encode(stream.topic, stream.sender.heartbeat))

    # -- the end -----------------------------------------------------------------------------

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self._transport = None
        self._subscriptions.clear()
        self._slow.clear()

    def close(self) -> None:
        """Publish what is left, and close the socket."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
            self.closed()
