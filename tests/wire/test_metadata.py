"""Metadata: gRPC's rules, in both directions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import KEY, PRINTABLE, WIRE, metadata
from txzmq.rpc import metadata as words
from txzmq.rpc._wire import metadata as wire
from txzmq.rpc._wire.metadata import add_to, from_wire, request_fields
from txzmq.rpc.metadata import (
    MAX_KNOWN_KEY,
    Metadata,
    check_size,
    known_key_takes_bytes,
    normalise,
)
from txzmq.rpc.v1.header_pb2 import Metadatum, RequestHeader

ALLOWED: list[Any] = [
    (None, ()),
    ({}, ()),
    ({"a": "1"}, (("a", "1"),)),
    ({"a-bin": b"\0\xff"}, (("a-bin", b"\0\xff"),)),
    ([("a", "1"), ("b", "2"), ("a", "1")], (("a", "1"), ("b", "2"), ("a", "1"))),
    (iter([("a", "")]), (("a", ""),)),
    ({"0_.-z": PRINTABLE}, (("0_.-z", PRINTABLE),)),
    ({"-bin": b""}, (("-bin", b""),)),
    ({"traceparent": "00-1-2-01", "authorization": "Bearer x"},) * 2,
]


def on_the_wire(pairs: Metadata) -> list[Metadatum]:
    header = RequestHeader()
    add_to(header.metadata, pairs)
    return list(header.metadata)


@pytest.mark.parametrize(("given", "expected"), ALLOWED)
def test_what_a_caller_may_give(given: Any, expected: Metadata | dict[str, str]) -> None:
    pairs = tuple(expected.items()) if isinstance(expected, dict) else expected
    assert normalise(given) == pairs


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"": "1"}, ValueError, "characters"),
        ({"A": "1"}, ValueError, "characters"),
        ({"a b": "1"}, ValueError, "characters"),
        ({"a\n": "1"}, ValueError, "characters"),
        ({":path": "1"}, ValueError, "characters"),
        ({"ä": "1"}, ValueError, "characters"),
        ({"٣": "1"}, ValueError, "characters"),  # a digit, but not ASCII
        ({"txzmq-x": "1"}, ValueError, "reserved"),
        ({"a": "ä"}, ValueError, "name it a-bin"),
        ({"a": "1\n"}, ValueError, "printable"),
        ({"a": "\0"}, ValueError, "printable"),
        ({"a": b"1"}, TypeError, "ends in -bin"),
        ({"a": 1}, TypeError, "must be str, not int"),
        ({"a-bin": "1"}, TypeError, "must be bytes, not str"),
        ({1: "1"}, TypeError, "must be str, not int"),
        ({b"a": "1"}, TypeError, "must be str, not bytes"),
        ([("a", "1")] * 1025, ValueError, "1025 pairs, more than 1024"),
        ([("a", "1"), ("a", ["1"])], TypeError, "must be str, not list"),
    ],
)
def test_what_a_caller_may_not_give(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        normalise(given)


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"", b"1")],
        [(b"A", b"1")],
        [(b"a b", b"1")],
        [(b"a\n", b"1")],
        [(b"\xc3\xa4", b"1")],
        [(b"a", b"\xc3\xa4")],
        [(b"a", b"\x80")],
        [(b"a", b"1\n")],
        [(b"good", b"1"), (b"a", b"\0")],
        [(b"a", b"")] * 1025,
    ],
)
def test_what_a_peer_may_not_send(pairs: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match=r"metadata|codec"):
        from_wire([Metadatum(key=key.decode(), value=value) for key, value in pairs])


def test_keys_of_later_versions_of_the_protocol_are_left_out() -> None:
    pairs = [("txzmq-new", b"1"), ("a", b"2"), ("txzmq-new-bin", b"\xff")]
    assert from_wire([Metadatum(key=key, value=value) for key, value in pairs]) == (("a", "2"),)


def test_size_is_counted_as_grpc_counts_it() -> None:
    assert check_size((("abc", "de"), ("f-bin", b"\0")), 32 + 5 + 32 + 6)
    assert not check_size((("abc", "de"), ("f-bin", b"\0")), 32 + 5 + 32 + 6 - 1)
    assert check_size((), 0)


@WIRE
@given(metadata)
def test_metadata_arrives_as_it_was_given(pairs: Metadata) -> None:
    assert normalise(pairs) == pairs
    assert from_wire(on_the_wire(pairs)) == pairs


@WIRE
@given(st.text(), st.binary())
def test_what_arrives_could_have_been_given(key: str, value: bytes) -> None:
    try:
        pairs = from_wire([Metadatum(key=key, value=value)])
    except ValueError:
        return
    assert normalise(pairs) == pairs


@WIRE
@given(st.text(KEY + "A \n", max_size=5), st.text(PRINTABLE + "\nä", max_size=5))
def test_what_may_be_given_arrives(key: str, value: str) -> None:
    try:
        pairs = normalise({key: value})
    except (TypeError, ValueError):
        return
    assert from_wire(on_the_wire(pairs)) == pairs


@given(metadata)
def test_a_request_has_it_as_protobuf_puts_it(pairs: Metadata) -> None:
    header = RequestHeader()
    add_to(header.metadata, pairs)
    for _ in range(2):  # made, and kept
        assert normalise(pairs) == pairs
        assert request_fields(pairs) == header.SerializeToString()


def test_what_is_kept_of_it_is_bounded() -> None:
    for number in range(3_000):
        pairs = normalise([("n", str(number)), ("large", f"{number:0300}"), ("same", "x")])
        assert request_fields(pairs)
    kept: list[Collection[tuple[str, str | bytes]]]
    kept = [vars(words)["_checked"], vars(wire)["_request_fields"]]
    assert all(len(table) <= 1024 for table in kept)
    assert all(len(key) + len(value) <= 256 for table in kept for key, value in table)


def test_what_is_kept_of_what_peers_send_is_bounded() -> None:
    for number in range(3_000):
        keys = f"n{number}", f"{number:0300}", "same"
        assert len(from_wire(on_the_wire(tuple((key, "x") for key in keys)))) == 3
    kept = known_key_takes_bytes.cache_info()
    assert kept.maxsize is not None
    assert 1 < kept.currsize <= kept.maxsize


@pytest.mark.parametrize("size", [MAX_KNOWN_KEY, MAX_KNOWN_KEY + 1])
def test_long_keys_of_peers_are_not_kept(size: int) -> None:
    known_key_takes_bytes.cache_clear()
    from_wire(on_the_wire((("k" * size, "x"),)))
    assert known_key_takes_bytes.cache_info().currsize == (size == MAX_KNOWN_KEY)


def test_a_pair_is_serialised_as_protobuf_does_it_whatever_its_size() -> None:
    for key in ("k", "k-bin", "k" * 60, "k" * 123, "k" * 200):
        for size in (*range(4), *range(55, 70), *range(110, 140), 300):
            pair = key, b"\xff" * size if key == "k-bin" else "v" * size
            header = RequestHeader()
            add_to(header.metadata, (pair,))
            assert request_fields((pair,)) == header.SerializeToString()
