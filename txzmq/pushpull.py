"""PUSH and PULL."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from txzmq.connection import Part, ZmqConnection

__all__ = ["ZmqPullConnection", "ZmqPushConnection"]


class ZmqPushConnection(ZmqConnection):
    """Hands each message to one of the pullers, in turn."""

    socketType = zmq.PUSH

    def push(self, message: Part | Sequence[Part]) -> None:
        """Push one message, of one part or several.

        :raises zmq.Again: if no puller can take it; nothing is queued.
        """
        self.send(message)


class ZmqPullConnection(ZmqConnection):
    """Receives messages from all pushers in turn.

    Override :meth:`onPull`, or assign it on the instance.
    """

    socketType = zmq.PULL

    def messageReceived(self, message: list[bytes]) -> None:
        """Pass a message on to :meth:`onPull`."""
        self.onPull(message)

    def onPull(self, message: list[bytes]) -> None:
        """Called with each message, as a list of its parts."""
        raise NotImplementedError(self)
