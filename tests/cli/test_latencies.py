"""Latencies in buckets, compared with all of them in a list."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from txzmq._cli.latencies import Latencies

SECONDS = st.floats(0, 1e5)
PARTS = st.fractions(Fraction(1, 1000), 1)


def counted(values: list[float]) -> Latencies:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    return latencies


@given(st.lists(SECONDS, min_size=1), PARTS)
def test_a_percentile_is_right_to_a_thousandth(values: list[float], part: Fraction) -> None:
    exact = sorted(values)[math.ceil(part * len(values)) - 1]
    found = counted(values).percentile(part)
    # A nanosecond is the least that is told apart.
    assert exact * (1 - 1e-9) - 1e-9 <= found <= exact * (1 + 1 / 1024) + 1e-9


@given(st.lists(SECONDS, min_size=1), PARTS, PARTS)
@example([0.0, 1e-10], Fraction(1), Fraction(1))  # less than a nanosecond
def test_percentiles_rise_and_stay_within(
    values: list[float], one: Fraction, two: Fraction
) -> None:
    latencies = counted(values)
    low, high = sorted([one, two])
    found = latencies.percentile(low), latencies.percentile(high)
    assert min(values) <= found[0] <= found[1] <= max(values)
    assert latencies.percentile(Fraction(1)) == max(values)
    assert (latencies.least, latencies.most) == (min(values), max(values))
    assert (latencies.count, latencies.mean) == (len(values), latencies.total / len(values))


@given(st.lists(SECONDS, min_size=1), st.integers(1, 20))
def test_bars_have_each_latency_once(values: list[float], number: int) -> None:
    bars = counted(values).bars(number)
    assert sum(each.calls for each in bars) == len(values)
    assert len(bars) in (1, number)
    bounds = [each.seconds for each in bars]
    assert bounds == sorted(bounds)
    assert bounds[-1] == max(*values, 1e-9)
    slack = 1 + 1 / 1024
    for place, bound in enumerate(bounds):
        assert sum(each.calls for each in bars[: place + 1]) <= sum(
            value <= bound * slack + 1e-9 for value in values
        )


def test_without_latencies_all_is_nothing() -> None:
    latencies = Latencies()
    assert (latencies.count, latencies.mean, latencies.bars(10)) == (0, 0.0, [])
    assert latencies.percentile(Fraction(1, 2)) == 0.0


def test_a_clock_that_was_set_back_counts_as_no_time() -> None:
    latencies = counted([-1.0, 2.0])
    assert (latencies.least, latencies.most, latencies.total) == (0.0, 2.0, 2.0)
