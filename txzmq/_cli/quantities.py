"""Durations and limits of latencies on the command line: ``10ms``, ``1m30s``, ``p99=10ms``."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

import click

__all__ = [
    "LatencyLimit",
    "NumberRange",
    "Percentile",
    "duration",
    "duration_or_none",
    "latency_limits",
    "parse_duration",
    "parse_latency_limit",
    "parse_percentile",
    "seconds",
]

#: Seconds of a unit. Both signs for micro are in use.
_UNITS: Final = {
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ns": 1e-9,
}
_NUMBER: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PART: Final = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_PLAIN: Final = re.compile(_NUMBER)
#: Digits of a number; more say nothing of a time.
_MOST: Final = 40


def parse_duration(text: str) -> float:
    """Seconds: of a number with a unit, of several one after another, or of a number alone.

    :raises ValueError: if it is none; the message says how one is written.
    """
    seconds, place = 0.0, 0
    if len(text) <= _MOST:
        if _PLAIN.fullmatch(text):
            return float(text)
        while part := _PART.match(text, place):
            seconds += float(part[1]) * _UNITS[part[2]]
            place = part.end()
    if not text or place < len(text):
        raise ValueError(f"{text[:_MOST]!r} is no duration: write it as 10s, 250ms or 1m30s")
    return seconds


class Percentile(NamedTuple):
    """A part of all latencies.

    :ivar name: such as ``p99.9``.
    :ivar part: above 0 and at most 1, exactly.
    """

    name: str
    part: Fraction


def parse_percentile(text: str) -> Percentile:
    """What ``p99.9`` means.

    :raises ValueError: if it is none; the message says how one is written.
    """
    if text[:1] == "p" and len(text) <= _MOST and _PLAIN.fullmatch(text[1:]):
        part = Fraction(Decimal(text[1:])) / 100
        if 0 < part <= 1:
            return Percentile(text, part)
    raise ValueError(f"{text[:_MOST]!r} is no percentile: write it as p50 or p99.9")


class LatencyLimit(NamedTuple):
    """What a latency may be at most.

    :ivar name: ``mean``, ``max``, or that of a percentile.
    :ivar percentile: None for the mean and the maximum.
    :ivar seconds: the limit.
    """

    name: str
    percentile: Percentile | None
    seconds: float


def parse_latency_limit(text: str) -> LatencyLimit:
    """What ``p99=10ms`` means.

    :raises ValueError: if it is none; the message says how one is written.
    """
    name, equals, limit = text.partition("=")
    if not equals:
        raise ValueError(f"{text[:_MOST]!r} is no limit: write it as p99=10ms, mean=2ms or max=1s")
    percentile = None if name in ("mean", "max") else parse_percentile(name)
    seconds = parse_duration(limit)
    if not seconds > 0:
        raise ValueError(f"{text[:_MOST]!r}: the limit must be above 0")
    return LatencyLimit(name, percentile, seconds)


class NumberRange(click.FloatRange):
    """A number within bounds; NaN is none, which no comparison would notice, nor is infinity."""

    # Any: click's.
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See :meth:`click.ParamType.convert`."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


# Any: click's, for options that may be left out or given several times.
def duration(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """What click makes of an option: seconds above 0."""
    seconds = duration_or_none(_, __, value)
    if seconds is not None and not seconds > 0:
        raise click.BadParameter("it must be above 0")
    return seconds


def duration_or_none(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """As :func:`duration`, and 0."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def latency_limits(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """What click makes of an option that is given several times: limits."""
    try:
        return [parse_latency_limit(each) for each in value]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Check an option that has a number of seconds."""
    if not 0 <= value < math.inf:
        raise click.BadParameter("it must be a number of seconds, 0 or more")
    return value
