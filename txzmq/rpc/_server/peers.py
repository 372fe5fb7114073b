"""What a server that tells of its clients remembers of each connection; others remember nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Final

__all__ = ["PeerRecord", "PeerRecords"]

#: Connections that are remembered before it is looked which of them are known no more, where the
#: transport does not tell when a peer is lost.
_MANY: Final = 20_000


class PeerRecord:
    """One connection.

    :ivar peer: its routing id.
    :ivar number: which one it is, among all of the server.
    :ivar since: when its first message came, by the clock.
    :ivar identity: who had authenticated then.
    :ivar public_key: theirs.
    :ivar started: calls that it has made.
    :ivar user_agent: what the client says that it is; empty if it does not, or is behind a proxy.
    """

    __slots__ = ("identity", "number", "peer", "public_key", "since", "started", "user_agent")

    def __init__(
        self, peer: bytes, number: int, since: float, identity: str, public_key: str
    ) -> None:
        self.peer = peer
        self.number = number
        self.since = since
        self.identity = identity
        self.public_key = public_key
        self.started = 0
        self.user_agent = ""

    def call_started(self) -> None:
        """It makes one more call."""
        self.started += 1


class PeerRecords:
    """The connections to one socket, the oldest first."""

    __slots__ = ("_numbers", "_prune_at", "_records")

    def __init__(self, numbers: count[int]) -> None:
        """:param numbers: of the server's connections."""
        self._numbers = numbers
        self._prune_at = _MANY
        self._records: dict[bytes, PeerRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter(self._records.values())

    def get(self, peer: bytes) -> PeerRecord | None:
        """The record of a connection; None if it was lost."""
        return self._records.get(peer)

    def appeared(
        self,
        peer: bytes,
        now: float,
        identity: str,
        public_key: str,
        known: Callable[[], Iterable[bytes]] | None,
    ) -> None:
        """A connection's first message has come, or its first after the wire had forgotten it.

        :param known: gives the routing ids of those that there may still be; None where
            :meth:`lost` is called for all others.
        """
        if peer in self._records:
            return
        if known is not None and len(self._records) >= self._prune_at:
            there = frozenset(known())
            self._records = {key: each for key, each in self._records.items() if key in there}
            self._prune_at = max(_MANY, 2 * len(self._records))
        number = next(self._numbers)
        self._records[peer] = PeerRecord(peer, number, now, identity, public_key)

    def lost(self, peer: bytes) -> None:
        """A connection is gone."""
        self._records.pop(peer, None)

    def introduced(self, peer: bytes, user_agent: str) -> None:
        """A client says what it is."""
        record = self._records.get(peer)
        if record is not None:
            record.user_agent = user_agent

    def call_started(self, peer: bytes) -> None:
        """A client makes one more call."""
        record = self._records.get(peer)
        if record is not None:
            record.call_started()
