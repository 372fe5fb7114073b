"""Who takes part in shared streams, without streams."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from txzmq.rpc._server.shared import SharedCallers
from txzmq.testing._leftovers import leftovers

ONE: Any = "one"
OTHER: Any = "other"


def test_the_oldest_call_leaves() -> None:
    """The newest one may be cancelled by a client that has not heard of it yet."""
    callers: SharedCallers[Any] = SharedCallers()
    callers.join(ONE, (b"A", b"1"), 0)
    callers.join(ONE, (b"A", b"2"), 0)
    callers.leave(ONE, b"A")
    assert callers.leave_by_call((b"A", b"2")) == ONE
    assert len(callers) == callers.of_owner(b"A") == callers.of_run(ONE) == 0


def test_a_key_that_is_used_again_counts_again() -> None:
    callers: SharedCallers[Any] = SharedCallers()
    for _ in range(3):
        callers.join(ONE, (b"A", b"1"), 0)
    assert len(callers) == callers.of_owner(b"A") == callers.of_run(ONE) == 3
    for left in (2, 1, 0):
        callers.leave(ONE, b"A")
        assert len(callers) == callers.of_owner(b"A") == callers.of_run(ONE) == left


def test_who_comes_back_twice_counts_twice() -> None:
    callers: SharedCallers[Any] = SharedCallers()
    callers.join(ONE, (b"A", b"1"), 0)
    callers.join(ONE, (b"A", b"2"), 0)
    callers.lost(b"A")
    callers.join(ONE, (b"B", b"1"), 0)
    callers.claim(ONE, b"B", 2, 0, 0)
    assert callers.of_owner(b"B") == 2
    callers.leave_by_call((b"B", b"1"))
    callers.claim(ONE, b"B", 2, 0, 0)
    assert len(callers) == callers.of_owner(b"B") == callers.of_run(ONE) == 2
    callers.lost(b"B")
    assert (len(callers), callers.of_run(ONE)) == (0, 2)
    callers.forget_absent(ONE)
    assert callers.of_run(ONE) == 0


def test_who_claims_fewer_has_left_with_the_others_unless_they_are_new() -> None:
    callers: SharedCallers[Any] = SharedCallers(grace=5)
    for number, joined in ((b"1", 0), (b"2", 1), (b"3", 8)):
        callers.join(ONE, (b"A", number), joined)
    callers.claim(ONE, b"A", 1, 10, 0)
    assert callers.of_owner(b"A") == 1
    callers.join(ONE, (b"A", b"4"), 10)
    callers.claim(ONE, b"A", 0, 11, 0)
    assert callers.of_owner(b"A") == 2, "it may not know of them yet"
    callers.claim(ONE, b"A", 0, 20, 0)
    assert callers.of_run(ONE) == 0


def test_who_was_given_up_may_claim_its_calls_where_there_is_room() -> None:
    callers: SharedCallers[Any] = SharedCallers()
    callers.join(ONE, (b"A", b"1"), 0)
    callers.join(ONE, (b"B", b"1"), 0)
    callers.forget(ONE, b"A")
    assert set(callers.silent_since(ONE)) == {b"B"}
    callers.claim(ONE, b"A", 3, 30, 2)
    assert callers.of_owner(b"A") == 2
    assert callers.silent_since(ONE) == {b"A": 30, b"B": 0}


STREAMS = st.sampled_from([ONE, OTHER])
PEERS = st.sampled_from([b"A", b"B"])
#: Those that a peer with a bad mind may choose, too: with more frames, and used again.
KEYS = st.tuples(PEERS, st.sampled_from([b"0", b"1"])) | st.tuples(
    PEERS, st.just(b"one"), st.sampled_from([b"0", b"1"])
)
MOVES = st.one_of(
    st.tuples(st.just("join"), STREAMS, KEYS, st.integers(0, 9)),
    st.tuples(st.just("leave"), STREAMS, PEERS),
    st.tuples(st.just("leave_by_call"), KEYS),
    st.tuples(st.just("lost"), PEERS),
    st.tuples(
        st.just("claim"),
        STREAMS,
        PEERS,
        st.integers(0, 4),
        st.integers(0, 9),
        st.integers(-1, 2),
    ),
    st.tuples(st.just("heard"), STREAMS, PEERS, st.integers(0, 9)),
    st.tuples(st.just("forget"), STREAMS, PEERS),
    st.tuples(st.just("forget_absent"), STREAMS),
    st.tuples(st.just("dismiss"), STREAMS),
)


@given(st.lists(MOVES, max_size=40))
def test_whatever_peers_do_the_counts_agree(moves: list[Any]) -> None:
    callers: SharedCallers[Any] = SharedCallers()
    for name, *arguments in moves:
        getattr(callers, name)(*arguments)
        assert len(callers) == callers.of_owner(b"A") + callers.of_owner(b"B")
        # Those that are absent count for their streams alone.
        assert callers.of_run(ONE) + callers.of_run(OTHER) >= len(callers) >= 0
        for run in (ONE, OTHER):
            assert sum(callers.of_owner(peer) for peer in callers.silent_since(run)) >= len(
                callers.silent_since(run)
            )
    for stream in (ONE, OTHER):
        callers.dismiss(stream)
    assert len(callers) == callers.of_run(ONE) == callers.of_run(OTHER) == 0
    assert leftovers(callers) == []
