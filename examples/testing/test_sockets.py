"""Client and server over real sockets, each test in a reactor of its own."""

from __future__ import annotations

import pytest

from examples.testing.services import Greeter, Logs
from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from generated.demo.streams.v1.streams_pb2 import TailRequest
from generated.demo.streams.v1.streams_txzmq import LogsClient
from txzmq.testing import ServeBySockets


@pytest.mark.txzmq
async def test_over_tcp(serve_sockets: ServeBySockets) -> None:
    channel = serve_sockets(Greeter(), Logs())
    assert channel.target.startswith("tcp://127.0.0.1:")
    reply = await GreeterClient(channel).say_hello(HelloRequest(name="Ada"))
    assert reply.message == "Hello, Ada!"
    lines = [line.number async for line in LogsClient(channel).tail(TailRequest(from_line=97))]
    assert lines == [97, 98, 99]
