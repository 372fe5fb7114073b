"""Batches: what is packed is unpacked, and any bytes are a batch or a clean refusal."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import WIRE
from txzmq.rpc._wire.batches import MAX_BATCH, BadBatch, is_batch, pack, unpack
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, encode_request
from txzmq.rpc._wire.server import CallKey, Request, ServerWire
from txzmq.rpc.v1.batch_pb2 import Batch

PEER = b"\0\0\0\0\1"

Message: TypeAlias = tuple[int, bytes, bytes]

packed = st.tuples(
    st.integers(0, 2**64 - 1),
    st.one_of(st.sampled_from([b"", b"header"]), st.binary(max_size=20)),
    st.binary(max_size=50),
)
almost_batches = st.builds(
    lambda *lists: Batch(
        counters=lists[0], header_indexes=lists[1], headers=lists[2], bodies=lists[3]
    ).SerializeToString(),
    st.lists(st.integers(0, 2**64 - 1), max_size=4),
    st.lists(st.integers(0, 4), max_size=4),
    st.lists(st.binary(max_size=4), max_size=4),
    st.lists(st.binary(max_size=4), max_size=4),
)


def columns(messages: list[Message]) -> tuple[list[int], list[bytes], list[bytes]]:
    counters, headers, bodies = zip(*messages, strict=True)
    return list(counters), list(headers), list(bodies)


@WIRE
@given(st.binary(min_size=8, max_size=8), st.lists(packed, min_size=1, max_size=MAX_BATCH))
def test_what_is_packed_is_unpacked(epoch: bytes, messages: list[Message]) -> None:
    parts = pack(epoch, *columns(messages))
    assert is_batch(parts)
    headers, unpacked = unpack(parts[2])
    assert [(counter, headers[index], body) for counter, index, body in unpacked] == messages
    assert len(headers) == len({header for _, header, _ in messages})


@WIRE
@given(st.one_of(st.binary(max_size=60), almost_batches))
def test_any_bytes_are_a_batch_or_refused(frame: bytes) -> None:
    try:
        headers, messages = unpack(frame)
    except BadBatch:
        pass
    else:
        assert all(index < len(headers) for _, index, _ in messages)
    server: ServerWire[object] = ServerWire()
    events = server.receive_batch([PEER, b"8 bytes.", b"", frame])
    assert all(event.key[0] == PEER for event in events)
    client: ClientWire[str] = ClientWire()
    request_id = client.request("call", b"", b"")[0]
    for epoch in (request_id[:8], b"8 bytes."):
        replies = list(client.receive_batch([epoch, b"", frame]))
        assert len(replies) <= 1
    assert len(client) == 1 or client.forget(request_id) is None


def test_requests_of_a_batch_are_taken_once() -> None:
    server: ServerWire[object] = ServerWire()
    client: ClientWire[str] = ClientWire()
    header = encode_request(RequestHead("/a/b", None, ()))
    batch = client.batch([(name, header, name.encode()) for name in "abc"])
    single = client.request("d", header, b"d")

    def bodies(events: list[Request]) -> list[bytes]:
        return [event.body for event in events]

    events = server.receive_batch([PEER, *batch])
    assert bodies([event for event in events if isinstance(event, Request)]) == [b"a", b"b", b"c"]
    assert server.receive_batch([PEER, *batch]) == []
    assert server.dropped == {"duplicate request": 3}
    assert server.receive([PEER, *single]) is not None
    overtaken = ClientWire[str]().batch([("x", header, b""), ("y", header, b"")])
    assert len(server.receive_batch([PEER, *overtaken])) == 2  # another source


def test_replies_of_several_sources_travel_apart() -> None:
    server: ServerWire[object] = ServerWire()
    clients = [ClientWire[str](), ClientWire[str]()]
    header = encode_request(RequestHead("/a/b", None, (), accepts_batches=True))
    keys: list[CallKey] = []
    for client in clients:
        for name in "ab":
            event = server.receive([PEER, *client.request(name, header, b"")])
            assert isinstance(event, Request)
            assert server.accepts_batches(event.key[0])
            assert server.fits(event.key)
            keys.append(event.key)
    messages = server.batches([(key, b"", key[1]) for key in keys])
    assert [message[0] for message in messages] == [PEER, PEER]
    for client, message in zip(clients, messages, strict=True):
        assert [call for call, _, _ in client.receive_batch(message[1:])] == ["a", "b"]
        assert len(client) == 0


def test_a_request_through_a_proxy_says_nothing_of_batches() -> None:
    server: ServerWire[object] = ServerWire()
    header = encode_request(RequestHead("/a/b", None, (), accepts_batches=True))
    event = server.receive([PEER, b"client", *ClientWire[str]().request("x", header, b"")])
    assert isinstance(event, Request)
    assert not server.asks(event.key)
    assert not server.accepts_batches(PEER)
    assert not server.fits(event.key)


def test_a_batch_of_another_source_ends_no_call() -> None:
    client: ClientWire[str] = ClientWire()
    epoch = client.request("call", b"", b"")[0][:8]
    for stranger in (b"8 bytes.", epoch[::-1], epoch[:7], b""):
        _, empty, frame = pack(epoch, [1], [b""], [b""])
        assert list(client.receive_batch([stranger, empty, frame])) == []
    assert (client.dropped, len(client)) == ({"unknown reply": 4}, 1)
    assert [call for call, _, _ in client.receive_batch([epoch, empty, frame])] == ["call"]
