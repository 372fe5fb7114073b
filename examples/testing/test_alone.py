"""A handler alone, and a client that is a fake: no server, no network."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from examples.testing.services import Files, Greeter, greet_all
from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterFakeClient, GreeterMethods
from generated.demo.streams.v1.streams_pb2 import UploadRequest
from txzmq.rpc import InvalidArgument, Unavailable
from txzmq.testing import MemoryNetwork, call_context, calls, request_stream


def test_a_handler() -> None:
    context = call_context(GreeterMethods.say_hello, metadata={"word": "Hi"})
    reply = Greeter().say_hello(HelloRequest(name="Ada"), context)
    assert reply.message == "Hi, Ada!"
    assert context.trailing_metadata == (("length", "3"),)
    with pytest.raises(InvalidArgument, match="whom"):
        Greeter().say_hello(HelloRequest(), call_context())


def test_what_a_handler_knows_of_time() -> None:
    clock = Clock()
    context = call_context(timeout=5, clock=clock)
    clock.advance(2)
    assert context.time_remaining() == 3


def test_a_handler_that_reads_a_stream() -> None:
    requests = request_stream([UploadRequest(piece=b"ab"), UploadRequest(piece=b"c")])
    # Runs a coroutine to its end; no time has to pass for this one.
    response = MemoryNetwork().result(Files().upload(requests, call_context()))
    assert response.size == 3


def test_code_that_calls() -> None:
    def say_hello(request: HelloRequest) -> HelloReply:
        if request.name == "Bob":
            raise Unavailable("no server")
        return HelloReply(message=f"Hello, {request.name}!")

    fake = GreeterFakeClient(say_hello=say_hello)
    greetings = MemoryNetwork().result(greet_all(fake, ["Ada", "Bob"]))
    assert greetings == ["Hello, Ada!"]
    made = calls(fake, GreeterMethods.say_hello)
    assert [call.request.name for call in made] == ["Ada", "Bob"]
    assert made[0].timeout == 5
