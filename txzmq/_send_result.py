"""What became of a message that was to be sent."""

from __future__ import annotations

import enum

__all__ = ["SendResult"]


class SendResult(enum.Enum):
    """What became of a message given to :meth:`ZmqConnection.trySend`."""

    #: libzmq has it.
    SENT = enum.auto()
    #: No room or no peer now; :meth:`ZmqConnection.readyToSend` tells when to try again.
    BLOCKED = enum.auto()
    #: The peer that it is for is not there (a ROUTER with ``ROUTER_MANDATORY``).
    UNREACHABLE = enum.auto()
