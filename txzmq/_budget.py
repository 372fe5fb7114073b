"""A limit for the bytes that libzmq holds for each peer; its own limit counts messages."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

__all__ = ["TRACKED", "ByteBudget"]

#: Messages of so many bytes or more count. The high-water mark bounds the smaller ones.
TRACKED: Final = 64 * 1024
#: With so many peers, those for which libzmq holds nothing any more are searched and forgotten.
_MOST_PEERS: Final = 1_000


class Tracker(Protocol):
    """Tells whether libzmq is done with a message: a ``zmq.MessageTracker``."""

    @property
    def done(self) -> bool:
        """Whether libzmq is done with the message."""
        ...


class ByteBudget:
    """Counts the bytes of large messages that libzmq holds, by peer.

    libzmq's only bound, the high-water mark, counts messages, be they of ten bytes or of four
    million. But libzmq tells when it is done with a message that it did not copy. To track a
    message costs more than to send one of 64 KiB, so one message in each sixteenth of the limit is
    tracked: messages to one peer are sent in order, and when a tracked one was sent, so were those
    before it. (It is of no use where all messages are copied: ``_backend.SHARES_MEMORY``.)
    """

    def __init__(self, limit: int) -> None:
        """:param limit: bytes for one peer; one message has room in any case."""
        self.limit = limit
        self._step = limit // 16
        # By peer, the tracked messages in the order of sending. Each has the bytes of itself and of
        # the messages since the tracked one before it.
        self._held: dict[bytes, deque[tuple[Tracker, int]]] = {}
        # By peer, the bytes up to the last tracked message.
        self._sizes: dict[bytes, int] = {}
        # By peer, the bytes since then.
        self._untracked: dict[bytes, int] = {}
        self._most_peers = _MOST_PEERS

    def __len__(self) -> int:
        return len(self._held)

    def has_room(self, peer: bytes, size: int) -> bool:
        """Whether libzmq may be given one more message of *size* bytes."""
        self._release(peer)
        held = self._sizes.get(peer, 0)
        return not held or held + self._untracked.get(peer, 0) + size <= self.limit

    def wants_tracker(self, peer: bytes, size: int) -> bool:
        """Whether the next message, of *size* bytes, is to be tracked."""
        return self._untracked.get(peer, 0) + size >= self._step

    def add(self, peer: bytes, size: int, tracker: Tracker | None) -> None:
        """Count a message that libzmq was given; *tracker* is None if it is not tracked."""
        if len(self._untracked) >= self._most_peers:
            # Not every transport tells when a peer has gone.
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
        """Stop counting for a peer that has gone."""
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
