"""What passes through a gateway besides messages: time, ends, metadata, back-pressure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
from google.protobuf.wrappers_pb2 import StringValue

from tests.grpc_gateway.support import Rig, failure, stub, texts, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Loop
from txzmq.rpc import Method
from txzmq.rpc._grpc.statuses import end_to_end

KINDS = [ECHO, COUNT, COLLECT, CHAT]
#: For a handler of each kind that waits until it is cancelled.
WAIT = "wait"


def start(rig: Rig, method: Method[Any, Any], *, client: Any = None, **options: Any) -> Any:
    """A call that waits; one whose requests stream has given one, and not the last."""
    call = stub(client or rig.client(), method)
    if not method.kind.request_streaming:
        return call(text(WAIT), **options)

    async def requests() -> Any:
        yield text(WAIT)
        await asyncio.Event().wait()

    return call(requests(), **options)


@pytest.mark.parametrize("method", KINDS)
def test_the_handler_has_the_time_of_the_client(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        call = start(rig, method, timeout=30)
        await rig.until(lambda: rig.notes.seen)
        assert rig.notes.remaining is not None
        # What gRPC writes on the wire has few digits, and is rounded up.
        assert 20 < rig.notes.remaining < 31
        call.cancel()

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, CHAT])
def test_more_calls_than_may_go_on_at_once_are_refused(
    grpc_loop: Loop, method: Method[Any, Any]
) -> None:
    async def body(rig: Rig) -> None:
        calls = [start(rig, method) for _ in range(2)]
        await rig.until(lambda: rig.notes.seen == [WAIT] * 2)
        error = await failure(start(rig, method))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        await rig.until(lambda: rig.notes.cancelled == [WAIT] * 2)
        assert rig.notes.seen == [WAIT] * 2

    through(grpc_loop, body, maximum_concurrent_rpcs=2)


@pytest.mark.parametrize("method", [ECHO, CHAT])
def test_deadlines(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        await client.channel_ready()
        error = await failure(start(rig, method, client=client, timeout=1))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await rig.until(lambda: rig.notes.cancelled == [WAIT])

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
def test_a_call_without_a_deadline_has_not_the_channels(
    grpc_loop: Loop, method: Method[Any, Any]
) -> None:
    async def body(rig: Rig) -> None:
        call = start(rig, method)
        await rig.until(lambda: rig.notes.seen)
        assert rig.notes.remaining is None or rig.notes.remaining > 100
        call.cancel()

    through(grpc_loop, body, channel={"timeout": 1.0})


@pytest.mark.parametrize("method", KINDS)
def test_a_call_that_its_client_cancels(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        call = start(rig, method)
        await rig.until(lambda: rig.notes.seen == [WAIT])
        call.cancel()
        await rig.until(lambda: rig.notes.cancelled == [WAIT])
        assert rig.notes.complete == []

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
def test_a_client_that_is_cut_off(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        wire = rig.wire()
        call = start(rig, method, client=rig.client(wire.target))
        await rig.until(lambda: rig.notes.seen == [WAIT])
        wire.cut()
        await rig.until(lambda: rig.notes.cancelled == [WAIT])
        assert rig.notes.complete == []
        call.cancel()

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
def test_a_client_that_says_nothing_any_more(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    """Its connection stays open, as of a process that stands, or a machine that is off."""

    async def body(rig: Rig) -> None:
        wire = rig.wire()
        call = start(rig, method, client=rig.client(wire.target))
        await rig.until(lambda: rig.notes.seen == [WAIT])
        wire.stop_forwarding()
        async with asyncio.timeout(15):
            while rig.notes.cancelled != [WAIT]:
                await asyncio.sleep(0.02)
        assert rig.notes.complete == []
        call.cancel()

    through(grpc_loop, body, keepalive=0.5, keepalive_timeout=0.5)


@pytest.mark.parametrize("method", [COLLECT, CHAT])
@pytest.mark.parametrize("how", ["cut", "cancel"])
def test_requests_that_break_off_are_not_taken_for_all(
    grpc_loop: Loop, method: Method[Any, Any], how: str
) -> None:
    """The gateway waits for the next request, and gRPC says that there is none."""

    async def body(rig: Rig) -> None:
        for number in range(10):
            wire = rig.wire()
            call = stub(rig.client(wire.target), method)()
            await call.write(text(str(number)))
            await rig.until(lambda: len(rig.notes.seen) == number + 1)  # noqa: B023 - awaited here
            if how == "cut":
                wire.cut()
            else:
                call.cancel()
        await rig.until(lambda: rig.server.running == 0)
        assert rig.notes.complete == []

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
def test_metadata_both_ways(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    sent = (("x-text", "a b"), ("x-bytes-bin", bytes(range(256))), ("x-text", "again"))

    async def body(rig: Rig) -> None:
        given = texts("metadata") if method.kind.request_streaming else text("metadata")
        call = stub(rig.client(), method)(given, metadata=sent)
        if method.kind.response_streaming:
            _ = [item async for item in call]
        else:
            await call
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        assert sorted(_own(initial), key=repr) == sorted([("initial", "1"), *sent], key=repr)
        assert sorted(_own(trailing), key=repr) == sorted([("trailing", "2"), *sent], key=repr)

    through(grpc_loop, body)


def _own(metadata: Any) -> list[tuple[str, str | bytes]]:
    """Without what gRPC adds itself."""
    return [(key, value) for key, value in metadata if key[0] in "itx"]


def test_metadata_that_are_not_passed_on() -> None:
    kept = (("x", "1"), ("user-agent", "grpc"), ("authorization", "Bearer x"), ("y-bin", b"\xff"))
    mine = (("grpc-timeout", "1S"), ("grpc-status-details-bin", b""), (":path", "/"), ("te", "t"))
    retries = (("grpc-retry-pushback-ms", "9"), ("grpc-previous-rpc-attempts", "1"))
    hops = (("connection", "x"), ("content-type", "a/b"), ("transfer-encoding", "chunked"))
    assert end_to_end((*mine, *kept, *hops)) == kept
    assert end_to_end((*mine, *retries)) == retries
    assert end_to_end(None) == ()


def test_metadata_that_a_channel_does_not_take(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        call = stub(rig.client(), ECHO)(text("a"), metadata=(("txzmq-x", "1"),))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == (
            "the gateway cannot pass the call on: the metadata key 'txzmq-x' is reserved: it "
            "begins with txzmq-"
        )

    through(grpc_loop, body)


def test_a_slow_reader_holds_up_the_handler(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        items = aiter(stub(rig.client(), COUNT)(text("4000 of 10000")))
        assert (await anext(items)).value.startswith("0x")
        given = -1
        async with asyncio.timeout(10):
            while given != rig.notes.given:  # until it stands still
                given = rig.notes.given
                await asyncio.sleep(0.2)
        # The windows of both ends, and of HTTP/2, are far below the stream's 40 MB.
        assert 1 < given < 1_000
        rest: list[StringValue] = [item async for item in items]
        assert len(rest) == 3_999
        assert rest[-1].value.startswith("3999x")

    through(grpc_loop, body, channel={"stream_window": 16})


def test_a_slow_handler_holds_up_the_client(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        call = stub(rig.client(), CHAT)()
        await call.write(text(WAIT))
        await rig.until(lambda: rig.notes.seen == [WAIT])

        async def write(number: int) -> None:
            for _ in range(number):
                async with asyncio.timeout(0.5):
                    await call.write(text("x" * 10_000))

        with pytest.raises(TimeoutError):
            await write(5_000)  # or 50 MB went somewhere
        call.cancel()
        await rig.until(lambda: rig.notes.cancelled == [WAIT])

    through(grpc_loop, body)


def test_a_server_that_is_lost(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        await rig.server.stop(0).asFuture(asyncio.get_running_loop())
        error = await failure(stub(rig.client(), ECHO)(text("a")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == (
            "the gateway cannot reach a server of test.Echo; the call was not sent"
        )
        error = await failure(stub(rig.client(), COUNT)(text("a")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    through(grpc_loop, body)
