"""The publisher beside a listener: where the items of streams go out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from txzmq.rpc._core.transport import PublisherTransport
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.rpc._server.shared import SharedKey
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import SEPARATOR, encode, encode_bundle, new_topic

if TYPE_CHECKING:
    from txzmq.rpc._server.streams import ServedStreams

__all__ = ["Bundle", "Publisher"]


class Bundle:
    """Private streams of one client, which may be published together."""

    __slots__ = ("client", "frames", "size", "streams", "subscribers", "topic")

    def __init__(self, client: CallKey) -> None:
        #: The way to it: others may come by the same proxy, and are not to read this.
        self.client = client
        self.topic = new_topic()
        #: How many streams are in it.
        self.streams = 0
        #: Not 0 once the client has shown that it understands bundles.
        self.subscribers = 0
        #: What is to be published, and how many bytes that is.
        self.frames: list[bytes] = []
        self.size = 0


class Publisher:
    """The publisher beside a listener (a :class:`PublisherHandler`)."""

    def __init__(
        self,
        streams: ServedStreams,
        listener: Listener,
        endpoint: str = "",
        *,
        multicast: bool = False,
    ) -> None:
        """
        :param endpoint: what clients are told to connect to; empty for where it listens.
        :param multicast: whether it reaches all at once, and is not told of subscriptions.
        """
        self.multicast = multicast
        self._listener = listener
        self._streams = streams
        self._endpoint = endpoint
        self.transport: PublisherTransport | None = None
        # Streams that have something to publish. An ordered set; not a dict, which takes ever
        # longer to find its first item when that is always the one to go.
        self._fresh: OrderedDict[ServedStream, None] = OrderedDict()
        # By the client, and by their topics.
        self._bundles: dict[CallKey, Bundle] = {}
        self._bundle_of: dict[bytes, Bundle] = {}
        # Those that have something to publish; likewise.
        self._filled: OrderedDict[Bundle, None] = OrderedDict()
        #: Shared streams that have not ended.
        self.runs: dict[SharedKey, ServedStream] = {}

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return self._endpoint or (self.transport.endpoint if self.transport is not None else "")

    def allows(self, tag: bytes) -> bool:
        """Whether there is a stream with this topic, or a bundle."""
        return self._streams.find(tag) is not None or self._find_bundle(tag) is not None

    def subscribed(self, tag: bytes) -> None:
        """A client is ready for a stream."""
        stream, bundle = self._streams.find(tag), self._find_bundle(tag)
        if stream is not None:
            self._streams.subscribed(stream)
        elif bundle is not None:
            bundle.subscribers += 1

    def unsubscribed(self, tag: bytes) -> None:
        """A client is gone, or does not want a stream any more."""
        stream, bundle = self._streams.find(tag), self._find_bundle(tag)
        if stream is not None:
            self._streams.unsubscribed(stream)
        elif bundle is not None:
            bundle.subscribers -= 1

    def _find_bundle(self, tag: bytes) -> Bundle | None:
        return self._bundle_of.get(tag[:-1]) if tag[-1:] == SEPARATOR else None

    def bundle(self, stream: ServedStream) -> None:
        """Publish a stream together with others of its client from now on."""
        client = stream.key[:-1]
        bundle = self._bundles.get(client)
        if bundle is None:
            bundle = self._bundles[client] = Bundle(client)
            self._bundle_of[bundle.topic] = bundle
        bundle.streams += 1
        stream.bundle = bundle

    def unbundle(self, stream: ServedStream) -> None:
        """A stream has ended."""
        bundle, stream.bundle = stream.bundle, None
        if bundle is not None:
            bundle.streams -= 1
            if not bundle.streams:
                del self._bundles[bundle.client], self._bundle_of[bundle.topic]

    def publish_soon(self, stream: ServedStream) -> None:
        """Publish what a stream has when the turn ends, or many streams have something."""
        if not self._fresh:
            # With the replies: what a client has just sent may be what was waited for.
            self._listener.flush_soon()
        self._fresh[stream] = None
        if len(self._fresh) >= EARLY_BATCH:
            self.flush()

    def flush(self) -> None:
        """The turn ends."""
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
        """Publish what a stream has, or put it into its bundle, for now."""
        if stream.gone:
            return  # it has ended meanwhile
        self._streams.publishing(stream)
        sender = stream.sender
        size = sender.size
        publication = sender.take()
        if publication is not None and self.transport is not None:
            self._send(stream, encode(stream.topic, publication), self.transport)
        if sender.size != size:
            # What a shared stream keeps no longer. Only now: it may let its handler go on, which
            # may publish more of it.
            self._streams.released(size - sender.size)

    def _send(self, stream: ServedStream, frame: bytes, transport: PublisherTransport) -> None:
        bundle = stream.bundle
        if bundle is None or not bundle.subscribers:
            transport.publish(frame)
            return
        if len(frame) > MAX_BATCHED_SIZE:
            self._publish_bundle(bundle)  # or it would be overtaken
            transport.publish(frame)
            return
        self._filled[bundle] = None
        bundle.frames.append(frame)
        bundle.size += len(frame)
        if bundle.size > MAX_BATCH_SIZE:
            self._publish_bundle(bundle)

    def _publish_bundle(self, bundle: Bundle) -> None:
        frames, bundle.frames = bundle.frames, []
        bundle.size = 0
        self._filled.pop(bundle, None)
        if self.transport is None or not frames:
            return
        self.transport.publish(
            frames[0] if len(frames) == 1 else encode_bundle(bundle.topic, frames)
        )

    def heartbeat(self, stream: ServedStream) -> None:
        """Tell what has been published."""
        if self.transport is not None:
            self.transport.publish(encode(stream.topic, stream.sender.heartbeat))

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self.transport = None

    def close(self) -> None:
        """Publish what is left, and stop."""
        self.flush()
        if self.transport is not None:
            self.transport.close()
            self.transport = None
