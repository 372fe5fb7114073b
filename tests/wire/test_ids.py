"""Request ids: they never repeat, and a server can tell which came first."""

from __future__ import annotations

from itertools import islice, pairwise

from txzmq._ids import EPOCH_SIZE, ID_SIZE, request_ids


def test_ids_of_one_source_never_repeat_and_grow() -> None:
    source = request_ids()
    ids = [source() for _ in range(70_000)]  # more than 2**16
    assert all(earlier < later for earlier, later in pairwise(ids))
    assert {len(request_id) for request_id in ids} == {ID_SIZE}


def test_ids_of_one_source_share_their_first_half() -> None:
    source = request_ids()
    assert len({source()[:EPOCH_SIZE] for _ in range(10)}) == 1


def test_the_second_half_counts_most_significant_byte_first() -> None:
    source = request_ids()
    counters = [int.from_bytes(source()[EPOCH_SIZE:], "big") for _ in range(300)]
    assert counters == list(range(1, 301))


def test_sources_have_no_id_in_common() -> None:
    # A connection that is made again is a new source: late replies to the old one do not fit.
    sources = [request_ids() for _ in range(100)]
    ids = [source() for source in sources for _ in islice(sources, 10)]
    assert len(set(ids)) == len(ids)
