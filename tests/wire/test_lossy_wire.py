"""Clients, a proxy and a server over a wire that loses, doubles and reorders."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.wire.strategies import WIRE, frames
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import OK, RequestHead, encode_request, encode_response
from txzmq.rpc._wire.server import CallKey, Request, ServerWire
from txzmq.rpc.v1.control_pb2 import CancelRequest

HEADER = encode_request(RequestHead("/demo.Greeter/SayHello", None, ()))
CANCEL = encode_request(RequestHead("/txzmq.rpc.v1.Control/Cancel", None, ()))

#: Two clients of the server's own, two behind a proxy.
CLIENTS = range(4)
clients = st.sampled_from(CLIENTS)


class Way(NamedTuple):
    """A message on its way: who sent it, or who gets it."""

    client: int
    message: list[bytes]


class LossyWire(RuleBasedStateMachine):
    """Each call ends at most once, and by its own answer; no request is executed twice."""

    def __init__(self) -> None:
        super().__init__()
        # The worst case: all clients choose the same ids.
        with mock.patch("os.urandom", bytes):
            self.clients: list[ClientWire[str]] = [ClientWire() for _ in CLIENTS]
        self.server: ServerWire[str] = ServerWire()
        self.peers = [b"\0peer0", b"\0peer1", b"\0proxy"]
        self.requests: list[Way] = []
        self.replies: list[Way] = []
        self.ids: dict[str, bytes] = {}  # of the calls that wait
        self.running: dict[CallKey, str] = {}
        self.made = 0
        self.executed: set[str] = set()
        self.ended: list[str] = []

    def routing(self, client: int) -> list[bytes]:
        return [self.peers[min(client, 2)], *([b"client%d" % client] if client >= 2 else [])]

    # -- the clients ---------------------------------------------------------------------------

    @rule(client=clients)
    def call(self, client: int) -> None:
        self.made += 1
        name = f"call {self.made} of {client}"
        message = self.clients[client].request(name, HEADER, name.encode())
        self.ids[name] = message[0]
        self.requests.append(Way(client, [*self.routing(client), *message]))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        client = int(name[-1])
        request_id = self.ids.pop(name)
        assert self.clients[client].forget(request_id) == name
        self.ended.append(name)
        body = CancelRequest(request_ids=[request_id]).SerializeToString()
        message = self.clients[client].request("cancel", CANCEL, body)
        assert self.clients[client].forget(message[0]) == "cancel"  # nobody waits for its reply
        self.requests.append(Way(client, [*self.routing(client), *message]))

    def got_reply(self, client: int, message: list[bytes]) -> None:
        reply = self.clients[client].receive(message)
        if reply is not None:
            assert int(reply.call[-1]) == client
            assert reply.body.decode() == f"answer to {reply.call}"
            assert reply.head == OK
            assert message[0] == self.ids.pop(reply.call)
            self.ended.append(reply.call)

    # -- the server ----------------------------------------------------------------------------

    def got_request(self, message: list[bytes]) -> None:
        event = self.server.receive(message)
        if not isinstance(event, Request):
            return
        if event.head.path.endswith("Cancel"):
            for request_id in CancelRequest.FromString(event.body).request_ids:
                key = (*event.key[:-1], request_id)
                assert self.server.finish(key) == self.running.pop(key, None)
            return
        name = event.body.decode()
        assert name not in self.executed
        self.executed.add(name)
        self.running[event.key] = name
        assert self.server.start(event.key, name)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        name = self.running.pop(key)
        assert self.server.find(key) == name
        assert self.server.finish(key) == name
        # Routed as a ROUTER and a proxy do it: by the frames in front, to whoever has them now.
        for client in CLIENTS:
            routing = self.routing(client)
            if list(key[: len(routing)]) == routing and len(key) == len(routing) + 1:
                message = [key[-1], b"", encode_response(OK), f"answer to {name}".encode()]
                self.replies.append(Way(client, message))

    # -- the wire ------------------------------------------------------------------------------

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), doubled=st.booleans())
    def carry_a_request(self, data: st.DataObject, doubled: bool) -> None:
        way = data.draw(st.sampled_from(self.requests))
        if not doubled:
            self.requests.remove(way)
        self.got_request(list(way.message))

    @precondition(lambda self: self.replies)
    @rule(data=st.data(), doubled=st.booleans())
    def carry_a_reply(self, data: st.DataObject, doubled: bool) -> None:
        way = data.draw(st.sampled_from(self.replies))
        if not doubled:
            self.replies.remove(way)
        self.got_reply(way.client, list(way.message))

    @precondition(lambda self: self.requests or self.replies)
    @rule(data=st.data())
    def lose_a_message(self, data: st.DataObject) -> None:
        way = data.draw(st.sampled_from([*self.requests, *self.replies]))
        (self.requests if way in self.requests else self.replies).remove(way)

    @rule(client=clients, parts=frames)
    def send_garbage(self, client: int, parts: list[bytes]) -> None:
        self.got_request([*self.routing(client), *parts])
        self.got_reply(client, list(parts))

    @rule(peer=st.integers(0, 2))
    def cut(self, peer: int) -> None:
        """A connection breaks; what is under way on it is lost, and another one is made."""
        lost = [name for key, name in self.running.items() if key[0] == self.peers[peer]]
        assert sorted(self.server.lost(self.peers[peer])) == sorted(lost)
        self.running = {k: name for k, name in self.running.items() if k[0] != self.peers[peer]}
        self.requests = [way for way in self.requests if way.message[0] != self.peers[peer]]
        self.peers[peer] += b"'"
        if peer < 2:
            calls = self.clients[peer].forget_all()
            self.ended += calls
            for name in calls:
                del self.ids[name]

    # -- what must be ---------------------------------------------------------------------------

    @invariant()
    def each_call_ends_at_most_once(self) -> None:
        assert len(self.ended) == len(set(self.ended))
        assert len(self.ended) + len(self.ids) == self.made

    @invariant()
    def the_tables_hold_what_waits_and_what_runs(self) -> None:
        assert sum(map(len, self.clients)) == len(self.ids)
        assert sorted(self.server.calls()) == sorted(self.running.values())
        assert len(self.server) == len(self.running)

    def teardown(self) -> None:
        for peer in range(3):
            self.cut(peer)
        for client in self.clients:
            self.ended += client.forget_all()
        self.ids.clear()
        self.each_call_ends_at_most_once()
        self.the_tables_hold_what_waits_and_what_runs()
        tables: Any = vars(self.server)  # Any: looked into on purpose
        assert not tables["_peers"]


TestLossyWire = LossyWire.TestCase
TestLossyWire.settings = settings(WIRE, max_examples=100, stateful_step_count=60)
