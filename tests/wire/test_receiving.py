"""The wire takes any bytes from anybody, and each call has one end: properties and vectors."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import (
    OK,
    BadHeader,
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from txzmq.rpc._wire.metadata import normalise
from txzmq.rpc._wire.server import Refusal, Request, ServerWire
from txzmq.rpc.errors import Code

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())

SAME = b"8 bytes " + bytes(7) + b"\1"  # an id that two clients choose

keys = st.from_regex(r"[0-9a-z_.-]{1,12}", fullmatch=True).filter(
    lambda key: not key.startswith("txzmq-") and not key.endswith("-bin")
)
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
pairs = st.one_of(
    st.tuples(keys, texts), st.tuples(keys.map(lambda key: f"{key}-bin"), st.binary(max_size=12))
)
metadata = st.lists(pairs, max_size=4).map(tuple)
request_heads = st.builds(
    RequestHead,
    path=st.from_regex(r"/[A-Za-z_.]{1,30}/[A-Za-z_]{1,30}", fullmatch=True),
    timeout_us=st.none() | st.integers(0, 2**53),
    metadata=metadata,
)
response_heads = st.builds(
    ResponseHead,
    code=st.sampled_from(Code),
    message=st.text(st.characters(codec="utf-8"), max_size=20),
    details=st.lists(st.builds(AnyMessage, type_url=texts, value=st.binary()), max_size=2).map(
        tuple
    ),
    initial=metadata,
    trailing=metadata,
)
frames = st.lists(
    st.sampled_from([b"", b"peer", b"\0" * 16, encode_request(RequestHead("/s/m", None, ()))])
    | st.binary(max_size=40),
    min_size=1,
    max_size=10,
)


@given(request_heads)
def test_a_request_header_comes_back_as_it_was(head: RequestHead) -> None:
    for _ in range(2):  # the second time from the cache
        assert decode_request(encode_request(head)) == head


@given(response_heads)
def test_a_response_header_comes_back_as_it_was(head: ResponseHead) -> None:
    if head.code is Code.OK:
        head = head._replace(message="", details=())
    assert decode_response(encode_response(head)) == head


@given(metadata)
def test_what_a_caller_may_give_goes_over_the_wire(
    pairs: tuple[tuple[str, str | bytes], ...],
) -> None:
    assert normalise(list(pairs)) == pairs
    assert decode_request(encode_request(RequestHead("/s/m", 1, pairs))).metadata == pairs


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_a_bad_header(header: bytes) -> None:
    for decode in (decode_request, decode_response):
        with suppress(BadHeader):
            decode(header)


@given(st.lists(frames, max_size=20))
def test_a_server_takes_any_message(messages: list[list[bytes]]) -> None:
    wire: ServerWire[object] = ServerWire()
    for message in messages:
        event = wire.receive(message)
        if event is None:
            continue
        assert event.key == tuple(message[: len(event.key)])
        assert message[len(event.key)] == b""
    assert sum(wire.dropped.values()) <= len(messages)
    assert len(wire) == 0


@given(st.lists(frames, max_size=20))
def test_a_client_takes_any_message(messages: list[list[bytes]]) -> None:
    wire: ClientWire[str] = ClientWire()
    request_id = wire.request("call", b"", b"")[0]
    for message in messages:
        assert wire.receive(message) is None
    assert sum(wire.dropped.values()) == len(messages)
    assert wire.forget(request_id) == "call"


@given(st.integers(0, 8), st.integers(0, 4))
def test_proxies_in_between_are_kept_up_to_a_bound(proxies: int, extra: int) -> None:
    wire: ServerWire[object] = ServerWire()
    routing = [b"r%d" % i for i in range(proxies)]
    header = encode_request(RequestHead("/s/m", None, ()))
    event = wire.receive([*routing, SAME, b"", header, b"body", *[b"more"] * extra])
    if not 1 <= proxies <= 5:
        assert event is None
    elif extra:
        assert isinstance(event, Refusal)
    else:
        assert event == Request((*routing, SAME), RequestHead("/s/m", None, ()), b"body")


def test_equal_ids_of_two_peers_are_two_calls() -> None:
    wire: ServerWire[str] = ServerWire()
    header = encode_request(RequestHead("/s/m", None, ()))
    for peer in (b"a", b"b"):
        event = wire.receive([peer, SAME, b"", header, b""])
        assert isinstance(event, Request)
        wire.start(event.key, peer.decode())
    assert wire.receive([b"a", SAME, b"", header, b""]) is None
    assert wire.finish((b"a", SAME)) == "a"
    assert wire.lost(b"b") == ["b"]
    assert (len(wire), wire.dropped) == (0, {"duplicate request": 1})


class LossyWire(RuleBasedStateMachine):
    """Two clients and a server, and a network that loses, doubles and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[ClientWire[str]] = [ClientWire(), ClientWire()]
        self.server: ServerWire[bytes] = ServerWire()
        self.to_server: list[list[bytes]] = []
        self.to_client: list[tuple[int, list[bytes]]] = []
        self.made = 0
        self.executed: list[bytes] = []
        self.answered: list[str] = []
        self.header = encode_request(RequestHead("/s/m", None, ()))

    @rule(client=st.integers(0, 1))
    def call(self, client: int) -> None:
        self.made += 1
        body = f"{client} {self.made}"
        message = self.clients[client].request(body, self.header, body.encode())
        self.to_server.append([b"peer %d" % client, *message])

    @precondition(lambda self: bool(self.to_server))
    @rule(data=st.data(), keep=st.booleans())
    def deliver_request(self, data: st.DataObject, keep: bool) -> None:
        index = data.draw(st.integers(0, len(self.to_server) - 1))
        message = self.to_server[index] if keep else self.to_server.pop(index)
        event = self.server.receive(list(message))
        if isinstance(event, Request):
            assert event.body not in self.executed, "executed twice"
            self.executed.append(event.body)
            self.server.start(event.key, event.body)

    @precondition(lambda self: len(self.server) > 0)
    @rule(data=st.data(), copies=st.integers(0, 2))
    def answer(self, data: st.DataObject, copies: int) -> None:
        body = data.draw(st.sampled_from(self.server.calls()))
        client = int(body[:1])
        request_id = self.request_ids()[body]
        assert self.server.finish((b"peer %d" % client, request_id)) == body
        self.to_client += [(client, [request_id, b"", b"", body])] * copies

    def request_ids(self) -> dict[bytes, bytes]:
        """The ids of the running calls, by body."""
        peers: Any = vars(self.server)["_peers"]
        return {body: key[-1] for peer in peers.values() for key, body in peer.calls.items()}

    @precondition(lambda self: bool(self.to_client))
    @rule(data=st.data(), astray=st.booleans())
    def deliver_reply(self, data: st.DataObject, astray: bool) -> None:
        client, message = data.draw(st.sampled_from(self.to_client))
        self.to_client.remove((client, message))
        reply = self.clients[1 - client if astray else client].receive(message)
        if reply is not None:
            assert not astray, "a reply crossed over to another client"
            assert reply.body.decode() == reply.call, "a reply crossed over to another call"
            assert reply.head == OK
            self.answered.append(reply.call)

    @invariant()
    def each_call_ends_once(self) -> None:
        assert len(self.answered) == len(set(self.answered))
        assert len(self.answered) + sum(map(len, self.clients)) == self.made

    def teardown(self) -> None:
        for peer in (b"peer 0", b"peer 1"):
            self.server.lost(peer)
        assert len(self.server) == 0


TestLossyWire = LossyWire.TestCase


# -- vectors -----------------------------------------------------------------------------------


def message(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(part) for part in vector["frames"]]


def value(item: dict[str, str]) -> str | bytes:
    return bytes.fromhex(item["hex"]) if "hex" in item else item["text"]


def pairs_of(items: list[dict[str, str]]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((item["key"], value(item)) for item in items)


def named(kind: str) -> list[Any]:
    return [pytest.param(v, id=v["description"]) for v in VECTORS if v["kind"] == kind]


@pytest.mark.parametrize("vector", named("request"))
def test_request_vectors(vector: dict[str, Any]) -> None:
    head = RequestHead(vector["method"], vector["timeout_us"], pairs_of(vector["metadata"]))
    frames = message(vector)
    # As the server's ROUTER sees it: with the routing id of the peer in front.
    event = ServerWire[object]().receive([b"peer", *frames])
    assert isinstance(event, Request)
    assert (event.head, event.body) == (head, bytes.fromhex(vector["body"]))
    assert event.key == (b"peer", *frames[: len(event.key) - 1])
    assert frames[-2] == encode_request(head)


@pytest.mark.parametrize("vector", named("response"))
def test_response_vectors(vector: dict[str, Any]) -> None:
    head = ResponseHead(
        Code[vector["code"]],
        vector["message"],
        tuple(
            AnyMessage(type_url=any_["type_url"], value=bytes.fromhex(any_["value"]))
            for any_ in vector["details"]
        ),
        pairs_of(vector["initial_metadata"]),
        pairs_of(vector["trailing_metadata"]),
    )
    frames = message(vector)
    assert decode_response(frames[2]) == head
    assert encode_response(head) == frames[2]
    assert (len(frames), frames[1]) == (4, b"")
    assert frames[3] == bytes.fromhex(vector["body"])


@pytest.mark.parametrize("vector", named("malformed request"))
def test_malformed_request_vectors(vector: dict[str, Any]) -> None:
    event = ServerWire[object]().receive([b"peer", *message(vector)])
    if vector["refused"]:
        assert isinstance(event, Refusal)
    else:
        assert event is None
