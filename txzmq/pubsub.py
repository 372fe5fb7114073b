"""PUB and SUB, XPUB and XSUB.

A published message is one frame: the tag, a zero byte, the message. It is one frame because
multicast sends each frame as a datagram of its own, and mixes those of several publishers.
"""

from __future__ import annotations

import zmq

from txzmq._backend import frameProperty, recv
from txzmq._identity import Identity
from txzmq.auth import CurveServerCredentials
from txzmq.connection import NOBLOCK, Part, ZmqConnection, toBytes

__all__ = ["ZmqPubConnection", "ZmqSubConnection", "ZmqXPubConnection", "ZmqXSubConnection"]


class ZmqPubConnection(ZmqConnection):
    """Publishes messages to those who subscribed to their tags."""

    socketType = zmq.PUB

    def publish(self, message: Part, tag: Part = b"") -> None:
        """Publish *message* under *tag*.

        :param message: the data; str is sent as UTF-8.
        :param tag: what subscribers select messages by; it must not contain :attr:`topicSep`.
        :raises ValueError: if *tag* contains :attr:`topicSep`.
        """
        topic = toBytes(tag, "tag")
        if self.topicSep in topic:
            raise ValueError(f"the tag {topic!r} contains the separator {self.topicSep!r}")
        self.send(topic + self.topicSep + toBytes(message, "message"))


class ZmqSubConnection(ZmqConnection):
    """Receives the messages published under the tags that it subscribed to.

    Override :meth:`gotMessage`, or assign it on the instance.
    """

    socketType = zmq.SUB

    def subscribe(self, tag: Part) -> None:
        """Receive messages whose tag begins with *tag*; may be called for several tags.

        Append :attr:`topicSep` to receive this tag only. Subscriptions are counted: after two of
        one tag, two calls of :meth:`unsubscribe` are needed.
        """
        self._openSocket().set(zmq.SUBSCRIBE, toBytes(tag, "tag"))

    def unsubscribe(self, tag: Part) -> None:
        """Undo one :meth:`subscribe` of *tag*."""
        self._openSocket().set(zmq.UNSUBSCRIBE, toBytes(tag, "tag"))

    def messageReceived(self, message: list[bytes]) -> None:
        """Split a message into tag and data; one of two parts is taken as tag and data."""
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

    libzmq reports the first subscription and the last unsubscription of each tag; with
    ``XPUB_VERBOSE`` or ``XPUB_VERBOSER`` set on the socket, it reports more of them.
    """

    socketType = zmq.XPUB
    # Of the message that was received last.
    _frame: zmq.Frame | None = None

    def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """As of the base class; note how the message came."""
        frame = recv(socket, NOBLOCK, copy=False)
        self._frame = frame
        message = [frame.bytes]
        while frame.more:
            frame = recv(socket, NOBLOCK, copy=False)
            message.append(frame.bytes)
        return message

    def subscriberDescriptor(self) -> int | None:
        """The descriptor of the connection by which the message came that is being dispatched.

        It is libzmq's, and may be closed by now, or belong to something else. None where there is
        none: over inproc, and for unsubscriptions that libzmq makes, when a subscriber has gone.
        """
        if self._frame is None:
            return None
        descriptor = frameProperty(self._frame, zmq.SRCFD)
        return descriptor if isinstance(descriptor, int) else None

    def subscriberIdentity(self) -> Identity | None:
        """Who has sent the message that is being dispatched, as the credentials know them now.

        None where nobody has authenticated, and where the key was revoked since.
        """
        credentials = self.credentials
        if self._frame is None or not isinstance(credentials, CurveServerCredentials):
            return None
        key = frameProperty(self._frame, "User-Id")
        return credentials.clients.get(key) if isinstance(key, str) else None

    def messageReceived(self, message: list[bytes]) -> None:
        """Distinguish subscriptions from messages that an XSUB sent upstream."""
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
        """Make the subscription effective that was just reported, with ``XPUB_MANUAL`` set.

        To be called within :meth:`gotSubscription`; *tag* may differ from what the subscriber asked
        for.
        """
        self._openSocket().set(zmq.SUBSCRIBE, tag)

    def acceptUnsubscription(self, tag: bytes) -> None:
        """Make the unsubscription effective that was just reported, with ``XPUB_MANUAL`` set.

        To be called within :meth:`gotUnsubscription`.
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
        self.send(b"\x01" + toBytes(tag, "tag"))

    def unsubscribe(self, tag: Part) -> None:
        """Undo one :meth:`subscribe` of *tag*."""
        self.send(b"\x00" + toBytes(tag, "tag"))
