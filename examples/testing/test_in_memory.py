"""Client and server in memory, in virtual time."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from examples.testing.services import Files, Greeter, Logs, Slow
from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from generated.demo.streams.v1.streams_pb2 import TailRequest, UploadRequest
from generated.demo.streams.v1.streams_txzmq import FilesClient, LogsClient
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    RpcError,
    Server,
    ServerLimits,
    ServerProceed,
    Unavailable,
)
from txzmq.testing import MemoryNetwork, ServeInMemory, assert_all_given_back


def test_a_call(serve: ServeInMemory) -> None:
    greeter = GreeterClient(serve(Greeter()))
    reply = serve.network.result(greeter.say_hello(HelloRequest(name="Ada")))
    assert reply.message == "Hello, Ada!"


@pytest.mark.txzmq
async def test_several_calls(serve: ServeInMemory) -> None:
    channel = serve(Greeter(), Files())
    reply = await GreeterClient(channel).say_hello(HelloRequest(name="Ada"))
    assert reply.message == "Hello, Ada!"
    response = await FilesClient(channel).upload([UploadRequest(piece=b"abc")])
    assert response.size == 3


def test_a_deadline(serve: ServeInMemory) -> None:
    slow = Slow()
    call = GreeterClient(serve(slow)).say_hello(HelloRequest(name="Ada"), timeout=20)
    serve.network.advance(19)
    assert slow.waiting == 1
    with pytest.raises(DeadlineExceeded):
        serve.network.result(call, within=2)
    assert slow.waiting == 0  # the server has cancelled the handler


def test_a_cancelled_call(serve: ServeInMemory) -> None:
    slow = Slow()
    call = GreeterClient(serve(slow)).say_hello(HelloRequest(name="Ada"))
    serve.network.run()
    call.cancel()
    with pytest.raises(CancelledError):
        serve.network.result(call)
    assert slow.waiting == 0
    # At the end serve does it, too, when all is closed.
    assert_all_given_back(*serve.ends)


@pytest.mark.txzmq
async def test_a_stream(serve: ServeInMemory) -> None:
    logs = LogsClient(serve(Logs()))
    lines = [line.number async for line in logs.tail(TailRequest(from_line=95))]
    assert lines == [95, 96, 97, 98, 99]


async def read(logs: LogsClient, lines: list[int]) -> None:
    """Read all lines, and note how far it has come."""
    async for line in logs.tail(TailRequest()):
        lines.append(line.number)  # noqa: PERF401 - each when it comes, not all in the end


@pytest.mark.txzmq_faults(loss=0.2, duplication=0.2, delay=0.5)
def test_a_stream_over_a_bad_network(serve: ServeInMemory) -> None:
    lines: list[int] = []
    channel = serve(Logs())
    done = Deferred.fromCoroutine(read(LogsClient(channel), lines))
    serve.network.advance(0.5)
    serve.network.cut(f"{channel.target}.streams")
    try:
        serve.network.result(done, within=300)
    except RpcError:
        pass  # the opening call was lost, for example; what came before is in order all the same
    assert lines == list(range(len(lines)))


def test_a_limit(serve: ServeInMemory) -> None:
    one = partial(Server, limits=ServerLimits(running=1))
    slow = Slow()
    greeter = GreeterClient(serve(slow, make_server=one))
    for name in ("Ada", "Bob"):
        greeter.say_hello(HelloRequest(name=name)).addErrback(lambda _: None)
    serve.network.run()
    assert slow.waiting == 1
    assert serve.servers[-1].queued == 1


async def shout(request: Any, context: Context, proceed: ServerProceed) -> HelloReply:
    """An interceptor of a server."""
    reply: HelloReply = await proceed(request)
    return HelloReply(message=reply.message.upper())


def test_an_interceptor(serve: ServeInMemory) -> None:
    greeter = GreeterClient(serve(Greeter(), make_server=partial(Server, interceptors=[shout])))
    reply = serve.network.result(greeter.say_hello(HelloRequest(name="Ada")))
    assert reply.message == "HELLO, ADA!"


def test_a_server_that_is_gone(serve: ServeInMemory) -> None:
    channel = serve(Slow(), make_channel=partial(Channel, timeout=60))
    call = GreeterClient(channel).say_hello(HelloRequest(name="Ada"))
    serve.network.run()
    serve.network.cut(channel.target)
    with pytest.raises(Unavailable, match="may have been executed"):
        serve.network.result(call)


def test_time_of_a_test(rpc_clock: Clock, memory_network: MemoryNetwork) -> None:
    memory_network.advance(3600)
    assert rpc_clock.seconds() == 3600
