"""Private streams of one client that are published together."""

from __future__ import annotations

from txzmq.rpc._wire.batches import MAX_BATCH_SIZE
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import encode_bundle, new_topic

__all__ = ["Bundle"]


class Bundle:
    """What is to be published of several streams of one client, as one message."""

    __slots__ = ("_frames", "_size", "client", "streams", "subscribers", "topic", "user")

    def __init__(self, client: CallKey, user: str = "") -> None:
        #: Who may subscribe to it.
        self.user = user
        #: The route to the client. Clients behind one proxy have bundles of their own, for each
        #: would read what is published for the others.
        self.client = client
        self.topic = new_topic()
        #: How many streams are in it.
        self.streams = 0
        #: How many subscriptions it has. A client subscribes to it if it understands bundles.
        self.subscribers = 0
        self._frames: list[bytes] = []
        self._size = 0

    def stream_added(self) -> None:
        """One more stream is in it."""
        self.streams += 1

    def stream_removed(self) -> None:
        """A stream has ended."""
        self.streams -= 1

    def subscribed(self) -> None:
        """The client has subscribed to it."""
        self.subscribers += 1

    def unsubscribed(self) -> None:
        """The client has given up a subscription, or has gone."""
        self.subscribers = max(0, self.subscribers - 1)  # a stranger may send one too many

    def add(self, frame: bytes) -> bool:
        """Take what a stream publishes; whether it is time to publish the bundle."""
        self._frames.append(frame)
        self._size += len(frame)
        return self._size > MAX_BATCH_SIZE

    def take(self) -> bytes:
        """The frame to publish; empty if there is nothing. The bundle is empty afterwards."""
        frames, self._frames = self._frames, []
        self._size = 0
        if len(frames) > 1:
            return encode_bundle(self.topic, frames)
        return frames[0] if frames else b""
