"""What clients may send to a gateway's port for gRPC that is wrong, or too much.

What is wrong ends its call or its connection. Nothing of it is left, and others go on.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
pytest.importorskip("h2.connection", reason="h2 is not installed here")
import grpc
import h2.connection

from tests.grpc_gateway.support import Rig, failure, raw, stub, texts, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT
from tests.support import PATIENCE, Loop

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
MIB = 1024 * 1024


async def still_serves(rig: Rig) -> None:
    """Others go on, and nothing is left."""
    assert await stub(rig.client(), ECHO)(text("a")) == text("a")
    await rig.until(lambda: rig.server.running == 0)
    assert rig.channel.stats.request_bytes == 0


def exchange(target: str, data: bytes) -> bytes:
    """Send bytes, close that direction, and read until the gateway closes the other."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        received = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65_536):
                received += piece
        except ConnectionError:
            pass  # it wants no more of it
        return received


class Http2:
    """A client that speaks HTTP/2, and what it likes on top of it."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.connection: Any = h2.connection.H2Connection()
        self.connection.initiate_connection()
        self._flush()

    def send(
        self, path: str, body: bytes, headers: dict[str, str] | None = None, *, ends: bool = True
    ) -> None:
        """Make a call; a header that is empty is left out."""
        pairs = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
            **(headers or {}),
        }
        self.connection.send_headers(1, [(key, value) for key, value in pairs.items() if value])
        self.connection.send_data(1, body, end_stream=ends)
        self._flush()

    def call(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> dict[str, str]:
        """Make a call; headers and trailers of the response, or how the stream has ended."""
        self.send(path, body, headers)
        return dict(self._answer())

    def _answer(self) -> Iterator[tuple[str, str]]:
        while data := self.socket.recv(65_536):
            for event in self.connection.receive_data(data):
                for key, value in getattr(event, "headers", None) or ():
                    yield key.decode(), value.decode()
                if type(event).__name__ == "StreamReset":
                    yield "reset", str(int(event.error_code))
                if type(event).__name__ in ("StreamEnded", "StreamReset"):
                    return
            self._flush()
        yield "closed", ""

    def _flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def close(self) -> None:
        """Leave, without a word."""
        self.socket.close()


def framed(data: bytes, *, size: int | None = None, compressed: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", compressed, len(data) if size is None else size) + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # the beginning of TLS
        PREFACE,
        PREFACE[:10],
        PREFACE + SETTINGS[:5],
        PREFACE + b"\xff" * 1_000,
        PREFACE + SETTINGS + b"\x00\x40\x00\x01\x04\x00\x00\x00\x01" + b"x" * 10,  # half of HEADERS
        PREFACE + SETTINGS + b"\x00\x00\x05\x01\x04\x00\x00\x00\x01" + b"\xff" * 5,  # no HPACK
        PREFACE + SETTINGS + b"\x00\x00\x04\x08\x00\x00\x00\x00\x01" + b"\0" * 4,
        PREFACE + SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame of 16 MiB
    ],
)
def test_what_is_no_http2(grpc_loop: Loop, data: bytes) -> None:
    async def body(rig: Rig) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(exchange, rig.target, data)
        await still_serves(rig)

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, CHAT])
@pytest.mark.parametrize("data", [framed(b"x" * 10, size=2**32 - 1), framed(b"x", compressed=1)])
def test_messages_that_are_none(grpc_loop: Loop, method: Any, data: bytes) -> None:
    """One of 4 GiB, as it says, and one that gzip has not made."""

    def call(target: str) -> dict[str, str]:
        client = Http2(target)
        try:
            return client.call(method.path, data, {"grpc-encoding": "gzip"})
        finally:
            client.close()

    async def body(rig: Rig) -> None:
        async with asyncio.timeout(PATIENCE):
            answer = await asyncio.to_thread(call, rig.target)
        assert answer.get("grpc-status") != "0", answer
        assert rig.notes.seen == []
        await still_serves(rig)

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, CHAT])
@pytest.mark.parametrize("data", [b"", b"\0\0", framed(b"ab", size=10)])
def test_messages_that_end_too_soon(grpc_loop: Loop, method: Any, data: bytes) -> None:
    """GRPC takes half a message at the end for none, and a call without a request it keeps."""

    def call(target: str) -> None:
        client = Http2(target)
        client.send(method.path, data)
        client.close()

    async def body(rig: Rig) -> None:
        await asyncio.to_thread(call, rig.target)
        await still_serves(rig)
        assert rig.notes.seen == ["a"]

    through(grpc_loop, body)


@pytest.mark.parametrize(
    "headers",
    [
        {":method": "GET"},
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"grpc-timeout": "soon"},
        {"grpc-encoding": "none-of-gzip"},
        {":path": "no-slash"},
    ],
)
def test_heads_that_are_none_of_grpcs(grpc_loop: Loop, headers: dict[str, str]) -> None:
    def call(target: str) -> dict[str, str]:
        client = Http2(target)
        try:
            return client.call(ECHO.path, framed(b"a", compressed=1), headers)
        finally:
            client.close()

    async def body(rig: Rig) -> None:
        async with asyncio.timeout(PATIENCE):
            answer = await asyncio.to_thread(call, rig.target)
        assert answer.get("grpc-status") != "0", answer
        await still_serves(rig)

    through(grpc_loop, body)


@pytest.mark.parametrize(
    "metadata",
    [
        [("x-large", "x" * 100_000)],
        [(f"x-{number}", "y") for number in range(2_000)],
        [("x-large", "x" * 10_000)],
        [(f"x-{number}", "y") for number in range(300)],
    ],
)
def test_metadata_that_are_too_many(grpc_loop: Loop, metadata: list[tuple[str, str]]) -> None:
    """GRPC has a limit of its own, and so has the channel."""

    async def body(rig: Rig) -> None:
        call = stub(rig.client(), ECHO)(text("a"), metadata=tuple(metadata))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.notes.seen == []
        await still_serves(rig)

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, COLLECT])
def test_a_bomb(grpc_loop: Loop, method: Any) -> None:
    """16 MiB that gzip makes 16 KiB of: as large as they come out, and not as they come in."""

    async def body(rig: Rig) -> None:
        options: dict[str, Any] = {"grpc.max_send_message_length": -1}
        client = rig.client(**options)
        given = texts("\0" * 16 * MIB) if method is COLLECT else text("\0" * 16 * MIB)
        error = await failure(stub(client, method)(given, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.notes.seen == []
        await still_serves(rig)

    through(grpc_loop, body, gateway={"message_size": MIB})


def test_what_is_compressed_passes(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        call = stub(rig.client(), ECHO)(text("a" * 100_000), compression=grpc.Compression.Gzip)
        assert await call == text("a" * 100_000)

    through(grpc_loop, body)


def test_a_client_that_is_lost_within_a_message(grpc_loop: Loop) -> None:
    def call(target: str) -> None:
        client = Http2(target)
        client.send(CHAT.path, framed(text("wait").SerializeToString()) + b"\0\0\0", ends=False)
        client.close()

    async def body(rig: Rig) -> None:
        await asyncio.to_thread(call, rig.target)
        await rig.until(lambda: rig.notes.cancelled == rig.notes.seen)
        assert rig.notes.complete == []
        await still_serves(rig)

    through(grpc_loop, body)


def test_messages_that_no_server_can_parse(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        error = await failure(raw(rig.client(), ECHO.path)(b"\xff\xff"))
        assert error.code() is grpc.StatusCode.INTERNAL
        await still_serves(rig)

    through(grpc_loop, body)
