"""Raw ROUTER and DEALER."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import zmq

from txzmq._arguments import wrong_type
from txzmq.connection import Part, ZmqConnection, toBytes

__all__ = ["ZmqBase", "ZmqDealerConnection", "ZmqRouterConnection"]


class ZmqBase(ZmqConnection):
    """A uniform interface: ``sendMsg``, ``sendMultipart`` and ``gotMessage``.

    Parameters are typed loosely, since subclasses override these methods with the signatures that
    their kind of socket needs.
    """

    def sendMsg(self, *args: Any, **kwargs: Any) -> None:
        """Send a message of one part.

        :param args: the message.
        """
        (message,) = (*args, *kwargs.values())
        self.sendMultipart([message])

    def sendMultipart(self, *args: Any, **kwargs: Any) -> None:
        """Send a message of several parts.

        :param args: a sequence of the parts.
        """
        (parts,) = (*args, *kwargs.values())
        self.send(parts)

    def messageReceived(self, message: list[bytes]) -> None:
        """Pass a message on to :meth:`gotMessage`, each part an argument."""
        self.gotMessage(*message)

    def gotMessage(self, *args: Any, **kwargs: Any) -> None:
        """Called with the parts of each message; subclasses override it."""
        raise NotImplementedError(self)


class ZmqDealerConnection(ZmqBase):
    """Raw DEALER: sends to its peers in turn, and receives from all of them in turn."""

    socketType = zmq.DEALER

    def sendMsg(self, message: Part) -> None:
        """Send a message of one part."""
        self.sendMultipart([message])

    def sendMultipart(self, parts: Sequence[Part]) -> None:
        """Send a message of several parts."""
        self.send(parts)


class ZmqRouterConnection(ZmqBase):
    """Raw ROUTER: tells who sent each message, and sends to the peer that is named.

    :meth:`gotMessage` gets the sender's routing id, then the parts.
    """

    socketType = zmq.ROUTER

    def sendMsg(self, recipientId: Part, message: Part) -> None:
        """Send a message of one part to the peer with the routing id *recipientId*.

        A message to an unknown peer is dropped, unless ``ROUTER_MANDATORY`` is set.
        """
        self.send([toBytes(recipientId, "recipientId"), toBytes(message, "message")])

    def sendMultipart(self, recipientId: Part, parts: Sequence[Part]) -> None:
        """Send a message of several parts to the peer with the routing id *recipientId*."""
        # Old applications have no type checker; text is a sequence, too.
        if isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("parts", "a sequence of message parts", parts)
        self.send([toBytes(recipientId, "recipientId"), *parts])
