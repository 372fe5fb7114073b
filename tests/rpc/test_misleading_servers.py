"""Servers that answer what no server of ours would: a stream ends with an error that says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COUNT, PUBLISHER, Network, Reader
from txzmq.rpc import Channel, Code, Internal, Unavailable
from txzmq.rpc._wire.headers import (
    OpenedStream,
    ResponseHead,
    decode_request,
    encode_response,
)
from txzmq.rpc._wire.streams import Publication, encode
from txzmq.testing import assert_all_given_back

TOPIC = b"t" * 16
OK = ResponseHead(Code.OK)
OPENED = ResponseHead(Code.OK, stream=OpenedStream(TOPIC, PUBLISHER, b"e" * 8))
NONSENSE = b"\xff"


class Misleading:
    """A server's two sockets, and a client that reads a stream (handlers of both sockets)."""

    def __init__(self, opened: ResponseHead = OPENED) -> None:
        #: By the last word of the path, what is answered: a header and a body.
        self.answers: dict[str, tuple[ResponseHead, bytes]] = {"Count": (opened, b"")}
        self.asked: list[str] = []
        self.network = Network()
        self.server: Any = self.network.listen(ADDRESS, self, {})
        self.publisher: Any = self.network.publish(PUBLISHER, self, {})
        self.channel = Channel(self.network, ADDRESS)
        self.reader = Reader(self.channel.unary_stream(COUNT, text("3")))
        self.network.run()

    def received(self, message: list[bytes]) -> None:
        peer, id_, _, header, _ = message
        name = decode_request(header).path.rpartition("/")[2]
        self.asked.append(name)
        if name in self.answers:
            head, body = self.answers[name]
            self.server.send_message([peer, id_, b"", encode_response(head), body])

    def allows(self, tag: bytes, connection: object, identity: object) -> bool:
        return True

    def publish(self, publication: Publication) -> None:
        self.publisher.publish(encode(TOPIC, publication))
        self.network.run()

    def item(self, number: int) -> None:
        self.publish(Publication(number, [text(str(number)).SerializeToString()]))

    def end(self, number: int) -> None:
        self.publish(Publication(number, [], encode_response(OK)))

    def peer_lost(self, peer: bytes) -> None:
        pass

    def subscribed(self, tag: bytes) -> None:
        pass

    def unsubscribed(self, tag: bytes, connection: object) -> None:
        pass

    def flush(self) -> None:
        pass

    closed = flush

    def close(self) -> None:
        self.channel.close()
        self.network.advance(40)
        assert_all_given_back(self.channel)
        self.server.close()
        self.publisher.close()
        self.network.run()
        assert not self.network.clock.getDelayedCalls()


@pytest.fixture
def server() -> Iterator[Misleading]:
    server = Misleading()
    yield server
    server.close()


def test_one_that_means_well_is_understood(server: Misleading) -> None:
    server.item(1)
    server.end(2)
    assert (server.reader.items, server.reader.ended) == (["1"], "well")


def test_an_opening_that_is_answered_as_a_unary_call() -> None:
    server = Misleading(OK)
    assert isinstance(server.reader.ended, Internal)
    assert server.reader.ended.message.endswith("the server answered without a stream")
    server.close()


@pytest.mark.parametrize(
    "publication",
    [
        Publication(1, [b""], start=NONSENSE),
        Publication(1, [], end=NONSENSE),
        Publication(1, [NONSENSE]),
    ],
    ids=["start", "end", "item"],
)
def test_a_part_of_a_stream_that_cannot_be_parsed(
    server: Misleading, publication: Publication
) -> None:
    server.publish(publication)
    assert isinstance(server.reader.ended, Internal)


def test_a_publication_that_cannot_be_parsed(server: Misleading) -> None:
    server.publisher.publish(TOPIC + b"\0" + NONSENSE)
    server.network.run()
    assert isinstance(server.reader.ended, Internal)


def test_a_publication_of_a_topic_alone_and_of_no_stream_are_dropped(server: Misleading) -> None:
    server.publisher.publish(TOPIC)
    server.publisher.publish(b"another topic, that nobody wants\0")
    server.item(1)
    server.end(2)
    assert (server.reader.items, server.reader.ended) == (["1"], "well")


@pytest.mark.parametrize(
    "answer",
    [(OK, NONSENSE), (ResponseHead(Code.PERMISSION_DENIED, "no"), b""), (OK, b"")],
    ids=["nonsense", "refusal", "nothing"],
)
@pytest.mark.parametrize("call", ["Acknowledge", "Replay"])
def test_a_stream_outlives_answers_to_its_control_calls(
    server: Misleading, call: str, answer: tuple[ResponseHead, bytes]
) -> None:
    server.answers[call] = answer
    if call == "Replay":
        server.item(2)  # the first is missing
    else:
        server.publish(Publication(1, []))  # a heartbeat, which asks for a sign of life
    server.network.advance(2)
    assert call in server.asked
    assert not server.reader.has_ended
    server.item(1)
    if call == "Acknowledge":
        server.item(2)
    server.end(3)
    assert (server.reader.items, server.reader.ended) == (["1", "2"], "well")


def test_a_publisher_that_no_socket_can_be_connected_to_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no such address")

    monkeypatch.setattr(Network, "subscribe", refuse)
    server = Misleading()
    assert isinstance(server.reader.ended, Unavailable)
    assert server.reader.ended.message == f"cannot subscribe at {PUBLISHER}: no such address"
    server.close()
