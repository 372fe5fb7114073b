"""The server's end: what is a request, what is refused, what is dropped, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import WIRE, frames, request_heads
from txzmq._ids import ID_SIZE, request_ids
from txzmq.rpc._wire.headers import RequestHead, encode_request
from txzmq.rpc._wire.server import Refusal, Request, ServerWire

HEAD = RequestHead("/demo.Greeter/SayHello", 1_500_000, (("tenant", "a"),))
HEADER = encode_request(HEAD)
PEER, OTHER_PEER = b"\0\0\0\0\1", b"\0\0\0\0\2"


def an_id(counter: int, epoch: bytes = b"8 random") -> bytes:
    return epoch + counter.to_bytes(8, "big")


ID = an_id(7)
PROXIED = [b"p1", b"p2", b"p3", b"p4"]

#: What comes behind the peer's routing id, and what the server makes of it: a head and a body, the
#: words of a refusal, or nothing.
CASES: dict[str, tuple[list[bytes], tuple[RequestHead, bytes] | str | None]] = {
    "a request": ([ID, b"", HEADER, b"body"], (HEAD, b"body")),
    "an empty body": ([ID, b"", HEADER, b""], (HEAD, b"")),
    "a proxy": ([b"p1", ID, b"", HEADER, b"body"], (HEAD, b"body")),
    "four proxies": ([*PROXIED, ID, b"", HEADER, b"body"], (HEAD, b"body")),
    "five proxies": ([b"p0", *PROXIED, ID, b"", HEADER, b"body"], None),
    "a proxy's id of 255 bytes": ([b"p" * 255, ID, b"", HEADER, b"body"], (HEAD, b"body")),
    "a proxy's id of 256 bytes": ([b"p" * 256, ID, b"", HEADER, b"body"], None),
    "nothing": ([], None),
    "one empty part": ([b""], None),
    "one part": ([ID], None),
    "no empty part": ([ID, HEADER, b"body"], None),
    "no id": ([b"", HEADER, b"body"], None),
    "a short id": ([b"id", b"", HEADER, b"body"], "has 16 bytes, not 2"),
    "a long id": ([b"i" * 17, b"", HEADER, b"body"], "has 16 bytes, not 17"),
    "an endless id": ([b"i" * 4_000_000, b"", HEADER, b"body"], None),
    "an endless id behind a proxy": ([b"p1", b"i" * 4_000_000, b"", HEADER, b""], None),
    "no header": ([ID, b""], "has 5 parts here, not 3"),
    "no body": ([ID, b"", HEADER], "has 5 parts here, not 4"),
    "too many parts": ([ID, b"", HEADER, b"body", b"more"], "has 5 parts here, not 6"),
    "too many parts behind a proxy": ([b"p1", ID, b"", HEADER, b"", b""], "6 parts here, not 7"),
    "200,000 empty parts": ([b""] * 200_000, None),
    "200,000 empty parts behind an id": ([ID, *[b""] * 200_000], "not 200002"),
    "200,000 parts": ([b"x"] * 200_000, None),
    "an empty header": ([ID, b"", b"", b"body"], "path"),
    "a header of another kind": ([ID, b"", b"\xff\xff", b"body"], "cannot be parsed"),
    "a truncated header": ([ID, b"", HEADER[:-1], b"body"], "cannot be parsed"),
    "a large header": ([ID, b"", bytes(65_537), b"body"], "65537 bytes, more than 65536"),
}


def check(wire: ServerWire[str], case: str, peer: bytes = PEER) -> None:
    parts, expected = CASES[case]
    event = wire.receive([peer, *parts])
    if expected is None:
        assert event is None
    elif isinstance(expected, str):
        assert isinstance(event, Refusal)
        assert expected in event.reason
    else:
        assert isinstance(event, Request)
        assert (event.head, event.body) == expected
        assert event.key == (peer, *parts[:-3])


def test_what_a_client_says_it_is() -> None:
    wire: ServerWire[str] = ServerWire()
    said: list[tuple[bytes, str]] = []
    header = encode_request(HEAD._replace(user_agent="txzmq/2.0.0"))
    next_id = request_ids()
    wire.receive([PEER, next_id(), b"", header, b""])  # nobody wants to know
    wire.when_introduced(lambda peer, agent: said.append((peer, agent)))
    wire.receive([PEER, next_id(), b"", encode_request(HEAD), b""])
    wire.receive([PEER, b"p1", next_id(), b"", header, b""])  # a client behind a proxy
    assert said == []
    wire.receive([PEER, next_id(), b"", header, b""])
    assert said == [(PEER, "txzmq/2.0.0")]


@pytest.mark.parametrize("case", CASES)
def test_what_the_server_makes_of_a_message(case: str) -> None:
    wire: ServerWire[str] = ServerWire()
    check(wire, case)
    understood = isinstance(CASES[case][1], tuple)
    assert wire.dropped == ({} if understood else {"malformed": 1})


@pytest.mark.parametrize("size", [1, ID_SIZE, 255])
def test_how_long_a_routing_id_is_changes_nothing(size: int) -> None:
    """Clients may choose their own; one may be as long as a request id."""
    for case in CASES:
        check(ServerWire(), case, peer=b"p" * size)


@pytest.mark.parametrize("before", CASES)
def test_what_one_client_sends_does_not_change_anothers_messages(before: str) -> None:
    for case in CASES:
        wire: ServerWire[str] = ServerWire()
        wire.receive([OTHER_PEER, *CASES[before][0]])
        check(wire, case)


@pytest.mark.parametrize("garbage", [name for name, (_, seen) in CASES.items() if seen is None])
def test_garbage_before_it_does_not_change_a_clients_request(garbage: str) -> None:
    wire: ServerWire[str] = ServerWire()
    wire.receive([PEER, *CASES[garbage][0]])
    check(wire, "a request")


def test_a_refused_request_that_comes_twice_is_answered_once() -> None:
    wire: ServerWire[str] = ServerWire()
    assert isinstance(wire.receive([PEER, ID, b"", b"", b""]), Refusal)
    assert wire.receive([PEER, ID, b"", b"", b""]) is None
    assert wire.dropped == {"malformed": 1, "duplicate request": 1}


# -- the order of ids --------------------------------------------------------------------------


def accepts(wire: ServerWire[str], request_id: bytes, *routing: bytes) -> bool:
    event = wire.receive([*(routing or [PEER]), request_id, b"", HEADER, b""])
    assert event is None or isinstance(event, Request)
    return event is not None


def test_only_ids_later_than_the_latest_are_new() -> None:
    wire: ServerWire[str] = ServerWire()
    seen = [accepts(wire, an_id(counter)) for counter in (1, 1, 2, 5, 3, 4, 5, 6, 2**64 - 1, 6)]
    assert seen == [True, False, True, True, False, False, False, True, True, False]
    assert wire.dropped == {"duplicate request": 5}


def test_a_request_does_not_come_back_while_it_runs_or_when_it_is_done() -> None:
    wire: ServerWire[str] = ServerWire()
    assert accepts(wire, ID)
    wire.start((PEER, ID), "call")
    assert not accepts(wire, ID)
    wire.finish((PEER, ID))
    assert not accepts(wire, ID)


def test_each_source_of_ids_has_an_order_of_its_own() -> None:
    wire: ServerWire[str] = ServerWire()
    assert accepts(wire, an_id(9))
    assert accepts(wire, an_id(1, b"another."))
    assert accepts(wire, an_id(1), OTHER_PEER)
    assert accepts(wire, an_id(1), PEER, b"behind a proxy")
    assert accepts(wire, an_id(1), PEER, b"behind it too")
    assert accepts(wire, an_id(1), PEER, b"behind a proxy", b"and another")
    assert not accepts(wire, an_id(1), PEER, b"behind a proxy")
    assert not accepts(wire, an_id(8))


def test_equal_ids_of_two_peers_are_two_calls() -> None:
    wire: ServerWire[str] = ServerWire()
    keys = [(PEER, ID), (OTHER_PEER, ID), (PEER, b"a", ID), (PEER, b"b", ID)]
    for number, key in enumerate(keys):
        assert accepts(wire, key[-1], *key[:-1])
        assert wire.start(key, f"call {number}")
    assert [wire.find(key) for key in keys] == ["call 0", "call 1", "call 2", "call 3"]
    assert wire.finish(keys[2]) == "call 2"
    assert wire.find(keys[2]) is None
    assert wire.lost(OTHER_PEER) == ["call 1"]
    assert wire.calls() == ["call 0", "call 3"]
    assert len(wire) == 2


def test_a_lost_peer_is_forgotten() -> None:
    wire: ServerWire[str] = ServerWire()
    assert accepts(wire, ID)
    wire.start((PEER, ID), "call")
    assert wire.lost(PEER) == ["call"]
    assert wire.lost(PEER) == []
    assert wire.find((PEER, ID)) is None
    assert wire.finish((PEER, ID)) is None
    assert not wire.start((PEER, ID), "call")  # it waited meanwhile for its turn
    assert (len(wire), wire.calls()) == (0, [])
    assert accepts(wire, an_id(1))  # somebody else, under a routing id that the peer chose


# -- bounds ------------------------------------------------------------------------------------


def remembered(wire: ServerWire[str]) -> dict[bytes, Any]:
    # Looked into on purpose: what a stranger can have the server keep.
    return vars(wire)["_peers"]  # type: ignore[no-any-return]  # vars() knows no types


def test_one_peer_cannot_have_much_remembered() -> None:
    wire: ServerWire[str] = ServerWire()
    running = an_id(1, b"running.")
    assert accepts(wire, running)
    wire.start((PEER, running), "call")
    for number in range(5000):
        assert accepts(wire, an_id(1, number.to_bytes(8, "big")))
    assert len(remembered(wire)[PEER].latest) <= 1024
    assert not accepts(wire, running)  # the source is forgotten, its call is not


def test_peers_whose_loss_is_never_told_are_forgotten_in_the_end() -> None:
    wire: ServerWire[str] = ServerWire()
    for number in range(50_000):
        peer = number.to_bytes(5, "big")
        assert accepts(wire, ID, peer)
        if number % 100 == 0:
            wire.start((peer, ID), f"call {number}")
    assert len(remembered(wire)) <= 12_000
    assert len(wire) == 500


# -- properties --------------------------------------------------------------------------------


@WIRE
@given(st.lists(frames, max_size=20))
def test_strangers_send_what_they_like(messages: list[list[bytes]]) -> None:
    wire: ServerWire[str] = ServerWire()
    refused = 0
    for message in messages:
        event = wire.receive(list(message))
        if isinstance(event, Refusal):
            refused += 1
            assert event.reason.isprintable()
        if event is not None:
            assert event.key == tuple(message[: len(event.key)])
            assert message[len(event.key)] == b""
            assert max(map(len, event.key[1:])) <= 255
    assert sum(wire.dropped.values()) >= refused
    assert len(wire) == 0
    for peer in list(remembered(wire)):
        assert wire.lost(peer) == []
    assert not remembered(wire)


@WIRE
@given(st.lists(st.tuples(request_heads, st.binary(max_size=20)), max_size=10), st.data())
def test_requests_arrive_whatever_comes_in_between(
    requests: list[tuple[RequestHead, bytes]], data: st.DataObject
) -> None:
    wire: ServerWire[str] = ServerWire()
    next_id = request_ids()
    for head, body in requests:
        for garbage in data.draw(st.lists(frames, max_size=3)):
            wire.receive([PEER, *garbage])
        key = (PEER, next_id())
        event = wire.receive([*key, b"", encode_request(head), body])
        assert event == Request(key, head, body)


@WIRE
@given(st.lists(st.integers(1, 50), max_size=60))
def test_no_id_is_taken_twice(counters: list[int]) -> None:
    wire: ServerWire[str] = ServerWire()
    taken = [counter for counter in counters if accepts(wire, an_id(counter))]
    assert taken == sorted(set(taken))
