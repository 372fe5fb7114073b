"""From samples to the figures of the table: pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "Figures",
    "Interval",
    "Sample",
    "figures_of",
    "median",
    "median_interval",
    "percentile",
    "ratio",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one order came to. Times are in seconds; CPU time is user and system of all threads."""

    calls: int
    #: From the first call's beginning to the last one's end.
    elapsed: float
    p50: float
    p99: float
    client_cpu: float
    #: The client cannot know this one.
    server_cpu: float = 0.0


class Figures(NamedTuple):
    """What the table shows of a stack; or, as a ratio, of two."""

    calls_per_second: float
    #: Seconds, from before a request is built until its reply is parsed.
    p50: float
    p99: float
    #: CPU seconds per call, of all threads of the process.
    client_cpu: float
    server_cpu: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that *percent* of all do not exceed.

    :param ordered: at least one value, in ascending order.
    :param percent: above 0, at most 100.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} is no percentage")
    if not ordered:
        raise ValueError("no values")
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def figures_of(sample: Sample) -> Figures:
    """The figures of one sample."""
    return Figures(
        calls_per_second=sample.calls / sample.elapsed,
        p50=sample.p50,
        p99=sample.p99,
        client_cpu=sample.client_cpu / sample.calls,
        server_cpu=sample.server_cpu / sample.calls,
    )


def median(several: Iterable[Figures]) -> Figures:
    """The median of each figure by itself.

    :raises ValueError: if there are none.
    """
    columns = list(zip(*several, strict=True))
    if not columns:
        raise ValueError("no figures")
    return Figures(*(statistics.median(column) for column in columns))


def ratio(ours: Figures, theirs: Figures) -> Figures:
    """Each of our figures divided by theirs; infinite where theirs is zero."""
    return Figures(*(a / b if b else math.inf for a, b in zip(ours, theirs, strict=True)))


class Interval(NamedTuple):
    """Where a median lies, with some probability."""

    low: float
    high: float
    #: At most 1.
    confidence: float


def median_interval(values: Iterable[float], confidence: float = 0.9) -> Interval:
    """The narrowest pair of order statistics that holds the median with that confidence.

    It supposes nothing of how the values are distributed, only that none depends on another: the
    median is above the smallest of five with a probability of 31/32. Few values may not give the
    confidence; then it is from the smallest to the largest, and the confidence is what that gives.

    :param values: at least one.
    :raises ValueError: if there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    count = len(ordered)
    found = Interval(ordered[0], ordered[-1], 1 - 2 / 2**count)
    outside = 2 / 2**count
    for skipped in range(1, (count + 1) // 2):
        outside += 2 * math.comb(count, skipped) / 2**count
        if 1 - outside < confidence:
            break
        found = Interval(ordered[skipped], ordered[-1 - skipped], 1 - outside)
    return found
