"""How long calls took, in buckets that are a thousandth wide, whatever the latency.

The buckets are those of HdrHistogram (http://hdrhistogram.org) with three digits: to a power of two
belong 1,024 of them. docs/decisions says why its package is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, NamedTuple

__all__ = ["Bar", "Latencies"]

#: Bits of a latency that are kept; 2 ** 11 buckets have one nanosecond each.
_BITS: Final = 11
_HALF: Final = 1 << (_BITS - 1)
_NANOS: Final = 1_000_000_000


class Bar(NamedTuple):
    """Latencies of about the same size.

    :ivar seconds: what they are at most.
    :ivar calls: how many there are.
    """

    seconds: float
    calls: int


class Latencies:
    """Counts latencies.

    :ivar count: how many there are.
    :ivar total: their sum, in seconds.
    :ivar least: the smallest one, exactly; 0 where there is none.
    :ivar most: the largest one, exactly.
    """

    __slots__ = ("_counts", "count", "least", "most", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least = 0.0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one; what is below 0, as where a clock was set, counts as 0."""
        if seconds < 0.0:
            seconds = 0.0
        if seconds > self.most:
            self.most = seconds
        if not self.count or seconds < self.least:
            self.least = seconds
        self.count += 1
        self.total += seconds
        nanos = int(seconds * _NANOS)
        shift = nanos.bit_length() - _BITS
        key = nanos if shift <= 0 else (shift << (_BITS - 1)) + (nanos >> shift)
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1

    @property
    def mean(self) -> float:
        """In seconds; 0 where there is none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, part: Fraction) -> float:
        """What a part of them are at most, to a thousandth; 0 where there is none.

        :param part: above 0 and at most 1.
        """
        rank, seen = math.ceil(part * self.count), 0
        if rank == self.count:
            return self.most
        for seconds, count in self._buckets():
            seen += count
            if seen >= rank:
                return max(self.least, min(self.most, seconds))
        return 0.0

    def _buckets(self) -> Iterator[Bar]:
        for key in sorted(self._counts):
            yield Bar(_upper(key), self._counts[key])

    def bars(self, number: int) -> list[Bar]:
        """All of them in so many bars, of which each reaches as many times as far as the last one.

        :param number: how many there are at most; fewer where all latencies are nearly the same.
        """
        if not self.count:
            return []
        low, high = max(self.least, 1e-9), max(self.most, 1e-9)
        if high < low * 1.01:
            return [Bar(high, self.count)]
        bounds = [low * (high / low) ** ((place + 1) / number) for place in range(number)]
        bounds[-1] = high
        counts, place = [0] * number, 0
        for seconds, count in self._buckets():
            while place < number - 1 and min(seconds, self.most) > bounds[place]:
                place += 1
            counts[place] += count
        return [Bar(*pair) for pair in zip(bounds, counts, strict=True)]


def _upper(key: int) -> float:
    """The largest latency of a bucket, in seconds."""
    if key < 2 * _HALF:
        return key / _NANOS
    shift = key // _HALF - 1
    return (((key - shift * _HALF + 1) << shift) - 1) / _NANOS
