"""Streams over a channel of gRPC's: windows, back-pressure, sources, and how they end."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.grpc_channel.support import Rig, call, items, served
from tests.grpc_channel.test_calls import error
from tests.rpc.service import text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import DeadlineExceeded, NotFound, ResponseStream, StreamWriter
from txzmq.rpc.grpc import GrpcChannel

#: Bytes of an item; some of them fill the windows of HTTP/2.
SIZE = 50_000


async def settled(loop: Loop, value: Any) -> int:
    """A number that grows, as soon as it does not for a while."""
    last = -1
    while value() != last:
        last = value()
        await loop.sleep(0.2)
    return last


def test_a_slow_reader_holds_up_the_server(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(stream_window=4)
            stream = call(channel, COUNT, f"2000 of {SIZE}")
            held = await settled(grpc_loop, lambda: rig.notes.given)
            assert 4 <= held < 1_000
            first = await anext(stream)
            assert first.value.startswith("0x")
            assert len(await items(stream)) == 1_999

    grpc_loop.run(main)


def test_the_window_counts_bytes_too(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(stream_window_bytes=SIZE)
            stream = call(channel, COUNT, f"2000 of {SIZE}")
            assert await settled(grpc_loop, lambda: rig.notes.given) < 1_000
            assert len(await items(stream)) == 2_000

    grpc_loop.run(main)


@pytest.mark.parametrize("method", [COLLECT, CHAT], ids=["collect", "chat"])
def test_a_slow_server_holds_up_the_source(grpc_loop: Loop, method: Any) -> None:
    """A server that takes no more leaves off asking; what is read ahead is bounded."""
    given = 0
    closed: list[bool] = []

    async def source() -> AsyncIterator[StringValue]:
        nonlocal given
        try:
            yield text("wait")
            while True:
                given += 1
                yield text("x" * SIZE)
        finally:
            closed.append(True)

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            made = call(rig.channel(), method, source())
            await grpc_loop.until(lambda: rig.notes.seen == ["wait"])
            assert await settled(grpc_loop, lambda: given) < 1_000
            made.cancel()
            if method is COLLECT:
                assert type(await error(made)) is CancelledError
            await grpc_loop.until(lambda: closed and rig.notes.cancelled)

    grpc_loop.run(main)


def test_a_source_waits_for_deferreds(grpc_loop: Loop) -> None:
    """An async generator of Twisted's, a plain one, and a writer."""

    async def slow() -> AsyncIterator[StringValue]:
        for value in "ab":
            await grpc_loop.sleep(0.001)
            yield text(value)

    def plain() -> Iterator[StringValue]:
        yield text("c")

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel()
            assert (await call(channel, COLLECT, slow())).value == "a,b"
            assert await items(call(channel, CHAT, plain())) == ["c"]
            writer: StreamWriter[StringValue] = StreamWriter()
            stream = call(channel, CHAT, writer)
            for value in "de":
                writer.write(text(value))
                assert (await anext(stream)).value == value
            writer.finish()
            assert await items(stream) == []

    grpc_loop.run(main)


@pytest.mark.parametrize("method", [COLLECT, CHAT], ids=["collect", "chat"])
def test_the_server_ends_early(grpc_loop: Loop, method: Any) -> None:
    """The source is asked for no more, and closed, also where it waits."""
    closed: list[str] = []

    async def source() -> AsyncIterator[StringValue]:
        try:
            yield text("enough")
            await Deferred()
        finally:
            closed.append("closed")

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            made = call(rig.channel(), method, source())
            if method is COLLECT:
                assert (await made).value == "enough"
            else:
                assert await items(made) == ["enough"]
            # A Task may ask it for requests, and takes a turn of the loop to close it.
            await grpc_loop.until(lambda: closed)

    grpc_loop.run(main)


def test_a_source_that_fails_when_it_is_closed_is_logged(grpc_loop: Loop, logged: Logged) -> None:
    async def source() -> AsyncIterator[StringValue]:
        try:
            yield text("enough")
            await Deferred()
        finally:
            raise ZeroDivisionError("closing")

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            await call(rig.channel(), COLLECT, source())

    grpc_loop.run(main)
    assert any("failed after the call had ended" in event["log_format"] for event in logged)


def test_a_source_is_not_asked_where_nobody_serves(grpc_loop: Loop) -> None:
    asked: list[bool] = []

    async def source() -> AsyncIterator[StringValue]:
        asked.append(True)
        yield text("x")

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            target = rig.target
            await rig.stop()
            made = call(rig.channel(target), COLLECT, source())
            await error(made)
            await error(call(rig.channel(target), CHAT, source()).ended())

    grpc_loop.run(main)
    assert not asked


def test_a_forgotten_stream_is_cancelled(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            stream: ResponseStream[Any] | None = call(rig.channel(), COUNT, "1 then wait")
            assert stream is not None
            assert (await anext(stream)).value == "0"
            await grpc_loop.until(lambda: rig.notes.seen == ["wait"])
            stream = None
            gc.collect()
            await grpc_loop.until(lambda: rig.notes.cancelled == ["wait"])

    grpc_loop.run(main)


def test_reading_that_is_cancelled_cancels_the_stream(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            reading = Deferred.fromCoroutine(items(call(rig.channel(), COUNT, "wait")))
            await grpc_loop.until(lambda: rig.notes.seen == ["wait"])
            reading.cancel()
            assert type(await error(reading)) is CancelledError
            await grpc_loop.until(lambda: rig.notes.cancelled == ["wait"])

    grpc_loop.run(main)


def test_a_deadline_drops_what_was_not_read(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            stream = call(rig.channel(), COUNT, "3", timeout=0.3)
            await stream.ended()
            await grpc_loop.sleep(0.4)
            with pytest.raises(DeadlineExceeded):
                await items(stream)

    grpc_loop.run(main)


def test_items_come_before_the_error(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            stream = call(rig.channel(), COUNT, "3 then code 5")
            assert type(await error(stream.ended())) is NotFound
            assert [(await anext(stream)).value for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(NotFound):
                await anext(stream)

    grpc_loop.run(main)


def test_a_stream_has_one_reader(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            stream = call(rig.channel(), COUNT, "wait")
            first = Deferred.fromCoroutine(items(stream))
            with pytest.raises(RuntimeError, match="one reader"):
                await anext(stream)
            stream.skip_gaps().cancel()
            assert type(await error(first)) is CancelledError
            stream.cancel()

    grpc_loop.run(main)


def test_many_streams_at_once(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel: GrpcChannel = rig.channel()
            reading = [Deferred.fromCoroutine(items(call(channel, COUNT, "20"))) for _ in range(50)]
            expected = [str(number) for number in range(20)]
            for each in reading:
                assert await each == expected

    grpc_loop.run(main)
