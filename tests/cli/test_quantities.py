"""Durations, percentiles and limits on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction

import pytest

pytest.importorskip("click", reason="the extra cli is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import examples
from txzmq._cli.quantities import (
    LatencyLimit,
    Percentile,
    parse_duration,
    parse_latency_limit,
    parse_percentile,
)

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
PARTS = st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(UNITS)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10ms", 0.01),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        (".5", 0.5),
        ("20", 20.0),
        ("3\u03bcs", 3e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_parts_of_a_duration_are_added(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    expected = math.fsum(number * UNITS[unit] for number, unit in parts)
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "s", "10x", "10 s", "-1s", "1e3", "1s5", "nan", "inf", "٣s", "1" * 41, "10ms "]
)
def test_what_is_no_duration_is_told_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write it as 10s, 250ms or 1m30s"):
        parse_duration(text)


@given(st.text(), st.sampled_from([parse_duration, parse_percentile, parse_latency_limit]))
@settings(max_examples=examples(200))
def test_any_text_is_understood_or_refused(text: str, parse: Callable[[str], object]) -> None:
    with suppress(ValueError):
        parse(text)


@given(st.integers(1, 100_000))
def test_percentiles_are_exact(thousandths: int) -> None:
    whole, rest = divmod(thousandths, 1000)
    name = f"p{whole}.{rest:03}"
    assert parse_percentile(name) == Percentile(name, Fraction(thousandths, 100_000))


@pytest.mark.parametrize("text", ["p0", "p100.1", "99", "p", "P99", "p-1", "p1e1", "median"])
def test_what_is_no_percentile(text: str) -> None:
    with pytest.raises(ValueError, match="is no percentile"):
        parse_percentile(text)


@given(st.sampled_from(["p50", "p99.9", "mean", "max"]), PARTS)
def test_limits(name: str, part: tuple[int, str]) -> None:
    text = f"{name}={part[0]}{part[1]}"
    if not part[0]:
        with pytest.raises(ValueError, match="must be above 0"):
            parse_latency_limit(text)
        return
    percentile = parse_percentile(name) if name.startswith("p") else None
    seconds = parse_duration(text.partition("=")[2])
    assert parse_latency_limit(text) == LatencyLimit(name, percentile, seconds)
