"""What waits for clients that do not read, and how much of it there may be."""

from __future__ import annotations

from collections import deque
from typing import Final

from txzmq.rpc.limits import ServerLimits

__all__ = ["Backlog", "BacklogBytes"]

#: Bytes that a message costs beyond its own, roughly: a list, and the objects in it.
_OVERHEAD: Final = 256
#: Bytes of a message that a backlog has room for while it is not full: most errors have fewer.
_SHORT: Final = 512


class BacklogBytes:
    """Counts what the messages cost that wait for slow peers, in bytes.

    :ivar size: of all peers.
    """

    __slots__ = ("_limits", "size")

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self.size = 0

    def is_full(self, of_peer: int) -> bool:
        """Whether a peer, for which so much waits, is to be given no more to wait for."""
        limits = self._limits
        return of_peer >= limits.backlog_per_peer or self.size >= limits.backlog

    def why_not(self, of_peer: int, size: int) -> str | None:
        """The limit that forbids one more message, in words; None if none does.

        A part of each limit is for short ones only.
        """
        limits = self._limits
        if size <= _SHORT:
            return None
        if of_peer + size + _OVERHEAD > limits.backlog_per_peer * 15 // 16:
            return (
                f"{of_peer} bytes of replies wait for this client on the server, which keeps "
                f"{limits.backlog_per_peer} (ServerLimits.backlog_per_peer)"
            )
        if self.size + size + _OVERHEAD > limits.backlog * 15 // 16:
            return (
                f"{self.size} bytes of replies wait on the server for clients that do not read "
                f"them, and it keeps {limits.backlog} (ServerLimits.backlog)"
            )
        return None


class Backlog:
    """Messages that a slow peer had no room for.

    :ivar size: what they cost, in bytes.
    """

    __slots__ = ("_all", "messages", "size")

    def __init__(self, all_: BacklogBytes) -> None:
        """:param all_: counts those of all peers."""
        self.messages: deque[list[bytes]] = deque()
        self.size = 0
        self._all = all_

    def add(self, message: list[bytes]) -> None:
        """Put a message behind the others."""
        self.messages.append(message)
        self._change(sum(map(len, message)) + _OVERHEAD)

    def sent(self) -> None:
        """The first message is on its way."""
        self._change(-sum(map(len, self.messages.popleft())) - _OVERHEAD)

    def drop(self) -> None:
        """Nobody waits for them any more."""
        self.messages.clear()
        self._change(-self.size)

    def _change(self, size: int) -> None:
        self.size += size
        self._all.size += size
