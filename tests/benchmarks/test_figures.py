from __future__ import annotations

import math

import pytest

from benchmarks.figures import (
    Figures,
    Interval,
    Sample,
    figures_of,
    median,
    median_interval,
    percentile,
    ratio,
)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0], 51, 2.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 50, 50.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 101)], 100, 100.0),
        ([float(n) for n in range(1, 1001)], 99, 990.0),
        ([float(n) for n in range(1, 102)], 99, 100.0),
    ],
)
def test_percentile_is_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


@pytest.mark.parametrize("percent", [0, -1, 100.5])
def test_percentile_rejects_what_is_none(percent: float) -> None:
    with pytest.raises(ValueError, match="no percentage"):
        percentile([1.0], percent)


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_figures_are_per_call() -> None:
    sample = Sample(calls=200, elapsed=0.5, p50=0.001, p99=0.002, client_cpu=0.1, server_cpu=0.2)
    assert figures_of(sample) == pytest.approx(Figures(400, 0.001, 0.002, 0.0005, 0.001))


def test_median_takes_each_figure_by_itself() -> None:
    rounds = [Figures(1, 9, 5, 5, 0), Figures(2, 8, 7, 5, 0), Figures(30, 1, 6, 5, 3)]
    assert median(rounds) == Figures(2, 8, 6, 5, 0)
    assert median(rounds[:2]) == Figures(1.5, 8.5, 6, 5, 0)


def test_median_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no figures"):
        median([])


def test_ratio_is_ours_by_theirs() -> None:
    assert ratio(Figures(10, 1, 2, 3, 4), Figures(5, 2, 2, 1, 0)) == Figures(2, 0.5, 1, 3, math.inf)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, Interval(1, 1, 0)),
        (2, Interval(1, 2, 0.5)),
        (4, Interval(1, 4, 0.875)),
        (5, Interval(1, 5, 0.9375)),
        (7, Interval(1, 7, 1 - 2 / 128)),
        (8, Interval(2, 7, 1 - 18 / 256)),
        (11, Interval(3, 9, 1 - 2 * (1 + 11 + 55) / 2048)),
    ],
)
def test_a_median_lies_between_two_order_statistics(count: int, expected: Interval) -> None:
    values = [float(n) for n in range(count, 0, -1)]
    assert median_interval(values) == pytest.approx(expected)


def test_the_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        median_interval([])
