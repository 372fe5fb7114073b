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
    bound. But it tells when it is done with a message that it was not to copy. To be told costs
    more than to send one of 64 KiB, so only one message in a sixteenth of the limit is tracked:
    those to one peer go in order, and when one has gone, so have those before it.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: bytes that it may hold for one peer; one message is taken in any case."""
        self.limit = limit
        self._step = limit // 16
        # Tracked messages, each with the bytes from the one before up to itself, in the order of
        # sending.
        self._held: dict[bytes, deque[tuple[Tracker, int]]] = {}
        # Bytes up to the last tracked one, and since.
        self._sizes: dict[bytes, int] = {}
        self._untracked: dict[bytes, int] = {}
        self._most_peers = _MOST_PEERS

    def __len__(self) -> int:
        return len(self._held)

    def has_room(self, peer: bytes, size: int) -> bool:
        """Whether one more message of *size* bytes may be handed over."""
        self._release(peer)
        held = self._sizes.get(peer, 0)
        return not held or held + self._untracked.get(peer, 0) + size <= self.limit

    def wants_tracker(self, peer: bytes, size: int) -> bool:
        """Whether a message that has room is to be tracked."""
        return self._untracked.get(peer, 0) + size >= self._step

    def add(self, peer: bytes, size: int, tracker: Tracker | None) -> None:
        """A message was handed over; *tracker* is None where it was not tracked."""
        if len(self._untracked) >= self._most_peers:
            # Not all transports tell of a peer's end.
            for other in list(self._untracked):
                self._release(other)
                if other not in self._held:
                    self.forget(other)
            self._most_peers = 2 * len(self._untracked) + _MOST_PEERS
        size += self._untracked.get(peer, 0)
        if tracker is None:
            self._untracked[peer] = size
            return
        self._untracked[peer] = 0
        self._held.setdefault(peer, deque()).append((tracker, size))
        self._sizes[peer] = self._sizes.get(peer, 0) + size

    def forget(self, peer: bytes) -> None:
        """A peer has gone."""
        self._held.pop(peer, None)
        self._sizes.pop(peer, None)
        self._untracked.pop(peer, None)

    def _release(self, peer: bytes) -> None:
        held = self._held.get(peer)
        if held is None:
            return
        while held and held[0][0].done:
            self._sizes[peer] -= held.popleft()[1]
        if not held:
            del self._held[peer], self._sizes[peer]
