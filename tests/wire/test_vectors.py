"""The examples of docs/protocol.md are what txzmq writes and reads."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.wire.vectors import FOLDER, Vector, cases, everything, frames_of, pairs_of, read
from txzmq.rpc._wire.batches import BadBatch, is_batch, pack, unpack
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import (
    OpenStream,
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from txzmq.rpc._wire.server import Refusal, Request, ServerWire
from txzmq.rpc._wire.streams import (
    SEPARATOR,
    decode,
    decode_bundle,
    encode,
    encode_bundle,
    topic_of,
)
from txzmq.rpc.errors import Code
from txzmq.rpc.v1 import streams_pb2
from txzmq.rpc.v1.control_pb2 import CancelRequest

PEER = b"\0\0\0\0\1"


def request_head_of(vector: Vector) -> RequestHead:
    return RequestHead(
        vector["method"],
        vector["timeout_us"],
        pairs_of(vector["metadata"]),
        vector.get("accepts_batches", False),
        bytes.fromhex(vector.get("request_key", "")),
        user_agent=vector.get("user_agent", ""),
    )


@pytest.mark.parametrize("vector", cases("requests"))
def test_a_request_is_read(vector: Vector) -> None:
    frames = frames_of(vector)
    event = ServerWire[object]().receive([PEER, *frames])
    head = request_head_of(vector)
    assert event == Request((PEER, *frames[:-3]), head, bytes.fromhex(vector["body"]))


@pytest.mark.parametrize("vector", cases("requests"))
def test_a_request_is_written(vector: Vector) -> None:
    head = request_head_of(vector)
    assert (encode_request(head) == frames_of(vector)[-2]) is vector["canonical"]


def test_a_cancel_names_the_calls_it_ends() -> None:
    (cancel,) = [vector for vector in read("requests") if vector["name"] == "cancel"]
    ids = CancelRequest.FromString(bytes.fromhex(cancel["body"])).request_ids
    own = frames_of(cancel)[0]
    assert [request_id[:8] for request_id in ids] == [own[:8]] * 2
    assert [int.from_bytes(request_id[8:], "big") for request_id in ids] == [2, 4]


def head_of(vector: Vector) -> ResponseHead:
    return ResponseHead(
        Code[vector["code"]],
        vector["message"],
        tuple(
            AnyMessage(type_url=detail["type_url"], value=bytes.fromhex(detail["value"]))
            for detail in vector["details"]
        ),
        pairs_of(vector["initial_metadata"]),
        pairs_of(vector["trailing_metadata"]),
        vector.get("accepts_batches", False),
        vector.get("not_executed", False),
        vector.get("draining", False),
        reconnect=vector.get("reconnect", False),
    )


def plain(head: ResponseHead) -> object:
    """A head without messages: pure Python's protobuf compares only those whose type it knows."""
    return head._replace(details=()), [(any_.type_url, any_.value) for any_ in head.details]


@pytest.mark.parametrize("vector", cases("replies"))
def test_a_reply_is_read(vector: Vector) -> None:
    request_id, empty, header, body = frames_of(vector)
    assert empty == b""
    assert len(request_id) == 16
    assert plain(decode_response(header)) == plain(head_of(vector))
    assert body == bytes.fromhex(vector["body"])


@pytest.mark.parametrize("vector", cases("replies"))
def test_a_reply_is_written(vector: Vector) -> None:
    assert (encode_response(head_of(vector)) == frames_of(vector)[2]) is vector["canonical"]


@pytest.mark.parametrize("vector", cases("malformed-requests"))
def test_a_malformed_request_is_refused_or_dropped(vector: Vector) -> None:
    wire: ServerWire[object] = ServerWire()
    event = wire.receive([PEER, *frames_of(vector)])
    assert isinstance(event, Refusal if vector["answer"] else type(None))
    assert wire.dropped == {"malformed": 1}


@pytest.mark.parametrize("vector", cases("malformed-replies"))
def test_a_malformed_reply_ends_its_call_or_none(vector: Vector) -> None:
    wire: ClientWire[str] = ClientWire()
    request_id = wire.request("call", b"", b"")[0]
    # The vectors were written for a client that chose another random part.
    epoch, counter = frames_of(read("requests")[0])[0][:8], request_id[8:]
    first, *rest = frames_of(vector)
    reply = wire.receive([request_id if first == epoch + counter else first, *rest])
    assert wire.dropped.total() == 1
    if vector["ends_the_call"]:
        assert reply is not None
        assert reply.head.code is Code.INTERNAL
    else:
        assert reply is None
    assert len(wire) == (not vector["ends_the_call"])


@pytest.mark.parametrize("vector", cases("orders"))
def test_requests_are_taken_in_the_order_of_their_ids(vector: Vector) -> None:
    wire: ServerWire[object] = ServerWire()
    taken = [wire.receive([PEER, *frames_of(step)]) is not None for step in vector["messages"]]
    assert taken == [step["taken"] for step in vector["messages"]]
    assert wire.dropped == {"duplicate request": taken.count(False)}


@pytest.mark.parametrize("vector", cases("batches"))
def test_a_batch_is_read_and_written_or_dropped(vector: Vector) -> None:
    frames = frames_of(vector)
    assert is_batch(frames)
    if vector["messages"] is None:
        server: ServerWire[object] = ServerWire()
        assert server.receive_batch([PEER, *frames]) == []
        assert server.dropped == {"malformed": 1}
        client: ClientWire[str] = ClientWire()
        request_id = client.request("call", b"", b"")[0]
        assert list(client.receive_batch([request_id[:8], *frames[1:]])) == []
        assert (client.dropped, len(client)) == ({"malformed": 1}, 1)
        with pytest.raises(BadBatch):
            unpack(frames[2])
        return
    messages = [
        (message["counter"], bytes.fromhex(message["header"]), bytes.fromhex(message["body"]))
        for message in vector["messages"]
    ]
    headers, packed = unpack(frames[2])
    assert [(counter, headers[index], body) for counter, index, body in packed] == messages
    counters, all_headers, bodies = zip(*messages, strict=True)
    assert pack(frames[0], counters, all_headers, bodies) == frames
    if vector["direction"] == "requests":
        events = ServerWire[object]().receive_batch([PEER, *frames])
        ids = [counter.to_bytes(8, "big") for counter, _, _ in messages]
        assert [event.key for event in events] == [(PEER, frames[0] + id_) for id_ in ids]


def test_every_example_is_described_and_read_by_a_test() -> None:
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert names == {
        "requests",
        "replies",
        "malformed-requests",
        "malformed-replies",
        "orders",
        "batches",
        "streams",
    }
    for name in names:
        vectors = read(name)
        assert all(vector["description"].endswith(".") for vector in vectors)
        assert len({vector["name"] for vector in vectors}) == len(vectors)
    assert len(list(everything())) > 40


@pytest.mark.parametrize("vector", cases("streams"))
def test_what_is_said_of_streams_is_what_its_parts_say(vector: Vector) -> None:
    assert streams_pb2.DESCRIPTOR is not None  # its messages are in the pool
    frames = frames_of(vector)
    for index, part in vector["parts"].items():
        pool = descriptor_pool.Default()
        message = GetMessageClass(pool.FindMessageTypeByName(part["type"]))()
        ParseDict(part["json"], message)
        frame = frames[int(index)]
        if vector.get("publication"):
            expected = BUNDLE if vector["name"] == "bundle" else frames_of(SUBSCRIPTION)[0]
            assert topic_of(frame) + SEPARATOR == expected
            frame = frame[len(topic_of(frame)) + 1 :]
        assert message.SerializeToString() == frame


SUBSCRIPTION = next(vector for vector in read("streams") if vector["name"] == "subscription")
#: What the client's SUB subscribes to besides.
BUNDLE = bytes.fromhex("4f1c8a2be06d935728f4916c0d7be53a00")


def test_streams_are_opened_as_their_vectors_say() -> None:
    vectors = {vector["name"]: frames_of(vector) for vector in read("streams")}
    for name, stream in {
        "open": OpenStream(4096, 4 * 1024 * 1024),
        "open-requests": OpenStream(
            requests=bytes.fromhex("0123456789abcdef0123456789abcdef"),
        ),
    }.items():
        head = decode_request(vectors[name][2])
        assert head.open_stream == stream
        assert encode_request(head) == vectors[name][2]
    opened = decode_response(vectors["opened"][2])
    assert opened.stream is not None
    assert opened.stream.topic + SEPARATOR == vectors["subscription"][0]
    assert opened.stream.publisher == "tcp://0.0.0.0:5001"
    assert encode_response(opened) == vectors["opened"][2]


def test_bundles_are_told_read_and_written() -> None:
    vectors = {vector["name"]: frames_of(vector) for vector in read("streams")}
    header = vectors["opened-in-bundle"][2]
    opened = decode_response(header)
    assert opened.stream is not None
    assert opened.stream.bundle + SEPARATOR == BUNDLE
    assert encode_response(opened) == header
    (frame,) = vectors["bundle"]
    frames = decode_bundle(frame)
    assert topic_of(frames[0]) + SEPARATOR == frames_of(SUBSCRIPTION)[0]
    assert topic_of(frames[1]) == opened.stream.topic
    assert [decode(each).sequence for each in frames] == [3, 1]
    assert encode_bundle(topic_of(frame), frames) == frame


@pytest.mark.parametrize("name", ["publication", "heartbeat", "end", "error"])
def test_what_is_published_is_read_and_written(name: str) -> None:
    (vector,) = [vector for vector in read("streams") if vector["name"] == name]
    (frame,) = frames_of(vector)
    publication = decode(frame)
    assert encode(topic_of(frame), publication) == frame
    assert (publication.end is not None) == (name in {"end", "error"})
    assert (publication.start is not None) == (name == "publication")
    assert bool(publication.items) == (name in {"publication", "end"})
