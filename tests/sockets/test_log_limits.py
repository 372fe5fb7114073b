"""How many lines the log gets, whatever peers do; in virtual time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from tests.support import examples
from txzmq._rate_limit import KindLimits, RateLimit


def test_each_kind_has_one_line_a_minute() -> None:
    clock = Clock()
    limits = KindLimits(clock)
    assert [limits.take("a") for _ in range(5)] == [0, None, None, None, None]
    assert limits.take("b") == 0
    clock.advance(59.9)
    assert limits.take("a") is None
    clock.advance(0.2)
    assert (limits.take("a"), limits.take("a")) == (5, None)
    assert limits.take("b") == 0
    clock.advance(3600)
    assert limits.take("a") == 1


def test_kinds_over_the_limit_share_a_few_lines() -> None:
    clock = Clock()
    limits = KindLimits(clock)
    lines = [limits.take(number) for number in range(10_000)]
    logged = [number for number, line in enumerate(lines) if line is not None]
    assert logged == list(range(128 + 4))
    clock.advance(31)
    assert limits.take("another") == 10_000 - 132
    clock.advance(30)
    assert [limits.take(number) for number in ("x", "y", 0)] == [0, 0, 0], "there is room again"


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 20)), max_size=400))
@settings(max_examples=examples(100))
def test_lines_and_memory_are_bounded(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    limits = KindLimits(clock)
    told: dict[int, list[float]] = {}
    asked = said = 0
    for kind, seconds in steps:
        clock.advance(seconds)
        asked += 1
        left_out = limits.take(kind)
        if left_out is not None:
            said += 1 + left_out
            told.setdefault(kind, []).append(clock.seconds())
    inside: Any = limits
    assert len(inside._kinds) <= 128
    assert said <= asked
    if len({kind for kind, _ in steps}) <= 128:
        for times in told.values():
            assert all(later - sooner >= 60 for sooner, later in pairwise(times))


def test_a_subject_has_some_lines_at_once_and_then_few() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    assert sum(limit.take() for _ in range(100)) == 4
    clock.advance(30)
    assert sum(limit.take() for _ in range(100)) == 1
