"""The publisher beside a listener: where the items of streams go out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from txzmq.rpc._listener import Listener
from txzmq.rpc._served_stream import ServedStream, SharedKey
from txzmq.rpc._wire.streams import encode
from txzmq.rpc.transport import PublisherTransport

if TYPE_CHECKING:
    from txzmq.rpc._served_streams import ServedStreams

__all__ = ["Publisher"]


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
        #: Shared streams that have not ended.
        self.runs: dict[SharedKey, ServedStream] = {}

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return self._endpoint or (self.transport.endpoint if self.transport is not None else "")

    def allows(self, tag: bytes) -> bool:
        """Whether there is a stream with this topic."""
        return self._streams.find(tag) is not None

    def subscribed(self, tag: bytes) -> None:
        """A client is ready for a stream."""
        stream = self._streams.find(tag)
        if stream is not None:
            self._streams.subscribed(stream)

    def unsubscribed(self, tag: bytes) -> None:
        """A client is gone, or does not want a stream any more."""
        stream = self._streams.find(tag)
        if stream is not None:
            self._streams.unsubscribed(stream)

    def publish_soon(self, stream: ServedStream) -> None:
        """Publish what a stream has when the turn ends."""
        if not self._fresh:
            # With the replies: what a client has just sent may be what was waited for.
            self._listener.flush_soon()
        self._fresh[stream] = None

    def flush(self) -> None:
        """The turn ends."""
        while self._fresh:
            stream = next(iter(self._fresh))
            self.publish(stream)

    def publish(self, stream: ServedStream) -> None:
        """Publish what a stream has now."""
        self._fresh.pop(stream, None)
        if stream.gone and not stream.sender.ended:
            return
        self._streams.publishing(stream)
        sender = stream.sender
        size = sender.size
        publication = sender.take()
        if sender.size != size:
            self._streams.released(size - sender.size)  # what a shared stream keeps no longer
        if publication is not None and self.transport is not None:
            self.transport.publish(encode(stream.topic, publication))

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
