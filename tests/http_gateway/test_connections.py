"""How connections end, and what clients may do to have them not end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from tests.http_gateway.support import PROTO, Connection, Rig, chunk, envelope, head, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Method, ServerLimits

WORD = text("a").SerializeToString()
STREAM = "content-type: application/connect+proto"
#: Of TCP: its buffers take this, and the gateway keeps the rest.
LARGE = 8_000_000
SIZES: dict[str, Any] = {
    "gateway": {"message_size": 2 * LARGE},
    "channel": {"message_size": 2 * LARGE},
    "limits": ServerLimits(message_size=2 * LARGE),
}


def open_connections(rig: Rig) -> set[Any]:
    """The gateway's side of its connections."""
    listener: Any = rig.listener  # nothing else knows them
    connections: set[Any] = listener._server.server_state.connections
    return connections


def ask(connection: Connection, method: Method[Any, Any], value: str, *headers: str) -> None:
    """Send a whole request."""
    data = text(value).SerializeToString()
    content_type = f"content-type: {PROTO['content-type']}"
    if method is not ECHO:
        data, content_type = envelope(data), STREAM
    connection.send(head(method, content_type, f"content-length: {len(data)}", *headers) + data)


def stop_reading(connection: Connection) -> None:
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport's


def test_a_client_that_sends_no_more_and_takes_nothing(grpc_loop: Loop, logged: Logged) -> None:
    """What is left to be sent keeps the connection open, but not its call."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        ask(connection, COUNT, "100000 of 10000")
        await connection.head()
        stop_reading(connection)
        (other,) = open_connections(rig)
        await rig.until(lambda: other.flow.write_paused)
        connection.writer.write_eof()
        await rig.until(lambda: rig.notes.cancelled)
        async with asyncio.timeout(10):
            while open_connections(rig):
                await asyncio.sleep(0.02)
        connection.cut()

    through(grpc_loop, body, channel={"stream_window": 16}, write_timeout=0.5)
    assert logged.failures() == []
    assert [event["why"] for event in logged.warnings() if "why" in event] == [
        "a client took too long with taking a response"
    ]


def test_a_client_that_sends_no_more_while_a_call_waits(grpc_loop: Loop, logged: Logged) -> None:
    async def body(rig: Rig) -> None:
        for method in (ECHO, COUNT, CHAT):
            connection = await rig.connection()
            if method is CHAT:
                connection.send(head(method, STREAM, "transfer-encoding: chunked"))
                connection.send(chunk(envelope(text("wait").SerializeToString())))
            else:
                ask(connection, method, "wait")
            await rig.until(lambda: rig.notes.seen == ["wait"])
            connection.writer.write_eof()
            await rig.until(lambda: rig.notes.cancelled)
            assert b"wait" not in await connection.rest()
            rig.notes.seen.clear()
            rig.notes.cancelled.clear()

    through(grpc_loop, body)
    assert logged.failures() == []


@pytest.mark.parametrize("last", ["connection: close", "x: y"])
def test_a_response_that_nobody_takes_to_its_end(grpc_loop: Loop, last: str) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        stop_reading(connection)
        ask(connection, ECHO, "x" * LARGE, last)
        await rig.until(lambda: rig.notes.seen)
        async with asyncio.timeout(10):
            while open_connections(rig):
                await asyncio.sleep(0.02)
        connection.cut()

    through(grpc_loop, body, **SIZES, write_timeout=0.5, keep_alive=0.2)


def test_a_response_that_is_taken_slowly_to_its_end(grpc_loop: Loop) -> None:
    """What closes is cut off only if nothing of it is taken."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        ask(connection, ECHO, "x" * LARGE, "connection: close")
        received = 0
        while data := await connection.reader.read(400_000):
            received += len(data)
            await asyncio.sleep(0.05)
        assert received > LARGE

    through(grpc_loop, body, **SIZES, write_timeout=1.0)


def test_a_request_with_two_ends(grpc_loop: Loop) -> None:
    """A proxy may believe the one, and the gateway the other."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        both = ("content-type: application/proto", "transfer-encoding: chunked")
        connection.send(head(ECHO, *both, "content-length: 500") + chunk(WORD) + b"0\r\n\r\n")
        ask(connection, ECHO, "smuggled")
        answer = await connection.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert answer.endswith(b"the gateway takes Content-Length or Transfer-Encoding, not both\n")
        assert rig.notes.seen == []

    through(grpc_loop, body)


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="no times of TCP's keepalive here")
def test_tcp_looks_whether_a_client_that_says_nothing_is_there(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        await rig.until(lambda: open_connections(rig))
        (other,) = open_connections(rig)
        sock = other.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert idle + interval * count <= 35
        connection.cut()

    through(grpc_loop, body)
