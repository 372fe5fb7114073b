"""What a server says to control calls and openings that no channel of ours would make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COLLECT, COUNT, StreamWorld
from txzmq.rpc import Code
from txzmq.rpc._wire.headers import OpenStream, RequestHead, ResponseHead
from txzmq.rpc.limits import MAX_CANCELLED
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.rpc.v1.streams_pb2 import (
    AcknowledgeRequest,
    CancelStreamsRequest,
    Position,
    ReplayRequest,
    SendRequest,
)

CONTROL, STREAMS = "/txzmq.rpc.v1.Control", "/txzmq.rpc.v1.Streams"
TOPIC = b"t" * 16
TOO_MANY = MAX_CANCELLED + 1
POSITION = Position(topic=TOPIC)


@pytest.fixture
def world() -> Iterator[StreamWorld]:
    world = StreamWorld()
    yield world
    world.close()


def asks(world: StreamWorld, head: RequestHead, body: bytes) -> ResponseHead | None:
    """What the server answers; None if it does not."""
    client = RawClient(world.network, ADDRESS)
    world.network.run()
    number = client.request(head, body)
    world.network.run()
    client.transport.close()
    world.network.run()
    answer = client.replies().get(number)
    return None if answer is None else answer[0]


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        (f"{CONTROL}/Cancel", CancelRequest(request_ids=[TOPIC] * TOO_MANY)),
        (f"{STREAMS}/Cancel", CancelStreamsRequest(topics=[TOPIC] * TOO_MANY)),
        (f"{STREAMS}/Acknowledge", AcknowledgeRequest(positions=[POSITION] * TOO_MANY)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_control_call_names_no_more_than_the_limit(
    world: StreamWorld, path: str, request_: Message
) -> None:
    head = asks(world, RequestHead(path, None, ()), request_.SerializeToString())
    assert head is not None
    assert (head.code, str(MAX_CANCELLED) in head.message) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(
    ("path", "request_", "code"),
    [
        ("Replay", ReplayRequest(topic=TOPIC), Code.NOT_FOUND),
        ("Send", SendRequest(requests=TOPIC, acknowledge=True), Code.NOT_FOUND),
        ("Send", SendRequest(requests=TOPIC), None),
        ("Cancel", CancelStreamsRequest(topics=[TOPIC]), Code.OK),
        ("Acknowledge", AcknowledgeRequest(positions=[POSITION]), Code.OK),
    ],
)
def test_a_stream_that_is_not_there_is_no_error_but_where_something_is_asked_of_it(
    world: StreamWorld, path: str, request_: Message, code: Code | None
) -> None:
    head = asks(world, RequestHead(f"{STREAMS}/{path}", None, ()), request_.SerializeToString())
    assert (None if head is None else head.code) == code


@pytest.mark.parametrize("path", [f"{CONTROL}/Cancel", f"{STREAMS}/Send", f"{STREAMS}/Replay"])
def test_a_control_call_that_cannot_be_parsed(world: StreamWorld, path: str) -> None:
    head = asks(world, RequestHead(path, None, ()), b"\xff")
    assert head is not None
    assert (head.code, head.message) == (Code.INTERNAL, "the request cannot be parsed")


def test_a_client_of_another_idea_of_the_method_is_told(world: StreamWorld) -> None:
    body = text("3").SerializeToString()
    opens = OpenStream()
    streams = OpenStream(requests=TOPIC)
    head = asks(world, RequestHead(COUNT.path, None, (), open_stream=streams), body)
    assert head is not None
    assert (head.code, head.message) == (
        Code.UNIMPLEMENTED,
        "/test.Streaming/Count does not stream requests on this server",
    )
    head = asks(world, RequestHead(COLLECT.path, None, (), open_stream=opens), body)
    assert head is not None
    assert (head.code, head.message) == (
        Code.UNIMPLEMENTED,
        "/test.Streaming/Collect streams requests on this server",
    )
    assert not world.service.contexts
