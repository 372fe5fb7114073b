"""What a server says to control calls and openings that no channel of ours would make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COLLECT, COUNT, StreamWorld
from tests.support import error_of
from txzmq.rpc import Code, Context, RequestStream
from txzmq.rpc._wire.headers import OpenStream, RequestHead, ResponseHead
from txzmq.rpc.limits import MAX_CANCELLED, REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES
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


class Sending:
    """A client that sends what it likes into a stream of requests."""

    def __init__(self, world: StreamWorld) -> None:
        self.network = world.network
        self.client = RawClient(world.network, ADDRESS)
        world.network.run()
        opens = OpenStream(requests=TOPIC)
        self.call = self.client.request(RequestHead(COLLECT.path, None, (), open_stream=opens))
        self.network.run()

    def send(self, *items: bytes, end: bool = False) -> None:
        body = SendRequest(requests=TOPIC, sequence=1, items=items, end=end).SerializeToString()
        self.client.request(RequestHead(f"{STREAMS}/Send", None, ()), body)
        self.network.run()

    def ends(self) -> tuple[Code, str]:
        """How the call ended; the client leaves."""
        head = self.client.replies()[self.call][0]
        self.client.transport.close()
        self.network.run()
        return head.code, head.message


def test_an_item_that_cannot_be_parsed_ends_the_call(world: StreamWorld) -> None:
    taken: list[str] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        while True:
            taken.append((await anext(requests)).value)

    world.service.handler = handler
    client = Sending(world)
    client.send(text("a").SerializeToString(), b"\xff", text("b").SerializeToString(), end=True)
    code, message = client.ends()
    assert (code, "cannot be parsed" in message, taken) == (Code.INTERNAL, True, ["a"])


@pytest.mark.parametrize(
    "items", [[b""] * (REQUESTS_WINDOW + 2), [bytes(REQUESTS_WINDOW_BYTES // 2)] * 4]
)
def test_a_client_that_does_not_mind_the_window_is_refused(
    world: StreamWorld, items: list[bytes]
) -> None:
    go: Deferred[None] = Deferred()

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        await go
        return text(str([request async for request in requests]))

    world.service.handler = handler
    client = Sending(world)
    client.send(*items)
    go.callback(None)
    world.network.run()
    code, message = client.ends()
    assert (code, "not acknowledged" in message) == (Code.RESOURCE_EXHAUSTED, True)


def test_requests_have_one_reader_at_a_time_and_the_next_goes_on(world: StreamWorld) -> None:
    ends: list[object] = []

    async def read(requests: RequestStream[StringValue]) -> str:
        return (await anext(requests)).value

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        first = Deferred.fromCoroutine(read(requests)).addErrback(
            lambda failure: ends.append(type(error_of(failure)))
        )
        try:
            await read(requests)
        except RuntimeError as error:
            ends.append(str(error))
        first.cancel()
        closed: Any = requests.__anext__()
        closed.send(None)
        closed.close()
        return text(await read(requests))

    world.service.handler = handler
    client = Sending(world)
    client.send(text("a").SerializeToString())
    assert client.ends()[0] is Code.OK
    assert ends == ["a stream has one reader at a time", CancelledError]
