"""The result of an attempt to send a message."""

from __future__ import annotations

import enum

__all__ = ["SendResult"]


class SendResult(enum.Enum):
    """The result of :meth:`ZmqConnection.trySend`."""

    #: libzmq has taken the message.
    SENT = enum.auto()
    #: There is no room or no peer now; :meth:`ZmqConnection.readyToSend` tells when to try again.
    BLOCKED = enum.auto()
    #: The message's peer is not connected (a ROUTER with ``ROUTER_MANDATORY``).
    UNREACHABLE = enum.auto()
