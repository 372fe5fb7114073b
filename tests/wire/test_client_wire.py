"""The client's end: which reply ends which call, and what becomes of all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import WIRE, frames, response_heads
from txzmq.rpc._wire.batches import unpack
from txzmq.rpc._wire.client import ClientWire, Reply
from txzmq.rpc._wire.headers import OK, ResponseHead, encode_response
from txzmq.rpc.errors import Code

#: What comes behind the id of a waiting call, and how the call ends.
CASES: dict[str, tuple[list[bytes], ResponseHead | str]] = {
    "a success": ([b"", b"", b"body"], OK),
    "a success without a body": ([b"", b"", b""], OK),
    "a success with metadata": (
        [b"", encode_response(ResponseHead(trailing=(("a", "1"),))), b"body"],
        ResponseHead(trailing=(("a", "1"),)),
    ),
    "an error": (
        [b"", encode_response(ResponseHead(Code.NOT_FOUND, "x")), b""],
        ResponseHead(Code.NOT_FOUND, "x"),
    ),
    "nothing": ([], "has 4 parts, not 1"),
    "no header": ([b""], "has 4 parts, not 2"),
    "no body": ([b"", b""], "has 4 parts, not 3"),
    "too many parts": ([b"", b"", b"body", b"more"], "has 4 parts, not 5"),
    "200,000 parts": ([b""] * 200_000, "not 200001"),
    "no empty part": ([b"x", b"", b"body"], "the second is empty"),
    "a header of another kind": ([b"", b"\xff\xff", b"body"], "cannot be parsed"),
    "a large header": ([b"", bytes(65_537), b"body"], "more than 65536"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("garbage", [False, True])
def test_how_a_reply_ends_its_call(case: str, garbage: bool) -> None:
    wire: ClientWire[str] = ClientWire()
    request_id = wire.request("call", b"header", b"request")[0]
    others = [wire.request(f"other {number}", b"", b"")[0] for number in range(3)]
    if garbage:
        for parts, _ in CASES.values():
            assert wire.receive([b"never asked for.", *parts]) is None
    before = wire.dropped.total()
    parts, expected = CASES[case]
    reply = wire.receive([request_id, *parts])
    assert reply is not None
    assert reply.call == "call"
    if isinstance(expected, str):
        assert reply.head.code is Code.INTERNAL
        assert expected in reply.head.message
        assert wire.dropped.total() == before + 1
    else:
        assert (reply.head, reply.body) == (expected, parts[2])
        assert wire.dropped.total() == before
    assert wire.receive([request_id, *parts]) is None  # it ends once
    assert [wire.forget(other) for other in others] == ["other 0", "other 1", "other 2"]


@pytest.mark.parametrize("parts", range(4))
def test_a_message_of_too_few_parts_is_dropped(parts: int) -> None:
    """One without any, too, which a network may give."""
    wire: ClientWire[str] = ClientWire()
    request_id = wire.request("call", b"", b"")[0]
    assert wire.receive([b"no id", b"", b""][:parts]) is None
    assert wire.dropped == {"malformed": 1}
    assert wire.forget(request_id) == "call"


def test_a_request_is_four_parts() -> None:
    wire: ClientWire[str] = ClientWire()
    request_id, *rest = wire.request("call", b"header", b"body")
    assert len(request_id) == 16
    assert rest == [b"", b"header", b"body"]


def test_late_duplicate_and_unknown_replies_are_dropped_and_counted() -> None:
    wire: ClientWire[str] = ClientWire()
    answered, given_up, lost = (wire.request(call, b"", b"")[0] for call in "abc")
    assert wire.receive([answered, b"", b"", b"1"]) == Reply("a", OK, b"1")
    assert wire.receive([answered, b"", b"", b"2"]) is None
    assert wire.forget(given_up) == "b"
    assert wire.forget(given_up) is None
    assert wire.receive([given_up, b"", b"", b""]) is None
    assert wire.forget_all() == ["c"]
    assert wire.receive([lost, b"", b"", b""]) is None
    assert wire.receive([b"never asked for.", b"", b"", b""]) is None
    assert wire.dropped == {"duplicate reply": 1, "late reply": 2, "unknown reply": 1}
    assert wire.receive([given_up, b"", b"", b""]) is None  # the second time
    assert wire.dropped["duplicate reply"] == 2
    assert wire.drops == wire.dropped.total() == 5
    assert len(wire) == 0


def test_what_became_of_a_call_is_known_for_thousands_of_later_ones() -> None:
    wire: ClientWire[int] = ClientWire()
    given_up, answered = (wire.request(call, b"", b"")[0] for call in range(2))
    wire.forget(given_up)
    assert wire.receive([answered, b"", b"", b""]) is not None
    for call in range(8000):
        assert wire.receive([wire.request(call, b"", b"")[0], b"", b"", b""]) is not None
    assert wire.receive([answered, b"", b"", b""]) is None
    assert wire.receive([given_up, b"", b"", b""]) is None
    assert wire.dropped == {"duplicate reply": 1, "late reply": 1}
    for call in range(8000):
        wire.forget(wire.request(call, b"", b"")[0])
    assert wire.receive([answered, b"", b"", b""]) is None  # long ago: late at any rate
    assert wire.dropped == {"duplicate reply": 1, "late reply": 2}
    latest = wire.id_of(wire.latest + 1)
    assert wire.receive([latest, b"", b"", b""]) is None
    assert wire.dropped["unknown reply"] == 1  # not yet made


@pytest.mark.parametrize("count", [1, 3])
def test_calls_without_replies_have_ids_and_wait_for_nothing(count: int) -> None:
    wire: ClientWire[str] = ClientWire()
    wire.request("before", b"", b"")
    bodies = [bytes([number]) for number in range(count)]
    message = wire.unanswered(b"header", bodies)
    last, *_ = wire.request("after", b"", b"")
    assert len(wire) == 2
    assert int.from_bytes(last[8:], "big") == count + 2
    if count == 1:
        assert message == [wire.id_of(2), b"", b"header", bodies[0]]
    else:
        headers, packed = unpack(message[2])
        assert headers == [b"header"]
        assert [(counter, body) for counter, _, body in packed] == [
            (number + 2, body) for number, body in enumerate(bodies)
        ]
    # A server may answer all the same, with an error.
    assert wire.receive([wire.id_of(2), b"", b"", b""]) is None
    assert wire.dropped == {"late reply": 1}


def test_calls_are_given_up_oldest_first() -> None:
    wire: ClientWire[int] = ClientWire()
    for call in range(100):
        wire.request(call, b"", b"")
    assert wire.forget_all() == list(range(100))
    assert wire.forget_all() == []


@WIRE
@given(st.lists(frames, max_size=20))
def test_strangers_send_what_they_like(messages: list[list[bytes]]) -> None:
    wire: ClientWire[str] = ClientWire()
    waiting = [wire.request("call", b"", b"")[0] for _ in range(5)]
    for message in messages:
        assert wire.receive(list(message)) is None
    assert wire.dropped.total() == len(messages)
    assert [wire.forget(request_id) for request_id in waiting] == ["call"] * 5


@WIRE
@given(frames)
def test_a_reply_whatever_it_is_ends_its_call_and_no_other(parts: list[bytes]) -> None:
    wire: ClientWire[str] = ClientWire()
    request_id = wire.request("call", b"", b"")[0]
    wire.request("other", b"", b"")
    reply = wire.receive([request_id, *parts])
    assert reply is not None
    assert reply.call == "call"
    assert reply.head.message.isprintable()
    assert len(wire) == 1


@WIRE
@given(st.permutations(range(5)), st.lists(response_heads, min_size=5, max_size=5))
def test_replies_in_any_order_find_their_calls(order: list[int], heads: list[ResponseHead]) -> None:
    wire: ClientWire[int] = ClientWire()
    ids = [wire.request(call, b"", b"")[0] for call in range(5)]
    for call in order:
        body = b"%d" % call
        reply = wire.receive([ids[call], b"", encode_response(heads[call]), body])
        assert reply == Reply(call, heads[call], body)
    assert len(wire) == 0


def test_a_notice_tells_a_server_that_shuts_down_from_a_connection_that_is_old() -> None:
    wire: ClientWire[str] = ClientWire()
    for head, told in (
        (ResponseHead(reconnect=True), (False, False)),  # means nothing without draining
        (ResponseHead(draining=True, reconnect=True), (False, True)),
        (ResponseHead(draining=True), (True, True)),
    ):
        assert wire.receive([wire.id_of(0), b"", encode_response(head), b""]) is None
        assert (wire.draining, wire.reconnect) == told
    assert wire.dropped == {"unknown reply": 1}
    wire.forget_notice()
    assert (wire.draining, wire.reconnect) == (False, False)
