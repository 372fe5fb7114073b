"""Calls of gRPC's clients through a gateway."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
from twisted.internet.defer import Deferred, succeed

from tests.grpc_channel.support import DETAIL
from tests.grpc_gateway.support import Rig, failure, raw, stub, texts, through
from tests.rpc.service import ECHO, MISSING, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Code, Method, RawMessage, RpcError
from txzmq.rpc.v1.header_pb2 import Status

MIB = 1024 * 1024


def test_all_four_kinds(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        assert await stub(client, ECHO)(text("a")) == text("a")
        assert [item async for item in stub(client, COUNT)(text("3"))] == texts("0", "1", "2")
        assert await stub(client, COLLECT)(texts("a", "b")) == text("a,b")
        assert [item async for item in stub(client, CHAT)(texts("a", "b"))] == texts("a", "b")

    through(grpc_loop, body)


def test_all_four_kinds_by_the_sync_api(grpc_loop: Loop) -> None:
    def calls(target: str) -> None:
        with grpc.insecure_channel(target) as client:
            assert stub(client, ECHO)(text("a"), timeout=5) == text("a")
            assert list(stub(client, COUNT)(text("2"), timeout=5)) == texts("0", "1")
            assert stub(client, COLLECT)(iter(texts("a", "b")), timeout=5) == text("a,b")
            assert list(stub(client, CHAT)(iter(texts("a", "b")))) == texts("a", "b")
            with pytest.raises(grpc.RpcError) as caught:
                stub(client, ECHO)(text("code 5"))
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.NOT_FOUND

    async def body(rig: Rig) -> None:
        await asyncio.to_thread(calls, rig.target)

    through(grpc_loop, body)


def test_a_thousand_calls_at_once(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        echo = stub(rig.client(), ECHO)
        responses = await asyncio.gather(*(echo(text(str(number))) for number in range(1_000)))
        assert [response.value for response in responses] == [str(n) for n in range(1_000)]
        assert rig.channel.stats.request_bytes == 0

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, CHAT])
def test_large_messages(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    value = "x" * MIB

    async def body(rig: Rig) -> None:
        call = stub(rig.client(), method)
        if method is ECHO:
            assert (await call(text(value))).value == value
        else:
            items = [item.value async for item in call(texts(*[value] * 8))]
            assert items == [value] * 8

    through(grpc_loop, body)


def test_an_empty_message_is_one(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        assert await stub(client, ECHO)(text("")) == text("")
        assert [item async for item in stub(client, CHAT)(texts("", ""))] == texts("", "")
        assert [item async for item in stub(client, CHAT)([])] == []

    through(grpc_loop, body)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_errors_with_their_details(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()

        def call(value: str) -> Any:
            given = texts(value) if method.kind.request_streaming else text(value)
            return stub(client, method)(given)

        for code in grpc.StatusCode:
            number: int = code.value[0]
            if number:
                error = await failure(call(f"code {number}"))
                assert (error.code(), error.details()) == (code, f"code {number}")
                assert dict(tuple(error.trailing_metadata())) == {"t": "1", "t-bin": b"\x00\xff"}
        error = await failure(call("details \t☺\n"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "details \t☺\n"
        pairs: dict[str, Any] = dict(tuple(error.trailing_metadata()))
        assert Status.FromString(pairs["grpc-status-details-bin"]) == Status(
            code=5, message="details \t☺\n", details=[DETAIL]
        )

    through(grpc_loop, body)


def test_methods_that_are_not_there(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        error = await failure(stub(rig.client(), MISSING)(text("a")))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == "the gateway knows of no method /test.Echo/Missing"

    through(grpc_loop, body)


def test_services_for_callers_on_the_same_machine(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        error = await failure(raw(rig.client(), "/txzmq.rpc.v1.Admin/ListPeers")(b""))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "the gateway does not pass /txzmq.rpc.v1.Admin/ListPeers on" in error.details()

    through(grpc_loop, body)


HEALTH = "/grpc.health.v1.Health/Check"


class Sources:
    """What a gateway knows of methods, as a test says it."""

    def __init__(self, outcome: Any, *, later: bool) -> None:
        self.outcome = outcome
        self.later = later
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    def of(self, _: Any) -> Sources:
        """This one, whatever the channel."""
        return self

    def find(self, path: str) -> Any:
        self.asked.append(path)
        if not self.later:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return self.outcome
        found: Deferred[Any] = Deferred(lambda _: self.cancelled.append(path))
        if self.outcome is not None:
            result = None if self.outcome == "nothing" else self.outcome
            asyncio.get_running_loop().call_later(
                0.01, found.errback if isinstance(result, Exception) else found.callback, result
            )
        return found


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_methods_that_are_found_later(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        call = stub(rig.client(), method)
        given = texts("1") if method.kind.request_streaming else text("1")
        if method.kind.response_streaming:
            expected = texts("0") if method is COUNT else texts("1")
            assert [item async for item in call(given)] == expected
        else:
            assert await call(given) == text("1")

    through(grpc_loop, body, methods=Sources(method, later=True).of)


@pytest.mark.parametrize("later", [False, True])
def test_a_source_that_fails(grpc_loop: Loop, logged: Logged, later: bool) -> None:
    async def body(rig: Rig) -> None:
        call = stub(rig.client(), ECHO)
        source.outcome = RpcError(Code.UNAVAILABLE, "ask later")
        error = await failure(call(text("a")))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "ask later")
        assert not logged.failures()
        source.outcome = ValueError("secret")
        error = await failure(call(text("a")))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "the gateway failed to pass the call on; its log says why"
        assert [str(failed) for failed in logged.failures()] == ["secret"]
        if later:
            source.outcome = "nothing"
            error = await failure(call(text("a")))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    source = Sources(None, later=later)
    through(grpc_loop, body, methods=source.of)


def test_a_call_that_is_cancelled_while_its_method_is_looked_for(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        error = await failure(stub(rig.client(), ECHO)(text("a"), timeout=0.05))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await rig.until(lambda: source.cancelled == [ECHO.path])

    source = Sources(None, later=True)
    through(grpc_loop, body, methods=source.of)


@pytest.mark.parametrize("how", ["too many", "cancelled", "no request"])
def test_a_source_that_fails_when_nobody_waits(grpc_loop: Loop, logged: Logged, how: str) -> None:
    """A stranger fills no log by it."""

    async def body(rig: Rig) -> None:
        client = rig.client()
        if how == "too many":
            holding = raw(client, HEALTH, "stream_stream")()
            await holding.wait_for_connection()
            await rig.until(lambda: source.asked)
            error = await failure(stub(client, ECHO)(text("a")))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            holding.cancel()
        else:
            call = raw(client, HEALTH, "stream_stream")()
            await call.wait_for_connection()
            await rig.until(lambda: source.asked)
            if how == "cancelled":
                call.cancel()
            else:
                await call.done_writing()
                await failure(call)
        await asyncio.sleep(0.05)  # behind the source

    source = Sources(ValueError("secret"), later=True)
    through(grpc_loop, body, methods=source.of, maximum_concurrent_rpcs=1)
    gc.collect()
    assert logged.failures() == []


def test_a_method_with_one_request_that_gets_none(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        call = raw(rig.client(), COUNT.path, "stream_stream")(iter(()))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "the gateway got no request for /test.Streaming/Count" in error.details()

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, COUNT])
def test_a_channel_that_is_closed_under_a_call(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        call = asyncio.ensure_future(failure(stub(rig.client(), method)(text("wait"))))
        await rig.until(lambda: rig.notes.seen)
        rig.channel.close()
        error = await call
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the gateway is shutting down, and has ended the call" in error.details()

    through(grpc_loop, body)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_requests_over_the_limit(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        fits, over = "a" * 998, "a" * 998 + "b"  # three bytes more when they are serialised
        streams = method.kind.request_streaming
        call = stub(rig.client(), method)
        if method is not COUNT:  # which takes numbers
            fine = call(texts(fits) if streams else text(fits))
            if method is CHAT:
                assert [item.value async for item in fine] == [fits]
            else:
                await fine
        seen = len(rig.notes.seen)
        error = await failure(call(texts("first", over) if streams else text(over)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == (
            "the gateway does not pass on a request of 1002 bytes: its message_size is 1001"
        )
        assert rig.notes.seen[seen:] in ([], ["first"])

    through(grpc_loop, body, gateway={"message_size": 1_001})


@pytest.mark.parametrize("method", [ECHO, COLLECT, CHAT])
def test_requests_that_grpc_refuses_itself(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    """They are cut off: the handler must not take what came before them for all."""

    async def body(rig: Rig) -> None:
        over = "a" * 10_000
        given = texts("first", over) if method.kind.request_streaming else text(over)
        error = await failure(stub(rig.client(), method)(given))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub(rig.client(), ECHO)(text("after"))
        assert rig.notes.seen[-1] == "after"
        assert rig.notes.complete == []

    through(grpc_loop, body, gateway={"message_size": 1_000})


class Large:
    """A channel to servers that answer more than the gateway passes on."""

    def unary_unary(self, *_: Any, **options: Any) -> Deferred[RawMessage]:
        return succeed(RawMessage(b"x" * 11))

    stream_unary = unary_unary


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT])
def test_responses_over_the_limit(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        given = texts("1") if method.kind.request_streaming else text("1 of 9")
        error = await failure(stub(rig.client(), method)(given))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the gateway does not pass on a response of 1" in error.details()

    through(
        grpc_loop, body, gateway={"message_size": 10}, caller=None if method is COUNT else Large()
    )
