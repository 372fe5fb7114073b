"""Whatever a peer sends: no exception leaves the reader, and what can be understood arrives."""

from __future__ import annotations

from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.sockets.support import Silent, Sub, Turns, bind, events_of, fresh_turns
from tests.support import captured_log
from txzmq import ZmqConnection, ZmqREQConnection, ZmqXPubConnection, ZmqXSubConnection

# Small frames of few bytes, so that empty ones, separators and equal ones are common.
FRAME = st.one_of(
    st.just(b""), st.binary(max_size=3), st.sampled_from([b"id", b"\0", b"\1", b"\1t", b"t\0"])
)
FRAMES = st.lists(FRAME, min_size=1, max_size=6)


class XPub(ZmqXPubConnection):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls = 0

    def gotSubscription(self, tag: bytes) -> None:
        self.calls += 1

    def gotUnsubscription(self, tag: bytes) -> None:
        self.calls += 1


class XSub(ZmqXSubConnection):
    def gotMessage(self, message: bytes, tag: bytes) -> None:
        pass


class Req(ZmqREQConnection):
    def _getNextId(self) -> bytes:
        return b"id"


#: The connection, and the type of the plain socket at its other end.
KINDS: dict[str, tuple[type[ZmqConnection], int]] = {
    "REQ": (Req, zmq.DEALER),
    "REP": (Silent, zmq.DEALER),
    "SUB": (Sub, zmq.XPUB),
    "XSUB": (XSub, zmq.XPUB),
    "XPUB": (XPub, zmq.XSUB),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=200,
    deadline=None,
    # The fixtures only look on.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=st.lists(FRAMES, min_size=1, max_size=5))
@example(messages=[[b""]])
@example(messages=[[b"id"]])
@example(messages=[[b"id", b""]])
@example(messages=[[b"", b"", b""]])
def test_no_message_raises_out_of_message_received(kind: str, messages: list[list[bytes]]) -> None:
    with fresh_turns() as turns, captured_log() as logged:
        connection = KINDS[kind][0](turns.factory, bind("inproc://here"))
        if isinstance(connection, ZmqREQConnection):
            turns.raw(zmq.DEALER, "inproc://here")
            connection.sendMsg(b"x").addErrback(lambda _: None)
        for message in messages:
            routed = [b"peer", *message] if kind == "REP" else message
            connection.messageReceived(list(routed))
        turns.settle()
    assert not logged.failures()


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=st.lists(FRAMES, min_size=1, max_size=5))
def test_no_message_of_a_socket_raises_out_of_the_reader(
    kind: str, messages: list[list[bytes]]
) -> None:
    with fresh_turns() as turns, captured_log() as logged:
        cls, raw_kind = KINDS[kind]
        connection: Any = cls(turns.factory, bind("inproc://here"))
        if kind in ("SUB", "XSUB"):
            connection.subscribe("")
        other = turns.raw(raw_kind, "inproc://here")
        events_of(other)  # so that a publisher knows of the subscription
        turns.settle()
        for message in messages:
            other.send_multipart(message)
            connection.doRead()
        turns.settle()
        assert connection in turns.reactor.getReaders()
    assert not logged.failures()


@pytest.mark.parametrize(
    ("message", "understood"),
    [
        ([b"id", b"", b"x"], [(b"id", (b"x",))]),
        ([b"id", b""], [(b"id", ())]),
        ([b"proxy", b"id", b"", b"x", b"", b"y"], [(b"id", (b"x", b"", b"y"))]),
        ([b"", b"from a plain REQ"], [(b"peer", (b"from a plain REQ",))]),
        ([b""], [(b"peer", ())]),
        ([b"no delimiter"], []),
        ([b"no", b"delimiter"], []),
    ],
)
def test_what_a_server_understands(
    turns: Turns, message: list[bytes], understood: list[tuple[bytes, tuple[bytes, ...]]]
) -> None:
    server = Silent(turns.factory)
    server.messageReceived([b"peer", *message])
    assert server.requests == understood
    assert server.discarded == ({} if understood else {"malformed": 1})


@pytest.mark.parametrize(
    ("message", "understood"),
    [
        ([b"tag\0data"], [(b"data", b"tag")]),
        ([b"\0data"], [(b"data", b"")]),
        ([b"tag\0"], [(b"", b"tag")]),
        ([b"tag\0da\0ta"], [(b"da\0ta", b"tag")]),
        ([b"tag", b"data"], [(b"data", b"tag")]),
        ([b"tag", b"da\0ta"], [(b"da\0ta", b"tag")]),
        ([b"no separator"], []),
        ([b"tag", b"data", b"more"], []),
        ([b""], []),
    ],
)
def test_what_a_subscriber_understands(
    turns: Turns, message: list[bytes], understood: list[tuple[bytes, bytes]]
) -> None:
    subscriber = Sub(turns.factory)
    subscriber.messageReceived(message)
    assert subscriber.messages == understood
    assert subscriber.discarded == ({} if understood else {"malformed": 1})


@pytest.mark.parametrize("tag", [b"a\0b", "a\0b", b"\0"])
def test_a_tag_that_contains_the_separator_is_refused(turns: Turns, tag: bytes | str) -> None:
    """In txZMQ it is published, and subscribers take its end for part of the message."""
    publisher = XPub(turns.factory, bind("inproc://pub"))
    with pytest.raises(ValueError, match="separator"):
        publisher.publish(b"x", tag)


def test_the_separator_may_be_another(turns: Turns) -> None:
    class SpacedPub(XPub):
        topicSep = b" "

    class SpacedSub(Sub):
        topicSep = b" "

    publisher = SpacedPub(turns.factory, bind("inproc://pub"))
    plain = turns.raw(zmq.SUB, "inproc://pub", SUBSCRIBE=b"")
    turns.settle()
    publisher.publish("data with spaces", "t\0ag")
    frame = plain.recv()
    assert frame == b"t\0ag data with spaces"
    subscriber = SpacedSub(turns.factory)
    subscriber.messageReceived([frame])
    assert subscriber.messages == [(b"data with spaces", b"t\0ag")]


def test_a_peer_cannot_fill_the_log(turns: Turns) -> None:
    with captured_log() as logged:
        server = Silent(turns.factory)
        for _ in range(1000):
            server.messageReceived([b"peer", b"malformed"])
        assert len(logged.warnings()) == 1
        assert server.discarded == {"malformed": 1000}
