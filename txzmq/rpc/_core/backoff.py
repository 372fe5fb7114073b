"""Delays between attempts to connect."""

from __future__ import annotations

from random import Random

__all__ = ["Backoff"]

_FACTOR = 1.6
_JITTER = 0.5


class Backoff:
    """Delays that grow with each failure.

    Each is up to a half shorter or longer than computed, so that the clients of a server that
    restarts do not all come back at once. The factor is gRPC's (doc/connection-backoff.md).

    :ivar failures: the number of delays since the last :meth:`reset`.
    """

    __slots__ = ("_first", "_most", "_random", "failures")

    def __init__(self, first: float, most: float, random: Random) -> None:
        """
        :param first: seconds of the first delay, before it is varied.
        :param most: seconds of the longest delay, likewise.
        """
        self._first = first
        self._most = most
        self._random = random
        self.failures = 0

    def next(self) -> float:
        """Seconds until the next attempt."""
        # A higher power would overflow.
        delay = min(self._most, self._first * _FACTOR ** min(self.failures, 100))
        self.failures += 1
        return delay * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    def reset(self) -> None:
        """Begin with the first delay again, since the server can be reached."""
        self.failures = 0
