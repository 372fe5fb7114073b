"""A batch costs its receiver no more than the batch may: what is not used is not decoded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from txzmq._ids import new_epoch
from txzmq.rpc import Code
from txzmq.rpc._wire import client, server
from txzmq.rpc._wire.batches import MAX_BATCH_HEADERS, pack
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import (
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from txzmq.rpc._wire.server import Refusal, Request, ServerWire
from txzmq.rpc.metadata import Metadata

PEER = b"peer"
PATH = "/test.S/M"


class Decoded:
    """Counts the headers that are decoded, and their pairs of metadata."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.headers: list[bytes] = []
        self.pairs = 0
        monkeypatch.setattr(server, "decode_request", self.request)
        monkeypatch.setattr(client, "decode_response", self.response)

    def request(self, header: bytes, metadata_size: int) -> RequestHead:
        self.headers.append(header)
        head = decode_request(header, metadata_size)
        self.pairs += len(head.metadata)
        return head

    def response(self, header: bytes) -> ResponseHead:
        self.headers.append(header)
        head = decode_response(header)
        self.pairs += len(head.initial)
        return head


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    return Decoded(monkeypatch)


def request_batch(
    headers: Sequence[bytes], counters: Sequence[int], epoch: bytes = b"e" * 8
) -> list[bytes]:
    return [PEER, *pack(epoch, counters, headers, [b""] * len(counters))]


def request(number: int, pairs: int) -> bytes:
    metadata: Metadata = tuple(("a", str(number)) for _ in range(pairs))
    return encode_request(RequestHead(PATH, None, metadata))


def test_many_requests_with_much_metadata_are_refused_unread(decoded: Decoded) -> None:
    wire: ServerWire[str] = ServerWire(metadata_size=8_192)
    headers = [request(number, 1_000) for number in range(256)]
    events = wire.receive_batch(request_batch(headers, range(1, 257)))
    assert len(events) == 256
    for event in events:
        assert isinstance(event, Refusal)
        assert event.code is Code.RESOURCE_EXHAUSTED
    assert decoded.pairs == 0
    assert sum(map(len, decoded.headers)) <= MAX_BATCH_HEADERS
    first, last = events[0], events[-1]
    assert isinstance(first, Refusal)
    assert isinstance(last, Refusal)
    assert "8192 bytes (ServerLimits.metadata_size)" in first.reason
    assert f"more than {MAX_BATCH_HEADERS} bytes" in last.reason
    assert wire.dropped == {}


def test_what_comes_behind_headers_that_are_too_long_is_served_if_its_header_is_known() -> None:
    wire: ServerWire[str] = ServerWire(metadata_size=8_192)
    long = [request(number, 1_000) for number in range(60)]
    plain = request(0, 0)
    events = wire.receive_batch(request_batch([plain, *long, plain], range(1, 63)))
    assert [isinstance(event, Request) for event in events] == [True, *[False] * 60, True]


def test_metadata_of_one_request_is_counted_before_it_is_decoded() -> None:
    wire: ServerWire[str] = ServerWire(metadata_size=320)
    at_limit = request(1, 8)
    assert isinstance(wire.receive([PEER, b"e" * 15 + b"1", b"", at_limit, b""]), Request)
    over = wire.receive([PEER, b"e" * 15 + b"2", b"", request(1, 11), b""])
    assert isinstance(over, Refusal)
    assert over.code is Code.RESOURCE_EXHAUSTED
    malformed = wire.receive([PEER, b"e" * 15 + b"3", b"", request(1, 1_025), b""])
    assert isinstance(malformed, Refusal)
    assert malformed.code is Code.INTERNAL


def test_headers_of_duplicates_are_not_decoded(decoded: Decoded) -> None:
    wire: ServerWire[str] = ServerWire()
    wire.receive_batch(request_batch([request(0, 1)], [100]))
    decoded.headers.clear()
    headers = [request(number, 1) for number in range(99)]
    assert wire.receive_batch(request_batch(headers, range(1, 100))) == []
    assert decoded.headers == []
    assert wire.dropped == {"duplicate request": 99}


def reply(number: int, pairs: int) -> bytes:
    return encode_response(ResponseHead(initial=tuple(("a", str(number)) for _ in range(pairs))))


def reply_batch(
    wire: ClientWire[str], headers: Sequence[bytes], counters: Sequence[int]
) -> list[bytes]:
    return pack(wire.id_of(1)[:8], counters, headers, [b""] * len(headers))


def test_headers_of_replies_that_nobody_waits_for_are_not_decoded(decoded: Decoded) -> None:
    wire: ClientWire[str] = ClientWire()
    wire.request("call", b"", b"")
    message = reply_batch(wire, [reply(n, 100) for n in range(200)], range(100, 300))
    assert list(wire.receive_batch(message)) == []
    assert decoded.headers == []
    assert wire.dropped == {"unknown reply": 200}


def test_a_client_decodes_no_more_of_a_batch_than_one_may_have(decoded: Decoded) -> None:
    wire: ClientWire[str] = ClientWire()
    counters = range(1, 257)
    for number in counters:
        wire.request(str(number), b"", b"")
    message = reply_batch(wire, [reply(n, 1_000) for n in counters], counters)
    replies = list(wire.receive_batch(message))
    assert [call for call, _, _ in replies] == [str(n) for n in counters]
    assert {head.code for _, head, _ in replies} == {Code.OK, Code.INTERNAL}
    assert sum(map(len, decoded.headers)) <= MAX_BATCH_HEADERS
    assert len(wire) == 0


def test_a_batch_as_a_client_of_ours_sends_it_is_served() -> None:
    wire: ServerWire[str] = ServerWire()
    headers = [request(number, 200) for number in range(80)]
    assert 128 * 1024 < sum(map(len, headers)) < 160 * 1024
    message = request_batch(headers, range(1, len(headers) + 1), new_epoch())
    assert all(isinstance(event, Request) for event in wire.receive_batch(message))


def test_a_malformed_reply_in_a_batch_ends_its_own_call_and_a_notice_ends_none() -> None:
    wire: ClientWire[str] = ClientWire()
    for call in ("good", "bad"):
        wire.request(call, b"", b"")
    good = encode_response(ResponseHead(Code.OK))
    draining = encode_response(ResponseHead(Code.OK, draining=True))
    batch = reply_batch(wire, [good, b"\xff", draining, good, b"\xff"], [1, 2, 0, 0, 0])
    ends = {call: head.code for call, head, _ in wire.receive_batch(batch)}
    assert ends == {"good": Code.OK, "bad": Code.INTERNAL}
    assert wire.draining
    assert wire.dropped == {"malformed": 1, "unknown reply": 2}
