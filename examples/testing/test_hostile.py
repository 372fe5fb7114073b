"""A peer that does not keep to the protocol, by raw frames in memory."""

from __future__ import annotations

import pytest

from examples.testing.services import Greeter
from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq.rpc import Channel, Internal
from txzmq.testing import MemoryNetwork, ServeInMemory


class Peer:
    """The handler of a socket, of either side, that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []

    def received(self, message: list[bytes]) -> None:
        self.messages.append(message)

    # What sockets tell besides, and what is of no interest here.
    def connected(self) -> None: ...
    def disconnected(self) -> None: ...
    def accepted(self, what: str) -> None: ...
    def unreachable(self, reason: str) -> None: ...
    def failed(self, reason: str) -> None: ...
    def refused(self, reason: str, *, is_last: bool) -> None: ...
    def peer_lost(self, peer: bytes) -> None: ...
    def flush(self) -> None: ...
    def closed(self) -> None: ...


def test_a_client_that_sends_garbage(serve: ServeInMemory) -> None:
    channel = serve(Greeter())
    socket = serve.network.connect(channel.target, Peer(), {})
    serve.network.run()
    for message in ([b""], [b"id", b"", b"\xff\xff", b""], [b"\0" * 1000] * 100):
        socket.send_message(message)
    serve.network.advance(1)
    # Others are served.
    reply = serve.network.result(GreeterClient(channel).say_hello(HelloRequest(name="Ada")))
    assert reply.message == "Hello, Ada!"
    assert sum(serve.servers[0].counters.values()) > 0  # what was refused, by its reason
    socket.close()


def test_a_server_that_answers_with_garbage(memory_network: MemoryNetwork) -> None:
    server = Peer()
    socket = memory_network.listen("inproc://hostile", server, {})
    channel = Channel(memory_network, "inproc://hostile")
    call = GreeterClient(channel).say_hello(HelloRequest(name="Ada"))
    memory_network.run()
    peer, request_id, _empty, _header, _body = server.messages[0]
    # A header of success, and a body that is no HelloReply.
    socket.send_message([peer, request_id, b"", b"", b"\xff"])
    with pytest.raises(Internal, match="cannot be parsed"):
        memory_network.result(call)
    channel.close()
    socket.close()
