"""What servers did between two looks: no rate is negative, and sums are those of the parts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import examples
from txzmq._cli.rates import MethodRates, Snapshot, added_up, rates_between
from txzmq.rpc.admin import GetServerResponse, MethodFigures

BOUNDS = (0.001, 0.01, 0.1)
PARTS = (0.5, 0.99, 1)


def figures(
    ok: int,
    failed: int = 0,
    counts: list[int] | None = None,
    *,
    in_flight: int = 0,
    queued: int = 0,
) -> MethodFigures:
    return MethodFigures(
        started=ok + failed + in_flight,
        in_flight=in_flight,
        queued=queued,
        ended={code: count for code, count in (("OK", ok), ("NOT_FOUND", failed)) if count},
        seconds_counts=counts or (),
    )


def snapshot(
    seconds: float,
    since: int | None = 1,
    bounds: tuple[float, ...] = BOUNDS,
    **methods: MethodFigures,
) -> Snapshot:
    server = None if since is None else GetServerResponse(since=Timestamp(seconds=since))
    return Snapshot(seconds=seconds, server=server, methods=methods, bounds=bounds)


def test_rates_are_those_of_the_interval() -> None:
    before = snapshot(10, a=figures(100, 5, [100, 5, 0, 0]))
    after = snapshot(12, a=figures(120, 9, [100, 25, 4, 0], in_flight=3, queued=2))
    (found,) = rates_between(before, after)
    assert (found.calls, found.errors) == (13.5, 2.0)
    assert (found.in_flight, found.queued) == (3, 2)
    # Of 24 calls, 20 took up to 10 ms, and 4 up to 100 ms.
    assert found.quantile(0.5) == pytest.approx(0.001 + 0.009 * 12 / 20)
    assert found.quantile(0.99) == pytest.approx(0.01 + 0.09 * (0.99 * 24 - 20) / 4)


def test_a_method_that_was_not_called_before() -> None:
    before = snapshot(10, a=MethodFigures())
    (found,) = rates_between(before, snapshot(11, a=figures(3, 0, [3, 0, 0, 0])))
    assert (found.calls, found.errors, found.quantile(0.5)) == (3, 0, 0.0005)


def test_nothing_is_known_of_the_first_interval() -> None:
    (found,) = rates_between(None, snapshot(1, a=figures(5, counts=[5, 0, 0, 0], in_flight=1)))
    assert (found.calls, found.errors, found.in_flight, found.quantile(0.5)) == (None, None, 1, 0)


@pytest.mark.parametrize(
    "after",
    [
        snapshot(11, since=2, a=figures(100)),  # another process
        snapshot(11, a=figures(9)),  # the same time by chance, and counters that have fallen
        snapshot(11, a=figures(10, 9)),  # so that errors would be fewer
        snapshot(11, a=figures(20, 10, [9, 21, 0, 0])),
        snapshot(11, since=None, a=figures(9)),
        snapshot(11),  # a method that there is not any more, and was called
        snapshot(10, a=figures(20, 10)),  # no time has passed
    ],
)
def test_another_process_at_the_address_begins_anew(after: Snapshot) -> None:
    before = snapshot(10, a=figures(10, 10, [10, 10, 0, 0]))
    assert all(each.calls is each.errors is None for each in rates_between(before, after))
    assert all(each.quantile(0.5) == 0 for each in rates_between(before, after))


COUNTS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


def made(seconds: float, counts: tuple[int, int, int]) -> Snapshot:
    ok, failed, running = counts
    each = figures(ok, failed, [ok, failed, 0, 0], in_flight=running)
    return snapshot(seconds, a=each)


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=4))
def test_no_rate_is_negative_and_sums_add_up(
    servers: list[tuple[tuple[int, int, int], ...]],
) -> None:
    each = [rates_between(made(1, one), made(3, two)) for one, two in servers]
    known = [one for methods in each for one in methods if one.calls is not None]
    for one in known:
        assert one.calls is not None
        assert one.errors is not None
        assert one.calls >= 0
        assert one.errors >= 0
        assert all(count >= 0 for counts in one.counts.values() for count in counts)
    (total,) = added_up(each)
    if known:
        assert total.calls == pytest.approx(sum(one.calls or 0 for one in known))
        assert total.errors == pytest.approx(sum(one.errors or 0 for one in known))
    else:
        assert total.calls is total.errors is None
    assert total.in_flight == sum(two[2] for _, two in servers)


def test_servers_of_several_versions_are_as_slow_as_the_slowest() -> None:
    one = MethodRates(path="a", counts={BOUNDS: [10, 0, 0, 0]})
    other = MethodRates(path="a", counts={(1.0, 2.0): [0, 1, 0]})
    (total,) = added_up([[one], [other]])
    assert total.quantile(0.5) == 1.5
    assert one.counts == {BOUNDS: [10, 0, 0, 0]}  # which others may still use


def test_buckets_that_have_changed_are_not_compared() -> None:
    before = snapshot(1, a=figures(5, counts=[5, 0, 0, 0]))
    (found,) = rates_between(before, snapshot(2, bounds=(1.0,), a=figures(9, counts=[9, 0])))
    assert (found.calls, found.quantile(0.5)) == (4, 0.0)


SIZES = st.integers(0, 2**64 - 1)
#: What a server may say that is not ours.
LIES = st.builds(
    MethodFigures,
    path=st.just("a"),
    started=SIZES,
    in_flight=SIZES,
    queued=SIZES,
    ended=st.dictionaries(st.sampled_from(["OK", "", "what"]), SIZES, max_size=3),
    seconds_counts=st.lists(SIZES, max_size=5),
)


def lied(bounds: list[float], figures: MethodFigures) -> Snapshot:
    return Snapshot(seconds=1, server=None, methods={"a": figures}, bounds=tuple(bounds))


LIED = st.builds(lied, st.lists(st.floats() | st.sampled_from(BOUNDS), max_size=4), LIES)


@settings(max_examples=examples(100))
@given(LIED, LIED, st.booleans())
def test_whatever_a_server_tells_there_are_numbers(
    before: Snapshot, after: Snapshot, same: bool
) -> None:
    bounds = before.bounds if same else after.bounds
    after = replace(after, seconds=2, bounds=bounds)
    found = rates_between(before, after)
    for one in added_up([found, found]):
        assert (one.calls or 0) >= 0
        assert (one.errors or 0) >= 0
        assert all(math.isfinite(one.quantile(part)) for part in PARTS)


@pytest.mark.parametrize(
    ("bounds", "old", "new"),
    [
        (BOUNDS, [1, 0, 0], [3, 0, 0, 0]),
        (BOUNDS, [1, 0, 0, 0], [3, 0, 0]),
        (BOUNDS, [1], [3]),
        (BOUNDS, [], [3]),
        ((), [1, 0], [3, 0]),
        ((), [1], [3]),
        ((0.1, 0.01, 0.2), [1, 0, 0, 0], [3, 0, 0, 0]),
        ((0.1, 0.2, float("nan")), [1, 0, 0, 0], [1, 0, 3, 0]),
        ((0.1, 0.2, float("inf")), [1, 0, 0, 0], [1, 0, 3, 0]),
    ],
)
def test_buckets_that_are_none_are_left_out(
    bounds: tuple[float, ...], old: list[int], new: list[int]
) -> None:
    before = snapshot(1, bounds=bounds, a=figures(1, counts=old))
    (found,) = rates_between(before, snapshot(2, bounds=bounds, a=figures(3, counts=new)))
    assert (found.calls, found.counts) == (2, {})
