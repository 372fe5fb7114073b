"""Who takes part in shared streams, without streams."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.leftovers import leftovers
from txzmq.rpc._server.shared import SharedCallers

ONE: Any = "one"
OTHER: Any = "other"


def test_the_oldest_call_leaves() -> None:
    """The newest one may be cancelled by a client that has not heard of it yet."""
    callers: SharedCallers[Any] = SharedCallers()
    callers.join(ONE, (b"A", b"1"))
    callers.join(ONE, (b"A", b"2"))
    assert callers.leave(ONE, b"A")
    assert callers.leave_by_call((b"A", b"2")) == ONE
    assert len(callers) == callers.of_peer(b"A") == callers.of_run(ONE) == 0


def test_a_key_that_is_used_again_counts_again() -> None:
    callers: SharedCallers[Any] = SharedCallers()
    for _ in range(3):
        callers.join(ONE, (b"A", b"1"))
    assert len(callers) == callers.of_peer(b"A") == callers.of_run(ONE) == 3
    for left in (2, 1, 0):
        assert callers.leave(ONE, b"A")
        assert len(callers) == callers.of_peer(b"A") == callers.of_run(ONE) == left


def test_who_comes_back_twice_counts_twice() -> None:
    callers: SharedCallers[Any] = SharedCallers()
    callers.join(ONE, (b"A", b"1"))
    callers.join(ONE, (b"A", b"2"))
    callers.lost(b"A")
    callers.join(ONE, (b"B", b"1"))
    assert callers.came_back(ONE, b"B", 2) == 1
    callers.leave_by_call((b"B", b"1"))
    assert callers.came_back(ONE, b"B", 2) == 1
    assert len(callers) == callers.of_peer(b"B") == callers.of_run(ONE) == 2
    callers.lost(b"B")
    assert (len(callers), callers.of_run(ONE)) == (0, 2)


STREAMS = st.sampled_from([ONE, OTHER])
PEERS = st.sampled_from([b"A", b"B"])
#: Those that a peer with a bad mind may choose, too: with more frames, and used again.
KEYS = st.tuples(PEERS, st.sampled_from([b"0", b"1"])) | st.tuples(
    PEERS, st.just(b"one"), st.sampled_from([b"0", b"1"])
)
MOVES = st.one_of(
    st.tuples(st.just("join"), STREAMS, KEYS),
    st.tuples(st.just("leave"), STREAMS, PEERS),
    st.tuples(st.just("leave_by_call"), KEYS),
    st.tuples(st.just("lost"), PEERS),
    st.tuples(st.just("came_back"), STREAMS, PEERS, st.integers(0, 4)),
    st.tuples(st.just("dismiss"), STREAMS),
)


@given(st.lists(MOVES, max_size=40))
def test_whatever_peers_do_the_counts_agree(moves: list[Any]) -> None:
    callers: SharedCallers[Any] = SharedCallers()
    for name, *arguments in moves:
        getattr(callers, name)(*arguments)
        assert len(callers) == callers.of_peer(b"A") + callers.of_peer(b"B")
        # Those that are absent count for their streams alone.
        assert callers.of_run(ONE) + callers.of_run(OTHER) >= len(callers) >= 0
    for stream in (ONE, OTHER):
        callers.dismiss(stream)
    assert len(callers) == callers.of_run(ONE) == callers.of_run(OTHER) == 0
    assert leftovers(callers) == []
