"""The cache of replies: one run per key, everybody answered once, and every bound kept."""

from __future__ import annotations

from collections import OrderedDict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from txzmq.rpc._server.reply_cache import Join, KeptReply, ReplyCache
from txzmq.rpc.limits import ReplyCacheLimits


def reply(text: bytes = b"reply") -> KeptReply:
    return KeptReply(b"", text)


def test_a_repeated_request_is_answered_and_not_executed() -> None:
    cache: ReplyCache[str] = ReplyCache()
    assert cache.join("k", "first", 0.0) is Join.RUN
    assert cache.join("k", "again", 1.0) is Join.WAIT
    assert cache.finish("k", "first", reply(), 2.0) == ["first", "again"]
    assert cache.join("k", "late", 3.0) == reply()
    assert cache.join("other", "x", 3.0) is Join.RUN


def test_a_reply_grows_old() -> None:
    cache: ReplyCache[str] = ReplyCache(ReplyCacheLimits(age=10))
    cache.join("k", "first", 0.0)
    cache.finish("k", "first", reply(), 5.0)
    assert cache.join("k", "late", 14.9) == reply(), "counted from the answer"
    assert cache.join("k", "later", 15.0) is Join.RUN
    assert (len(cache), cache.size) == (0, 0)
    cache.finish("k", "later", reply(), 16.0)
    cache.join("other", "first", 17.0)
    cache.finish("other", "first", reply(), 26.0)
    assert ("k" in cache, "other" in cache) == (False, True)


def test_a_run_is_over_for_those_who_leave_and_for_no_other() -> None:
    cache: ReplyCache[str] = ReplyCache()
    cache.join("k", "first", 0.0)
    cache.join("k", "again", 0.0)
    assert not cache.leave("k", "first"), "another waits for it: the handler goes on"
    assert cache.finish("k", "first", reply(), 1.0) == ["again"]
    assert not cache.leave("k", "again"), "it had its answer"


def test_when_all_have_left_the_run_may_be_cancelled_and_counts_no_more() -> None:
    cache: ReplyCache[str] = ReplyCache()
    cache.join("k", "first", 0.0)
    assert cache.leave("k", "first")
    assert not cache.leave("k", "first")
    assert cache.join("k", "second", 1.0) is Join.RUN
    assert cache.finish("k", "first", reply(b"of the cancelled run"), 2.0) == []
    assert cache.join("k", "third", 2.0) is Join.WAIT
    assert cache.finish("k", "second", reply(), 3.0) == ["second", "third"]


def test_what_clients_try_again_after_is_not_kept() -> None:
    cache: ReplyCache[str] = ReplyCache()
    cache.join("k", "first", 0.0)
    cache.join("k", "hedge", 0.0)
    assert cache.finish("k", "first", reply(), 1.0, keep=False) == ["first", "hedge"]
    assert cache.join("k", "retry", 2.0) is Join.RUN


def test_too_many_do_not_wait() -> None:
    cache: ReplyCache[int] = ReplyCache(ReplyCacheLimits(waiting=3))
    joins = [cache.join("k", i, 0.0) for i in range(5)]
    assert joins == [Join.RUN, Join.WAIT, Join.WAIT, Join.REFUSE, Join.REFUSE]
    assert cache.finish("k", 0, reply(), 0.0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (ReplyCacheLimits(entries=3), 3),
        (ReplyCacheLimits(size=8 * (512 + 100)), 8),
        (ReplyCacheLimits(size=8 * (512 + 99)), 0),
        (ReplyCacheLimits(entries=0), 0),
    ],
)
def test_the_oldest_goes_first(limits: ReplyCacheLimits, kept: int) -> None:
    cache: ReplyCache[int] = ReplyCache(limits)
    for i in range(20):
        cache.join(i, i, 0.0)
        assert cache.finish(i, i, reply(b"x" * 100), 0.0) == [i]
    assert len(cache) == kept
    assert [i for i in range(20) if cache.join(i, 100 + i, 0.0) == reply(b"x" * 100)] == list(
        range(20 - kept, 20)
    )


def kept(cache: ReplyCache[str], key: object, now: float = 0.0) -> bool:
    cache.expire(now)
    return key in cache


def fill(cache: ReplyCache[str], owner: str, numbers: range, size: int = 5) -> None:
    for number in numbers:
        cache.join((owner, number), "x", 0.0)
        cache.finish((owner, number), "x", reply(bytes(size)), 0.0, owner=owner)


@pytest.mark.parametrize(
    "limits",
    [ReplyCacheLimits(entries=100), ReplyCacheLimits(size=100 * (512 + 5))],
    ids=["entries", "bytes"],
)
def test_nobody_pushes_out_what_another_has_of_an_equal_share(limits: ReplyCacheLimits) -> None:
    cache: ReplyCache[str] = ReplyCache(limits)
    fill(cache, "alice", range(30))
    fill(cache, "bob", range(50))
    fill(cache, "mallory", range(1_000))
    assert all(kept(cache, ("alice", number)) for number in range(30))
    mine = [number for number in range(50) if kept(cache, ("bob", number))]
    assert mine == list(range(17, 50)), "a third, and the oldest went"
    assert [number for number in range(1_000) if kept(cache, ("mallory", number))] == list(
        range(1_000 - 37, 1_000)
    )
    # Where others need no share, one may have all.
    cache.expire(60.0)
    assert (len(cache), cache.size) == (0, 0)
    fill(cache, "mallory", range(1_000, 1_100))
    assert len(cache) == 100


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=80))
def test_each_user_keeps_the_last_of_an_equal_share(answers: list[tuple[str, int]]) -> None:
    limits = ReplyCacheLimits(entries=9, size=9 * (512 + 60))
    cache: ReplyCache[str] = ReplyCache(limits)
    for number, (owner, size) in enumerate(answers):
        fill(cache, owner, range(number, number + 1), size)
        assert len(cache) <= limits.entries
        assert cache.size <= limits.size
    for owner in "abc":
        numbers = [number for number, (who, _) in enumerate(answers) if who == owner]
        assert all(kept(cache, (owner, number)) for number in numbers[-3:])


def test_forgetting_many_costs_the_same_for_each() -> None:
    # Quadratic work would take minutes here.
    cache: ReplyCache[int] = ReplyCache(ReplyCacheLimits(entries=200_000, size=2**40))
    for i in range(100_000):
        cache.join(i, i, 0.0)
        cache.finish(i, i, reply(), 0.0)
    cache.expire(1000.0)
    assert (len(cache), cache.size) == (0, 0)


LIMITS = ReplyCacheLimits(entries=3, size=16_000, age=5.0, waiting=3)
SIZES = st.sampled_from([0, 100, 1400, 3000])


class Caches(RuleBasedStateMachine):
    """The cache beside a model that is too simple to be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: ReplyCache[int] = ReplyCache(LIMITS)
        self.now = 0.0
        self.number = 0
        #: By key: whose run it is, and who waits.
        self.running: dict[str, tuple[int, list[int]]] = {}
        self.kept: OrderedDict[str, tuple[KeptReply, float]] = OrderedDict()
        #: Runs that nobody wants, and that have not ended.
        self.abandoned: list[tuple[str, int]] = []
        self.answers: dict[int, int] = {}

    @rule(key=st.sampled_from("abcdef"))
    def join(self, key: str) -> None:
        self.number += 1
        got = self.cache.join(key, self.number, self.now)
        if key in self.kept:
            assert got == self.kept[key][0]
            self.answers[self.number] = 1
        elif key not in self.running:
            assert got is Join.RUN
            self.running[key] = (self.number, [self.number])
        elif len(self.running[key][1]) == 3:
            assert got is Join.REFUSE
        else:
            assert got is Join.WAIT
            self.running[key][1].append(self.number)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        everybody = [(key, w) for key, (_, waiting) in self.running.items() for w in waiting]
        if not everybody:
            return
        key, waiter = data.draw(st.sampled_from(everybody))
        runner, waiting = self.running[key]
        waiting.remove(waiter)
        assert self.cache.leave(key, waiter) is (not waiting)
        if not waiting:
            del self.running[key]
            self.abandoned.append((key, runner))

    @rule(data=st.data(), size=SIZES, keep=st.booleans())
    def finish(self, data: st.DataObject, size: int, keep: bool) -> None:
        if not self.running:
            return
        key = data.draw(st.sampled_from(sorted(self.running)))
        runner, waiting = self.running.pop(key)
        answer = reply(bytes(size))
        assert self.cache.finish(key, runner, answer, self.now, keep=keep) == waiting
        for waiter in waiting:
            self.answers[waiter] = self.answers.get(waiter, 0) + 1
        if keep and (size + 512) * 8 <= LIMITS.size:
            self.kept[key] = (answer, self.now + LIMITS.age)
            while len(self.kept) > LIMITS.entries:
                self.kept.popitem(last=False)

    @rule()
    def finish_what_nobody_wants(self) -> None:
        for key, runner in self.abandoned:
            assert self.cache.finish(key, runner, reply(b"unwanted"), self.now) == []
        self.abandoned.clear()

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.cache.expire(self.now)
        for key in [key for key, (_, until) in self.kept.items() if until <= self.now]:
            del self.kept[key]

    @invariant()
    def bounds_hold_and_nobody_is_answered_twice(self) -> None:
        assert len(self.cache) == len(self.kept) <= LIMITS.entries
        size = sum(512 + len(kept.body) for kept, _ in self.kept.values())
        assert self.cache.size == size <= LIMITS.size
        assert self.cache.running == len(self.running)
        assert all(count == 1 for count in self.answers.values())


def test_any_history() -> None:
    run_state_machine_as_test(
        Caches,
        settings=settings(
            derandomize=True, database=None, deadline=None, max_examples=100, stateful_step_count=40
        ),
    )


@settings(derandomize=True, database=None, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(600, 30_000))
def test_the_bytes_are_bounded(sizes: list[int], limit: int) -> None:
    cache: ReplyCache[int] = ReplyCache(ReplyCacheLimits(size=limit))
    for i, size in enumerate(sizes):
        cache.join(i, i, 0.0)
        cache.finish(i, i, KeptReply(bytes(size // 2), bytes(size - size // 2)), 0.0)
        assert 0 <= cache.size <= limit
    cache.expire(1e9 + Random(0).random())
    assert cache.size == 0
