"""Calls with one response over a channel of gRPC's: what no scenario of both channels shows."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from tests.grpc_channel.support import Rig, add, call, served
from tests.programs import succeeds
from tests.rpc.service import ECHO, MISSING, text
from tests.rpc.streaming import COLLECT, COUNT
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Blocking,
    ClientCall,
    ClientProceed,
    ConnectivityState,
    Context,
    DeadlineExceeded,
    Internal,
    NotFound,
    RawMessage,
    ResourceExhausted,
    RpcError,
    Unavailable,
    Unimplemented,
    current_context,
    raw_method,
)
from txzmq.rpc.context import set_current
from txzmq.rpc.grpc import GrpcChannel


async def error(made: Deferred[Any]) -> BaseException:
    """The error of a call."""
    try:
        response = await made
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError(f"it did not fail, but gave {response}")


def test_a_thousand_calls_at_once(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel()
            calls = [call(channel, ECHO, str(number)) for number in range(1_000)]
            responses: list[StringValue] = await gatherResults(calls)
            assert [response.value for response in responses] == [str(n) for n in range(1_000)]
            assert channel.stats.request_bytes == 0
            assert channel.endpoints[0].load == 0

    grpc_loop.run(main)


@pytest.mark.parametrize("over", [0, 1])
def test_messages_up_to_the_limit(grpc_loop: Loop, over: int) -> None:
    size = 4 * 1024 * 1024

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel()
            value = "x" * (size - 5 + over)
            assert text(value).ByteSize() == size + over
            if over:
                assert "message_size" in str(await error(call(channel, ECHO, value)))
            else:
                assert (await call(channel, ECHO, value)).value == value

    grpc_loop.run(main)


def test_a_response_over_the_limit(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(message_size=1_000)
            stream = call(channel, COUNT, "1 of 2000")
            assert type(await error(stream.ended())) is ResourceExhausted
            small = rig.channel(service_config=_config(maxResponseMessageBytes=3))
            failed = await error(call(small, ECHO, "long"))
            assert type(failed) is ResourceExhausted

    grpc_loop.run(main)


def _config(**more: object) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **more}]}


def test_raw_messages_stay_bytes(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            request = RawMessage(text("raw").SerializeToString() + b"\x78\x01")  # one field more
            response = await rig.channel().unary_unary(raw_method(ECHO.path), request)
            assert type(response) is RawMessage
            assert response == request

    grpc_loop.run(main)


def test_what_the_server_does_not_have(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            failed = await error(rig.channel().unary_unary(MISSING, text("x")))
            assert type(failed) is Unimplemented
            assert failed.method == MISSING.path

    grpc_loop.run(main)


def test_a_deadline_reaches_the_server(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(timeout=20, max_timeout=10)
            await call(channel, ECHO, "x")
            assert rig.notes.remaining is not None
            assert 5 < rig.notes.remaining < 11  # gRPC rounds up
            await call(channel, ECHO, "x", timeout=4)
            assert 1 < rig.notes.remaining < 5
            endless = rig.channel(timeout=None)
            await call(endless, ECHO, "x")
            assert rig.notes.remaining is None or rig.notes.remaining > 1e6

    grpc_loop.run(main)


def test_a_late_call_is_cancelled_at_the_server(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            failed = await error(call(rig.channel(), ECHO, "wait", timeout=0.3))
            assert type(failed) is DeadlineExceeded
            await grpc_loop.until(lambda: rig.notes.cancelled == ["wait"])

    grpc_loop.run(main)


@contextmanager
def handling(loop: Loop, seconds: float) -> Generator[Context]:
    """As in a handler whose call has so much time."""
    clock = loop.reactor
    context = Context("/test.Echo/Outer", clock=clock, deadline=clock.seconds() + seconds)
    set_current(context)
    try:
        yield context
    finally:
        set_current(None)


def test_calls_of_a_handler_inherit_its_deadline_and_its_end(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(timeout=100)
            with handling(grpc_loop, 5):
                await call(channel, ECHO, "x")
            assert rig.notes.remaining is not None
            assert rig.notes.remaining < 6
            with handling(grpc_loop, 50) as context:
                made = [call(channel, ECHO, "wait"), call(channel, COLLECT, ["wait"])]
                stream = call(channel, COUNT, "wait")
            ends = [error(each) for each in (*made, stream.ended())]
            await grpc_loop.until(lambda: rig.notes.seen.count("wait") == 3)
            context.cancel("the client has gone")
            for end in ends:
                assert type(await end) is CancelledError
            await grpc_loop.until(lambda: rig.notes.cancelled.count("wait") == 3)
            with handling(grpc_loop, 50) as context:
                context.cancel("the client has gone")
                assert type(await error(call(channel, ECHO, "x"))) is CancelledError

    grpc_loop.run(main)


def test_callbacks_run_in_no_context_and_no_task_of_asyncio(grpc_loop: Loop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[object] = []

    def note(_: object) -> None:
        seen.append((variable.get(), current_context(), asyncio.current_task()))

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel()

            def calls() -> list[Deferred[Any]]:
                variable.set("the caller's")
                stream = call(channel, COUNT, "2")
                stream.received_initial_metadata().addCallback(note)
                return [
                    call(channel, ECHO, "x").addCallback(note),
                    call(channel, COLLECT, ["x"]).addCallback(note),
                    stream.ended().addCallback(note),
                ]

            await gatherResults(contextvars.copy_context().run(calls))

    grpc_loop.run(main)
    assert seen == [("none", None, None)] * 4


def test_a_coroutine_keeps_its_own_context(grpc_loop: Loop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            variable.set("mine")
            await call(rig.channel(), ECHO, "x")
            assert variable.get() == "mine"

    grpc_loop.run(main)


def test_closing_ends_calls(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel()
            made = [call(channel, ECHO, "wait"), call(channel, COLLECT, ["wait"])]
            streams = [call(channel, COUNT, "wait")]
            await grpc_loop.until(lambda: rig.notes.seen.count("wait") == 3)
            ends = [error(each) for each in (*made, streams[0].ended())]
            channel.close()
            channel.close()
            assert [str(await end) for end in ends] == ["the channel was closed"] * 3
            assert channel.state is ConnectivityState.SHUTDOWN
            await grpc_loop.until(lambda: rig.notes.cancelled.count("wait") == 3)
            for late in (call(channel, ECHO, "x"), call(channel, COUNT, "1").ended()):
                assert "the channel is closed" in str(await error(late))

    grpc_loop.run(main)


def test_calls_that_gRPC_does_not_have_yet_end_with_the_channel(grpc_loop: Loop) -> None:
    """In main() of react(), asyncio's loop does not run yet."""
    outcomes: list[Deferred[BaseException]] = []

    async def main() -> None:
        rig = Rig(grpc_loop)
        channel = rig.channel("127.0.0.1:1")
        made = call(channel, ECHO, "x")
        stream = call(channel, COUNT, "1")
        assert channel.stats.waiting == 2
        made.cancel()
        assert channel.stats.waiting == 1
        outcomes.append(Deferred.fromCoroutine(error(made)))
        outcomes.append(Deferred.fromCoroutine(error(stream.ended())))
        outcomes.append(Deferred.fromCoroutine(error(call(channel, ECHO, "x"))))
        channel.close()
        assert [type(await outcome) for outcome in outcomes] == [CancelledError] * 3

    grpc_loop.run(main)


#: A program that closes nothing.
REACT = """
import os
os.environ["GRPC_VERBOSITY"] = "ERROR"  # its server logs that it ends
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from tests.grpc_channel.support import Rig, call
from tests.rpc.service import ECHO
from tests.rpc.streaming import COUNT
from txzmq.rpc.grpc import GrpcChannel

class Loop:
    def __init__(self, reactor):
        self.reactor = reactor

async def main(reactor):
    rig = Rig(Loop(reactor))
    await rig.serve()
    channel = GrpcChannel(rig.target)
    print((await call(channel, ECHO, "x")).value)
    stream = call(channel, COUNT, "1 then wait")
    await anext(stream)
    for made in (stream.ended(), call(channel, ECHO, "wait")):
        made.addErrback(lambda failure: print(failure.value, channel.state.name))

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


def test_the_channel_is_closed_when_the_reactor_stops() -> None:
    *said, last = succeeds(["-c", REACT]).splitlines()
    assert said == ["x", "the channel was closed SHUTDOWN"]
    assert last == "the channel was closed SHUTDOWN"


# -- servers that are not there, or not gRPC's ----------------------------------------------------


def unused() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_not_there(grpc_loop: Loop) -> None:
    async def main() -> None:
        rig = Rig(grpc_loop)
        channel = rig.channel(unused())
        for made in (
            call(channel, ECHO, "x"),
            call(channel, COLLECT, ["x"]),
            call(channel, COUNT, "1").ended(),
        ):
            failed = await error(made)
            assert type(failed) is Unavailable
            assert "Connection refused" in str(failed)
        while channel.state is not ConnectivityState.TRANSIENT_FAILURE:
            await channel.wait_for_state_change(channel.state)
        assert channel.endpoints[0].reason == f"{channel.target} cannot be reached"
        late = await error(call(channel, ECHO, "x", timeout=0.2, wait_for_ready=True))
        assert type(late) is DeadlineExceeded
        late = await error(call(channel, COUNT, "1", timeout=0.2, wait_for_ready=True).ended())
        assert type(late) is DeadlineExceeded
        await rig.close()

    grpc_loop.run(main)


def test_a_call_waits_for_a_server(grpc_loop: Loop) -> None:
    async def main() -> None:
        rig = Rig(grpc_loop)
        target = unused()
        channel = rig.channel(target, options=[("grpc.initial_reconnect_backoff_ms", 50)])
        made = call(channel, ECHO, "x", wait_for_ready=True)
        collected = call(channel, COLLECT, ["a", "b"], wait_for_ready=True)
        stream = call(channel, COUNT, "2", wait_for_ready=True)
        await rig.serve(target)
        assert (await made).value == "x"
        assert (await collected).value == "a,b"
        await stream.opened()
        assert [item.value async for item in stream] == ["0", "1"]
        await rig.close()

    grpc_loop.run(main)


def test_a_server_that_dies_in_the_middle(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(options=[("grpc.initial_reconnect_backoff_ms", 50)])
            made = call(channel, ECHO, "wait")
            stream = call(channel, COUNT, "1 then wait")
            assert (await anext(stream)).value == "0"
            await grpc_loop.until(lambda: rig.notes.seen == ["wait"] * 2)
            await rig.stop()
            assert isinstance(await error(made), RpcError)
            assert isinstance(await error(stream.ended()), RpcError)
            await rig.serve(rig.target)  # and is there again
            assert (await call(channel, ECHO, "x", wait_for_ready=True)).value == "x"

    grpc_loop.run(main)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100])
def test_a_server_that_speaks_something_else(grpc_loop: Loop, answer: bytes) -> None:
    async def serve() -> asyncio.Server:
        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        return await asyncio.start_server(connected, "127.0.0.1", 0)

    async def main() -> None:
        rig = Rig(grpc_loop)
        server = await rig.run(serve())
        port = server.sockets[0].getsockname()[1]
        failed = await error(call(rig.channel(f"127.0.0.1:{port}"), ECHO, "x"))
        assert type(failed) is Unavailable
        server.close()
        await rig.close()

    grpc_loop.run(main)


class Liar(Rig):
    """A rig whose server also answers with what is no message."""

    def prepare(self, server: grpc.aio.Server) -> None:
        async def lie(request: RawMessage, context: Any) -> RawMessage:
            return RawMessage(b"\xff" * 3)

        add(server, raw_method(MISSING.path), lie)


def test_a_response_that_is_no_message(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Liar) as rig:
            failed = await error(rig.channel().unary_unary(MISSING, text("x")))
            assert type(failed) is Internal
            assert "cannot be parsed" in str(failed)

    grpc_loop.run(main)


# -- interceptors and threads ---------------------------------------------------------------------


def test_an_interceptor_goes_on_twice(grpc_loop: Loop) -> None:
    async def retry(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            return await proceed(call)
        except NotFound:
            return await proceed(call.replace(request=text("again")))

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(interceptors=[retry])
            assert (await call(channel, ECHO, "code 5")).value == "again"

    grpc_loop.run(main)


def test_calls_of_other_threads(grpc_loop: Loop) -> None:
    rig = Rig(grpc_loop)
    channels: list[GrpcChannel] = []

    def start() -> Deferred[None]:
        return Deferred.fromCoroutine(rig.serve()).addCallback(
            lambda _: channels.append(rig.channel())
        )

    def stop() -> Deferred[None]:
        return Deferred.fromCoroutine(rig.close())

    factory = ZmqFactory(grpc_loop.reactor)
    with grpc_loop.in_thread():
        Blocking(factory)(start)
        blocking = Blocking(channels[0])
        assert blocking(channels[0].unary_unary, ECHO, text("x"), timeout=5).value == "x"
        with pytest.raises(NotFound):
            blocking(channels[0].unary_unary, ECHO, text("code 5"))
        Blocking(factory)(stop)
        Blocking(factory)(_shutdown, factory)


async def _shutdown(factory: Any) -> None:
    factory.shutdown()
