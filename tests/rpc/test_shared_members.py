"""Who takes part in shared streams, without streams."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.leftovers import leftovers
from txzmq.rpc._server.shared import Members

ONE: Any = "one"
OTHER: Any = "other"


def test_the_oldest_call_leaves() -> None:
    """The newest one may be cancelled by a client that has not heard of it yet."""
    members: Members[Any] = Members()
    members.join(ONE, (b"A", b"1"))
    members.join(ONE, (b"A", b"2"))
    assert members.leave(ONE, b"A")
    assert members.leave_by_call((b"A", b"2")) == ONE
    assert len(members) == members.of_peer(b"A") == members.of_stream(ONE) == 0


def test_a_key_that_is_used_again_counts_again() -> None:
    members: Members[Any] = Members()
    for _ in range(3):
        members.join(ONE, (b"A", b"1"))
    assert len(members) == members.of_peer(b"A") == members.of_stream(ONE) == 3
    for left in (2, 1, 0):
        assert members.leave(ONE, b"A")
        assert len(members) == members.of_peer(b"A") == members.of_stream(ONE) == left


def test_who_comes_back_twice_counts_twice() -> None:
    members: Members[Any] = Members()
    members.join(ONE, (b"A", b"1"))
    members.join(ONE, (b"A", b"2"))
    members.lost(b"A")
    members.join(ONE, (b"B", b"1"))
    assert members.came_back(ONE, b"B", 2) == 1
    members.leave_by_call((b"B", b"1"))
    assert members.came_back(ONE, b"B", 2) == 1
    assert len(members) == members.of_peer(b"B") == members.of_stream(ONE) == 2
    members.lost(b"B")
    assert (len(members), members.of_stream(ONE)) == (0, 2)


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
    members: Members[Any] = Members()
    for name, *arguments in moves:
        getattr(members, name)(*arguments)
        assert len(members) == members.of_peer(b"A") + members.of_peer(b"B")
        # Those that are absent count for their streams alone.
        assert members.of_stream(ONE) + members.of_stream(OTHER) >= len(members) >= 0
    for stream in (ONE, OTHER):
        members.dismiss(stream)
    assert len(members) == members.of_stream(ONE) == members.of_stream(OTHER) == 0
    assert leftovers(members) == []
