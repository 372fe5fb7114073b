"""Policies: where calls go, what moves when endpoints come and go, and what never happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txzmq.rpc.balancing import (
    POLICIES,
    BalancingPolicy,
    ConsistentHash,
    Endpoint,
    LeastLoaded,
    Picker,
    PickFirst,
    RoundRobin,
)
from txzmq.rpc.metadata import Metadata

STEADY = settings(derandomize=True, database=None, deadline=None, max_examples=100)


@dataclass(eq=False)
class At:
    """An endpoint."""

    address: str
    load: int = 0
    weight: int = 1

    def __repr__(self) -> str:
        return self.address


def ends(count: int) -> list[At]:
    return [At(f"tcp://10.0.0.{i}:5000") for i in range(count)]


def weighted(*weights: int) -> list[At]:
    return [At(end.address, weight=w) for end, w in zip(ends(len(weights)), weights, strict=True)]


def key(value: str) -> Metadata:
    return (("other", "x"), ("tenant", value))


MAKERS: list[Callable[[Random], BalancingPolicy]] = [
    lambda random: PickFirst(random=random),
    lambda random: PickFirst(shuffle=True, random=random),
    lambda random: RoundRobin(random=random),
    lambda random: LeastLoaded(random=random),
    lambda random: LeastLoaded(choices=3, random=random),
    lambda random: ConsistentHash("tenant", random=random),
]


@pytest.mark.parametrize("make", MAKERS)
@STEADY
@given(data=st.data())
def test_a_pick_is_ready_and_unused_if_any_is(
    make: Callable[[Random], BalancingPolicy], data: st.DataObject
) -> None:
    policy, known = make(Random(1)), ends(5)
    for _ in range(data.draw(st.integers(1, 5))):
        ready = [e for e in known if data.draw(st.booleans())]
        pick = policy.picker(known, ready)
        for _ in range(6):
            used = [e for e in known if data.draw(st.booleans())]
            metadata = data.draw(st.sampled_from([(), key("a"), key("b")]))
            chosen = pick("/s/m", metadata, used)
            if not ready:
                assert chosen is None
            else:
                assert chosen in ready
                assert chosen not in used or set(ready) <= set(used)


# -- pick_first --------------------------------------------------------------------------------


def test_pick_first_stays_with_the_first_that_works() -> None:
    a, b, c = known = ends(3)
    policy = PickFirst()

    def chosen(*ready: At) -> At | None:
        pick = policy.picker(known, ready)
        picks = {pick("/s/m", (), ()) for _ in range(5)}
        return picks.pop() if len(picks) == 1 else None

    assert chosen() is None
    assert chosen(b, c) is b
    assert chosen(a, b, c) is b, "an earlier one comes back, and nothing moves"
    assert chosen(a, c) is a, "the one in use is lost: the first again that is ready"
    assert chosen(a, b, c) is a
    assert chosen() is None
    assert chosen(b, c) is b


def test_pick_first_stays_when_the_addresses_change() -> None:
    a, b, c = ends(3)
    policy = PickFirst()
    assert policy.picker([b], [b])("/s/m", (), ()) is b
    assert policy.picker([a, b, c], [a, b, c])("/s/m", (), ()) is b


def test_pick_first_shuffles_once_and_differently_per_client() -> None:
    known, firsts = ends(4), Counter[str]()
    for seed in range(200):
        policy = PickFirst(shuffle=True, random=Random(seed))
        first = policy.picker(known, known)("/s/m", (), ())
        assert first is not None
        firsts[first.address] += 1
        others = [e for e in known if e is not first]
        second = policy.picker(known, others)("/s/m", (), ())
        policy.picker(known, [])
        assert policy.picker(known, known)("/s/m", (), ()) is first, "the order has not changed"
        policy.picker(known, [])
        assert policy.picker(known, others)("/s/m", (), ()) is second
    assert all(30 <= firsts[e.address] <= 70 for e in known)


# -- round_robin -------------------------------------------------------------------------------


@STEADY
@given(st.integers(1, 8), st.integers(0, 60), st.integers())
def test_round_robin_gives_each_as_many_as_the_others(count: int, picks: int, seed: int) -> None:
    ready = ends(count)
    pick = RoundRobin(random=Random(seed)).picker(ready, ready)
    counts = Counter(pick("/s/m", (), ()) for _ in range(picks))
    numbers = [counts[e] for e in ready]
    assert max(numbers) - min(numbers) <= 1
    in_turn = [pick("/s/m", (), ()) for _ in range(2 * count)]
    assert in_turn[:count] == in_turn[count:]


def test_round_robin_begins_anywhere() -> None:
    ready = ends(3)
    firsts = {RoundRobin(random=Random(i)).picker(ready, ready)("/s/m", (), ()) for i in range(40)}
    assert firsts == set(ready)


def test_a_retry_is_one_step_of_the_turn() -> None:
    ready = ends(3)
    pick = RoundRobin(random=Random(2)).picker(ready, ready)
    first, second, _ = [pick("/s/m", (), ()) for _ in range(3)]
    assert first is not None
    assert pick("/s/m", (), [first]) is second
    assert pick("/s/m", (), ()) is second


# -- least loaded of two -----------------------------------------------------------------------


@pytest.mark.parametrize("choices", [2, 3])
def test_least_loaded_never_takes_the_most_loaded(choices: int) -> None:
    ready = ends(4)
    ready[1].load = 9
    pick = LeastLoaded(choices=choices, random=Random(3)).picker(ready, ready)
    counts = Counter(pick("/s/m", (), ()) for _ in range(3000))
    assert counts[ready[1]] == 0
    assert all(850 <= counts[e] <= 1150 for e in ready if not e.load)


def test_least_loaded_keeps_a_slow_server_from_filling_up() -> None:
    ready = ends(5)
    pick = LeastLoaded(random=Random(4)).picker(ready, ready)
    ends_at: dict[int, list[At]] = {}
    for now in range(4000):  # a call per tick; the first server is ten times as slow
        for done in ends_at.pop(now, []):
            done.load -= 1
        chosen = pick("/s/m", (), ())
        assert chosen is not None
        chosen.load += 1
        ends_at.setdefault(now + (30 if chosen is ready[0] else 3), []).append(chosen)
    assert ready[0].load <= 3


@pytest.mark.parametrize("choices", [-1, 0, 1, 11])
def test_the_number_of_choices_has_bounds(choices: int) -> None:
    with pytest.raises(ValueError, match="choices must be an integer from 2 to 10"):
        LeastLoaded(choices=choices)


# -- consistent hash ---------------------------------------------------------------------------


def owners(ready: Sequence[At], keys: Sequence[str]) -> dict[str, At | None]:
    pick = ConsistentHash("tenant").picker(ready, ready)
    return {value: pick("/s/m", key(value), ()) for value in keys}


KEYS = [f"tenant-{i}" for i in range(100)]


@STEADY
@given(st.sets(st.integers(0, 255), min_size=2, max_size=12), st.data())
def test_removing_an_endpoint_moves_its_keys_and_no_other(
    numbers: set[int], data: st.DataObject
) -> None:
    ready = [At(f"tcp://10.0.{n}.1:5000") for n in sorted(numbers)]
    gone = data.draw(st.sampled_from(ready))
    before = owners(ready, KEYS)
    after = owners([e for e in ready if e is not gone], KEYS)
    for value in KEYS:
        if before[value] is gone:
            assert after[value] is not gone
        else:
            assert after[value] is before[value]
    assert owners(ready, KEYS) == before, "it comes back, and so do its keys"


@STEADY
@given(st.permutations(ends(6)), st.lists(st.text(max_size=8), max_size=20))
def test_all_clients_agree_whatever_the_order(order: list[At], words: list[str]) -> None:
    first = owners(sorted(order, key=lambda e: e.address), words)
    assert owners(order, words) == first


@pytest.mark.parametrize("count", [2, 10, 40])
def test_consistent_hash_spreads_the_keys(count: int) -> None:
    ready = ends(count)
    counts = Counter(owners(ready, [f"key {i}" for i in range(count * 300)]).values())
    assert all(200 <= counts[e] <= 420 for e in ready)


def test_consistent_hash_tries_the_next_for_another_attempt() -> None:
    ready = ends(4)
    pick = ConsistentHash("tenant").picker(ready, ready)
    home = pick("/s/m", key("a"), ())
    assert home is not None
    again = {pick("/s/m", key("a"), [home]) for _ in range(5)}
    rest = [e for e in ready if e is not home]
    moved = ConsistentHash("tenant").picker(rest, rest)("/s/m", key("a"), ())
    assert again == {moved}, "where the key would go if its endpoint were gone"


def test_consistent_hash_takes_all_values_and_bytes() -> None:
    ready = ends(50)
    pick = ConsistentHash("k-bin").picker(ready, ready)
    one = pick("/s/m", (("k-bin", b"\x00"), ("k-bin", b"\xff")), ())
    assert one is pick("/s/m", (("k-bin", b"\x00"), ("x", "y"), ("k-bin", b"\xff")), ())
    spread = {pick("/s/m", (("k-bin", bytes([i])),), ()) for i in range(200)}
    assert len(spread) > 40


def test_calls_without_the_key_go_anywhere() -> None:
    ready = ends(4)
    pick = ConsistentHash("tenant", random=Random(5)).picker(ready, ready)
    counts = Counter(pick("/s/m", (("other", "x"),), ()) for _ in range(2000))
    assert all(350 <= counts[e] <= 650 for e in ready)


def test_the_ring_is_the_same_in_every_process_and_version() -> None:
    # Clients of two versions must agree where a key lives, so these never change.
    ready = ends(5)
    found = [owners(ready, [f"k{i}"])[f"k{i}"] for i in range(8)]
    assert found == [ready[i] for i in PLACED]


PLACED = [3, 1, 1, 2, 4, 0, 2, 0]

# -- weights -----------------------------------------------------------------------------------

WEIGHTED: dict[str, BalancingPolicy] = {
    "round robin": RoundRobin(random=Random(5)),
    "least loaded": LeastLoaded(random=Random(5)),
    "least loaded of three": LeastLoaded(choices=3, random=Random(5)),
    "consistent hash": ConsistentHash("tenant", random=Random(5)),
    "consistent hash without the key": ConsistentHash("nobody", random=Random(5)),
}


@pytest.mark.parametrize("policy", WEIGHTED.values(), ids=WEIGHTED)
def test_calls_go_where_the_weights_say(policy: BalancingPolicy) -> None:
    """RFC 2782: in proportion, and hardly any to those of weight 0."""
    ready = weighted(60, 30, 10, 0)
    pick = policy.picker(ready, ready)
    counts = Counter(pick("/s/m", key(f"{number}"), ()) for number in range(10_000))
    for end, share in zip(ready, (0.6, 0.3, 0.1, 0), strict=True):
        assert counts[end] / 10_000 == pytest.approx(share, rel=0.3, abs=0.03), end


def test_pick_first_shuffles_by_weight() -> None:
    ready = weighted(60, 30, 10, 0)
    firsts = Counter(
        PickFirst(shuffle=True, random=Random(seed)).picker(ready, ready)("/s/m", (), ())
        for seed in range(2000)
    )
    for end, share in zip(ready, (0.6, 0.3, 0.1, 0), strict=True):
        assert firsts[end] / 2000 == pytest.approx(share, abs=0.05)


def test_round_robin_spreads_the_turns_of_a_heavy_one() -> None:
    ready = weighted(4, 1, 1)
    pick = RoundRobin(random=Random(1)).picker(ready, ready)
    turns = [pick("/s/m", (), ()) for _ in range(60)]
    assert Counter(turns) == dict(zip(ready, (40, 10, 10), strict=True))
    for start in range(54):  # never six in a row
        assert len(set(turns[start : start + 6])) > 1


@pytest.mark.parametrize("weights", [(0, 0, 0), (7, 7, 7), (-1, -1, -1)])
@pytest.mark.parametrize("policy", WEIGHTED.values(), ids=WEIGHTED)
def test_equal_weights_are_none(policy: BalancingPolicy, weights: tuple[int, ...]) -> None:
    ready = weighted(*weights)
    pick = policy.picker(ready, ready)
    counts = Counter(pick("/s/m", key(f"{number}"), ()) for number in range(3000))
    assert all(700 < counts[end] < 1300 for end in ready)


@pytest.mark.parametrize("make", MAKERS)
def test_with_weights_too_a_pick_is_unused_if_any_is(
    make: Callable[[Random], BalancingPolicy],
) -> None:
    endpoints = weighted(0, 5, 100)
    for ready in (endpoints, endpoints[1:], endpoints[:1]):
        pick = make(Random(3)).picker(endpoints, ready)
        for used in ([], [ready[0]], [endpoints[2]], endpoints):
            for number in range(50):
                picked = pick("/s/m", key(f"{number}"), used)
                assert picked in ready
                assert picked not in used or set(ready) <= set(used)


def test_a_heavy_endpoint_that_is_not_ready_moves_its_own_keys_only() -> None:
    endpoints = weighted(100, 50, 10)
    policy = ConsistentHash("tenant")

    def owners_among(ready: Sequence[At]) -> dict[str, At | None]:
        pick = policy.picker(endpoints, ready)
        return {value: pick("/s/m", key(value), ()) for value in KEYS}

    before, after = owners_among(endpoints), owners_among(endpoints[1:])
    assert all(after[value] is before[value] for value in KEYS if before[value] != endpoints[0])


# -- your own, and by name ---------------------------------------------------------------------

E = TypeVar("E", bound=Endpoint)


class LastOnly:
    """A policy as a user writes it."""

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        return lambda path, metadata, used: ready[-1] if ready else None


def test_a_policy_of_ones_own() -> None:
    policy: BalancingPolicy = LastOnly()
    known = ends(3)
    assert policy.picker(known, known[:2])("/s/m", (), ()) is known[1]
    assert policy.picker(known, [])("/s/m", (), ()) is None


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("pick_first", {}, PickFirst),
        ("pick_first", {"shuffleAddressList": True}, PickFirst),
        ("round_robin", {"unknown": 1}, RoundRobin),
        ("least_request", {"choiceCount": 99}, LeastLoaded),
        ("least_request_experimental", {}, LeastLoaded),
        ("ring_hash", {"requestHashHeader": "Tenant"}, ConsistentHash),
    ],
)
def test_policies_by_name(name: str, config: dict[str, object], expected: type) -> None:
    assert type(POLICIES[name](config)) is expected


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("pick_first", {"shuffleAddressList": "yes"}, "shuffleAddressList: must be true or false"),
        ("least_request", {"choiceCount": 1}, "choiceCount: must be an integer of 2 or more"),
        ("least_request", {"choiceCount": True}, "choiceCount: must be an integer of 2 or more"),
        ("ring_hash", {}, "requestHashHeader: must be the metadata key"),
    ],
)
def test_settings_that_are_wrong(name: str, config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        POLICIES[name](config)
