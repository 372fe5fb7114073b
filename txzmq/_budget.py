"""How many bytes libzmq may hold for each peer, beside how many messages."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

__all__ = ["TRACKED", "ByteBudget"]

#: Bytes from which on a message counts. Smaller ones are bounded by the high-water mark.
TRACKED: Final = 64 * 1024
#: How many peers are held something for before it is looked whether all that is still so.
_MOST_PEERS: Final = 1_000


class Tracker(Protocol):
    """Knows whether libzmq is done with a message: a ``zmq.MessageTracker``."""

    @property
    def done(self) -> bool:
        """Whether it is."""
        ...


class ByteBudget:
    """The large messages that libzmq holds, by peer.

    A high-water mark counts messages, be they of ten bytes or of four million; libzmq has no other
    bound. But it tells when it is done with a message that it was not to copy.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: bytes that it may hold for one peer; one message is taken in any case."""
        self.limit = limit
        # In the order of sending, which is that of their release.
        self._held: dict[bytes, deque[tuple[Tracker, int]]] = {}
        self._sizes: dict[bytes, int] = {}
        self._most_peers = _MOST_PEERS

    def __len__(self) -> int:
        return len(self._held)

    def has_room(self, peer: bytes, size: int) -> bool:
        """Whether one more message of *size* bytes may be handed over."""
        self._release(peer)
        held = self._sizes.get(peer, 0)
        return not held or held + size <= self.limit

    def add(self, peer: bytes, size: int, tracker: Tracker) -> None:
        """A message was handed over."""
        if len(self._held) >= self._most_peers:
            # Not all transports tell of a peer's end.
            for other in list(self._held):
                self._release(other)
            self._most_peers = 2 * len(self._held) + _MOST_PEERS
        self._held.setdefault(peer, deque()).append((tracker, size))
        self._sizes[peer] = self._sizes.get(peer, 0) + size

    def forget(self, peer: bytes) -> None:
        """A peer has gone."""
        self._held.pop(peer, None)
        self._sizes.pop(peer, None)

    def _release(self, peer: bytes) -> None:
        held = self._held.get(peer)
        if held is None:
            return
        while held and held[0][0].done:
            self._sizes[peer] -= held.popleft()[1]
        if not held:
            self.forget(peer)
