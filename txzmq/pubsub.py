"""PUB and SUB, XPUB and XSUB.

A published message is one frame: the tag, a zero byte, the message. One frame, because multicast
sends each frame as a datagram of its own, and those of several publishers get mixed.
"""

from __future__ import annotations

import zmq

from txzmq.connection import Part, ZmqConnection, toBytes

__all__ = ["ZmqPubConnection", "ZmqSubConnection", "ZmqXPubConnection", "ZmqXSubConnection"]


class ZmqPubConnection(ZmqConnection):
    """Publishes to whoever subscribed."""

    socketType = zmq.PUB

    def publish(self, message: Part, tag: Part = b"") -> None:
        """Publish *message* under *tag*.

        :param message: the data; str is sent as UTF-8.
        :param tag: what subscribers choose by; it must not contain :attr:`topicSep`.
        :raises ValueError: if it does.
        """
        topic = toBytes(tag)
        if self.topicSep in topic:
            raise ValueError(f"the tag {topic!r} contains the separator {self.topicSep!r}")
        self.send(topic + self.topicSep + toBytes(message))


class ZmqSubConnection(ZmqConnection):
    """Receives what was published under the tags that it subscribed to.

    Override :meth:`gotMessage`, or assign it on the instance.
    """

    socketType = zmq.SUB

    def subscribe(self, tag: Part) -> None:
        """Receive messages whose tag begins with *tag*; may be called for several tags.

        Append :attr:`topicSep` to receive this tag only. Subscriptions are counted: two of one
        tag need two calls of :meth:`unsubscribe`.
        """
        self._openSocket().set(zmq.SUBSCRIBE, toBytes(tag))

    def unsubscribe(self, tag: Part) -> None:
        """Undo one :meth:`subscribe` of *tag*."""
        self._openSocket().set(zmq.UNSUBSCRIBE, toBytes(tag))

    def messageReceived(self, message: list[bytes]) -> None:
        """Take a message apart; one of two parts is taken as tag and message."""
        if len(message) == 2:
            self.gotMessage(message[1], message[0])
            return
        tag, separator, body = message[0].partition(self.topicSep)
        if len(message) > 2 or not separator:
            self.discard("malformed")
            return
        self.gotMessage(body, tag)

    def gotMessage(self, message: bytes, tag: bytes) -> None:
        """Called with each message and the tag under which it was published."""
        raise NotImplementedError(self)


class ZmqXPubConnection(ZmqPubConnection):
    """A publisher that sees subscriptions.

    libzmq tells of the first subscription and the last unsubscription of each tag, unless
    ``XPUB_VERBOSE`` or ``XPUB_VERBOSER`` is set on the socket.
    """

    socketType = zmq.XPUB

    def messageReceived(self, message: list[bytes]) -> None:
        """Tell subscriptions from messages that an XSUB sent upstream."""
        first = message[0]
        if len(message) == 1 and first[:1] == b"\x01":
            self.gotSubscription(first[1:])
        elif len(message) == 1 and first[:1] == b"\x00":
            self.gotUnsubscription(first[1:])
        else:
            self.gotMessage(message)

    def gotSubscription(self, tag: bytes) -> None:
        """Called when somebody subscribes to *tag* (a prefix); does nothing unless overridden."""

    def gotUnsubscription(self, tag: bytes) -> None:
        """Called when nobody subscribes to *tag* any more; does nothing unless overridden."""

    def acceptSubscription(self, tag: bytes) -> None:
        """With ``XPUB_MANUAL``: have the subscription take effect that was just told.

        For within :meth:`gotSubscription`; *tag* may be another than the subscriber asked for.
        """
        self._openSocket().set(zmq.SUBSCRIBE, tag)

    def acceptUnsubscription(self, tag: bytes) -> None:
        """With ``XPUB_MANUAL``: have the unsubscription take effect that was just told.

        For within :meth:`gotUnsubscription`.
        """
        self._openSocket().set(zmq.UNSUBSCRIBE, tag)

    def gotMessage(self, message: list[bytes]) -> None:
        """Called with the parts of a message that a subscriber sent upstream; dropped here."""
        self.discard("upstream message")


class ZmqXSubConnection(ZmqSubConnection):
    """A subscriber that may also send upstream, by :meth:`send`."""

    socketType = zmq.XSUB

    def subscribe(self, tag: Part) -> None:
        """As :meth:`ZmqSubConnection.subscribe`.

        :raises zmq.Again: if the high-water mark to a publisher is reached.
        """
        self.send(b"\x01" + toBytes(tag))

    def unsubscribe(self, tag: Part) -> None:
        """Undo one :meth:`subscribe` of *tag*."""
        self.send(b"\x00" + toBytes(tag))
