"""What servers did between two looks at their counters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from txzmq.rpc.admin import GetServerResponse, MethodFigures
from txzmq.rpc.metrics import Histogram

__all__ = ["MethodRates", "Snapshot", "added_up", "rates_between"]

_OK: Final = "OK"

#: How many calls took how long, by the bounds of the buckets.
_Counts: TypeAlias = dict[tuple[float, ...], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a server has told.

    :ivar seconds: when, by a clock that goes only forward.
    :ivar server: None of a server that is too old to tell.
    :ivar methods: by their paths.
    :ivar bounds: of the histograms, in seconds.
    """

    seconds: float
    server: GetServerResponse | None
    methods: Mapping[str, MethodFigures]
    bounds: tuple[float, ...]


@dataclass(slots=True, kw_only=True)
class MethodRates:
    """A method over an interval.

    :ivar calls: a second, that have begun; None where the interval is not known.
    :ivar errors: a second, that have ended with a code other than OK.
    :ivar in_flight: at its end.
    :ivar queued: of these, those that waited for a place.
    :ivar counts: of those that have ended in it.
    """

    path: str
    calls: float | None = None
    errors: float | None = None
    in_flight: int = 0
    queued: int = 0
    counts: _Counts = field(default_factory=dict[tuple[float, ...], list[int]])

    def quantile(self, part: float) -> float:
        """Seconds that a part of the calls took at most, estimated; 0 where none has ended."""
        found = [0.0]
        for bounds, counts in self.counts.items():
            histogram = Histogram(bounds)
            histogram.counts = counts
            found.append(histogram.quantile(part))
        # Of servers of several versions, whose buckets differ, the slowest.
        return max(found)


def _codes(figures: MethodFigures) -> Counter[str]:
    return Counter(figures.ended)


def _is_the_same_process(before: Snapshot, after: Snapshot) -> bool:
    one, two = before.server, after.server
    if one and two and (one.instance, one.since) != (two.instance, two.since):
        return False
    # One that is too old to tell, or whose clock was set: counters do not fall.
    nothing = MethodFigures()
    for path, old in before.methods.items():
        new = after.methods.get(path, nothing)
        if new.started < old.started or _codes(old) - _codes(new):
            return False
        if any(a < b for a, b in zip(new.seconds_counts, old.seconds_counts, strict=False)):
            return False
    return after.seconds > before.seconds


def _are_bounds(bounds: tuple[float, ...]) -> bool:
    """Whether buckets can have these bounds, one at least."""
    is_ascending = all(a < b for a, b in pairwise(bounds))
    return bool(bounds) and is_ascending and all(map(math.isfinite, bounds))


def rates_between(before: Snapshot | None, after: Snapshot) -> list[MethodRates]:
    """What a server did between two snapshots.

    There are no rates where the first is missing, or is of another process at the same address.
    """
    found = [
        MethodRates(path=path, in_flight=each.in_flight, queued=each.queued)
        for path, each in after.methods.items()
    ]
    if before is None or not _is_the_same_process(before, after):
        return found
    seconds, nothing = after.seconds - before.seconds, MethodFigures()
    same_buckets = before.bounds == after.bounds and _are_bounds(after.bounds)
    for rates in found:
        old, new = before.methods.get(rates.path, nothing), after.methods[rates.path]
        ended = _codes(new) - _codes(old)
        rates.calls = (new.started - old.started) / seconds
        rates.errors = (ended.total() - ended[_OK]) / seconds
        buckets = len(after.bounds) + 1
        fewer = old.seconds_counts or [0] * buckets
        # Another server than ours may tell whatever it likes.
        if same_buckets and len(fewer) == len(new.seconds_counts) == buckets:
            rates.counts[after.bounds] = [
                a - b for a, b in zip(new.seconds_counts, fewer, strict=True)
            ]
    return found


def added_up(servers: Iterable[Sequence[MethodRates]]) -> list[MethodRates]:
    """The methods of several servers, those of the same path as one."""
    found: dict[str, MethodRates] = {}
    for methods in servers:
        for each in methods:
            _add(found.setdefault(each.path, MethodRates(path=each.path)), each)
    return [found[path] for path in sorted(found)]


def _add(total: MethodRates, one: MethodRates) -> None:
    total.in_flight += one.in_flight
    total.queued += one.queued
    if one.calls is not None and one.errors is not None:
        total.calls = (total.calls or 0.0) + one.calls
        total.errors = (total.errors or 0.0) + one.errors
    for bounds, counts in one.counts.items():
        sums = total.counts.get(bounds, [0] * len(counts))
        total.counts[bounds] = [a + b for a, b in zip(sums, counts, strict=True)]
