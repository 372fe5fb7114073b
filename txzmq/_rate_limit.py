"""Keeps the log short, whatever peers do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Protocol

__all__ = ["KindLimits", "RateLimit", "Time"]

#: How many lines about one subject may be logged at once.
_BURST: Final = 4
#: Seconds until one more line about it may be logged.
_PAUSE: Final = 30.0
#: Seconds between two lines of one kind, and how many kinds have lines of their own meanwhile.
_MINUTE: Final = 60.0
_MOST_KINDS: Final = 128


class Time(Protocol):
    """What tells the time: any clock does."""

    def seconds(self) -> float:
        """The time now, in seconds."""
        ...


class RateLimit:
    """A token bucket for the log lines about one subject: some at once, then few."""

    __slots__ = ("_at", "_clock", "_suppressed", "_tokens")

    def __init__(self, clock: Time) -> None:
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


class _Kind:
    """When a line of this kind was logged last, and how many were left out since."""

    __slots__ = ("at", "left_out")

    def __init__(self, at: float) -> None:
        self.at = at
        self.left_out = 0


class KindLimits:
    """Lines about many users, keys or methods: one a minute of each kind.

    Kinds that come when there are too many have a few lines together.
    """

    __slots__ = ("_clock", "_kinds", "_others")

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        # Those whose last line is the oldest come first.
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._others = RateLimit(clock)

    def take(self, kind: Hashable) -> int | None:
        """Ask for a line of a kind.

        :return: how many of its kind were left out since the last one; None if this one is, too.
        """
        now = self._clock.seconds()
        known = self._kinds.get(kind)
        if known is not None and now - known.at < _MINUTE:
            known.left_out += 1
            return None
        if known is None and len(self._kinds) >= _MOST_KINDS and not self._forget_one(now):
            if not self._others.take():
                self._others.suppress()
                return None
            return self._others.take_suppressed()
        self._kinds.pop(kind, None)
        self._kinds[kind] = _Kind(now)
        return 0 if known is None else known.left_out

    def _forget_one(self, now: float) -> bool:
        """Make room for another kind, if there is one that may have a line again."""
        oldest = next(iter(self._kinds))
        if now - self._kinds[oldest].at < _MINUTE:
            return False
        del self._kinds[oldest]
        return True
