"""Keeps the log short, whatever peers do."""

from __future__ import annotations

from typing import Final

from txzmq._reactor import Clock

__all__ = ["RateLimit"]

#: How many lines about one subject may be logged at once.
_BURST: Final = 4
#: Seconds until one more line about it may be logged.
_PAUSE: Final = 30.0


class RateLimit:
    """A token bucket for the log lines about one subject: some at once, then few."""

    __slots__ = ("_at", "_clock", "_suppressed", "_tokens")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = float(_BURST)
        # When the tokens were counted last.
        self._at = clock.seconds()
        # How many lines were suppressed since the last that was logged.
        self._suppressed = 0

    def take(self) -> bool:
        """Take a token for one line.

        :return: whether there was one.
        """
        now = self._clock.seconds()
        self._tokens = min(_BURST, self._tokens + (now - self._at) / _PAUSE)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def suppress(self) -> None:
        """Count a line that is not logged, or not yet."""
        self._suppressed += 1

    def take_suppressed(self) -> int:
        """How many lines were suppressed; they are counted from 0 again."""
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed

    @property
    def wait(self) -> float:
        """Seconds until there is a token; a millisecond more makes up for rounding."""
        return (1 - self._tokens) * _PAUSE + 0.001
