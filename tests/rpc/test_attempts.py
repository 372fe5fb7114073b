"""What calls made of several attempts say and leave behind, whatever kind they are."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Generator
from typing import Any, ClassVar

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from tests.rpc.streaming import Reader
from tests.support import error_of
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    IdempotencyLevel,
    Kind,
    Method,
    RequestStream,
    ResourceExhausted,
    ResponseMetadata,
    RpcError,
    Server,
    Service,
    Unavailable,
)
from txzmq.testing import MemoryNetwork

_IDEMPOTENT = IdempotencyLevel.IDEMPOTENT
ECHO = Method("/t.S/Echo", "echo", StringValue, StringValue, idempotency_level=_IDEMPOTENT)
COUNT = Method(
    "/t.S/Count",
    "count",
    StringValue,
    StringValue,
    kind=Kind.UNARY_STREAM,
    idempotency_level=_IDEMPOTENT,
)
COLLECT = Method(
    "/t.S/Collect",
    "collect",
    StringValue,
    StringValue,
    kind=Kind.STREAM_UNARY,
    idempotency_level=_IDEMPOTENT,
)


class Services:
    """Says what it knows, and how often it ran."""

    __txzmq_service__: ClassVar[Service] = Service("t.S", (ECHO, COUNT, COLLECT))

    def __init__(self) -> None:
        self.runs = 0
        self.left: list[float | None] = []

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.runs += 1
        self.left.append(context.time_remaining())
        return request

    async def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.runs += 1
        if self.runs == 1:
            raise RpcError(Code.UNAVAILABLE, "try again", metadata={"attempt": "the first"})
        yield text("1")
        await Deferred()

    async def collect(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        async for _ in requests:
            pass
        self.runs += 1
        return text("x" * 500)


def retrying(**method: Any) -> dict[str, Any]:
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    return {"methodConfig": [{"name": [{"service": "t.S"}], "retryPolicy": policy, **method}]}


class World:
    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.service = Services()
        self.server = Server(self.network, [self.service])

    def listen(self) -> None:
        self.server.listen("inproc://t")

    def channel(self, **options: Any) -> Channel:
        return Channel(self.network, "inproc://t", **options)

    def close(self) -> None:
        self.server.stop(0)
        self.network.advance(10)


@pytest.fixture
def world() -> Generator[World]:
    world = World()
    yield world
    world.close()


def test_an_attempt_after_one_that_found_no_server_has_less_time(world: World) -> None:
    channel = world.channel(service_config=retrying())
    world.network.run()
    channel.unary_unary(ECHO, text("x"), timeout=5)
    world.listen()
    world.network.advance(5)
    assert world.service.left == [pytest.approx(3.9, abs=0.3)]
    channel.close()


def test_a_response_that_only_the_client_refuses_is_not_asked_for_again(world: World) -> None:
    world.listen()
    channel = world.channel(service_config=retrying(maxResponseMessageBytes=100))
    with pytest.raises(ResourceExhausted, match="over the client's limit"):
        world.network.result(channel.stream_unary(COLLECT, [text("a")]))
    assert world.service.runs == 1
    channel.close()


def test_nobody_hears_of_the_metadata_of_an_attempt_that_failed(world: World) -> None:
    world.listen()
    channel = world.channel(service_config=retrying())
    with ResponseMetadata() as metadata:
        stream = channel.unary_stream(COUNT, text("x"))
    reader = Reader(stream)
    world.network.advance(3)
    assert reader.items == ["1"]
    assert (stream.trailing_metadata, metadata.trailing) == ((), ())
    stream.cancel()
    channel.close()


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="other collectors do not count what they find"
)
def test_calls_with_a_policy_leave_nothing_to_the_collector(world: World) -> None:
    world.listen()
    channel = world.channel(service_config=retrying())

    def call() -> None:
        channel.unary_unary(ECHO, text("x"))
        world.network.advance(1)

    call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call()
        assert gc.collect() < 20, "less than one object for each call"
    finally:
        gc.enable()
    channel.close()


def test_an_interceptor_may_go_on_again_while_the_channel_closes(world: World) -> None:
    async def again(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            return await proceed(call)
        except Exception:  # noqa: BLE001 - whatever it was
            over.append(call.over)
            return await proceed(call)

    over: list[bool] = []
    channel = world.channel(interceptors=[again])
    waiting = channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
    ends: list[Any] = []
    waiting.addErrback(lambda failure: ends.append(error_of(failure)))
    world.network.advance(1)
    channel.close()
    assert over == [False]
    (end,) = ends
    assert isinstance(end, Unavailable)
    assert end.message == "the channel is closed"
