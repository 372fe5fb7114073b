"""Clients that are gone at each point of a request, as when their process was killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from tests.http_gateway.support import PROTO, Connection, Rig, chunk, envelope, head, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Method

STREAM: Final = "content-type: application/connect+proto"
UNARY: Final = f"content-type: {PROTO['content-type']}"
#: Both ends of a connection: by a reset, as when a process is killed that has not read all, and by
#: the end of the stream.
ENDS: Final[dict[str, Callable[[Connection], object]]] = {
    "reset": Connection.cut,
    "end": lambda connection: connection.writer.close(),
}


def open_connections(rig: Rig) -> set[Any]:
    """The gateway's side of its connections."""
    listener: Any = rig.listener  # nothing else knows them
    connections: set[Any] = listener._server.server_state.connections
    return connections


def body_of(method: Method[Any, Any], value: str) -> bytes:
    data = text(value).SerializeToString()
    return data if method is ECHO else envelope(data)


# -- where the client stops: each brings its connection there --------------------------------------


async def says_nothing(rig: Rig, connection: Connection) -> None:
    del connection
    await rig.until(lambda: open_connections(rig))


async def within_the_head(rig: Rig, connection: Connection) -> None:
    connection.send(head(ECHO, UNARY, "content-length: 3")[:-9])
    await rig.until(lambda: open_connections(rig))


async def behind_the_head(rig: Rig, connection: Connection) -> None:
    connection.send(head(ECHO, UNARY, "content-length: 3"))
    await rig.until(lambda: rig.gateway.running)


async def within_the_body(rig: Rig, connection: Connection) -> None:
    connection.send(head(ECHO, UNARY, "content-length: 500") + body_of(ECHO, "never"))
    await rig.until(lambda: rig.gateway.running)


async def within_a_chunk(rig: Rig, connection: Connection) -> None:
    part = chunk(body_of(ECHO, "never"))[:-4]
    connection.send(head(ECHO, UNARY, "transfer-encoding: chunked") + part)
    await rig.until(lambda: rig.gateway.running)


async def within_an_envelope(rig: Rig, connection: Connection) -> None:
    part = chunk(body_of(COLLECT, "never")[:-2])
    connection.send(head(COLLECT, STREAM, "transfer-encoding: chunked") + part)
    await rig.until(lambda: rig.gateway.running)


async def between_requests_of_a_stream(rig: Rig, connection: Connection) -> None:
    part = chunk(body_of(COLLECT, "first"))
    connection.send(head(COLLECT, STREAM, "transfer-encoding: chunked") + part)
    await rig.until(lambda: rig.notes.seen == ["first"])


def while_waiting(method: Method[Any, Any]) -> Callable[[Rig, Connection], Awaitable[None]]:
    async def wait(rig: Rig, connection: Connection) -> None:
        data = body_of(method, "wait")
        kind = UNARY if method is ECHO else STREAM
        connection.send(head(method, kind, f"content-length: {len(data)}") + data)
        await rig.until(lambda: rig.notes.seen == ["wait"])

    return wait


async def in_a_stream_of_responses(rig: Rig, connection: Connection) -> None:
    data = body_of(COUNT, "100000 of 1000")
    connection.send(head(COUNT, STREAM, f"content-length: {len(data)}") + data)
    await connection.head()
    await connection.reader.read(1)


async def in_a_stream_both_ways(rig: Rig, connection: Connection) -> None:
    connection.send(head(CHAT, STREAM, "transfer-encoding: chunked"))
    connection.send(chunk(body_of(CHAT, "wait")))
    await rig.until(lambda: rig.notes.seen == ["wait"])


async def with_an_answer(rig: Rig, connection: Connection) -> None:
    """The next request may come on the same connection."""
    data = body_of(ECHO, "first")
    connection.send(head(ECHO, UNARY, f"content-length: {len(data)}") + data)
    await connection.head()
    await rig.until(lambda: rig.gateway.running == 0)


async def within_the_next_request(rig: Rig, connection: Connection) -> None:
    await with_an_answer(rig, connection)
    connection.send(head(ECHO, UNARY, "content-length: 500") + body_of(ECHO, "never"))
    await rig.until(lambda: rig.gateway.running)


POINTS: Final[list[Callable[[Rig, Connection], Awaitable[None]]]] = [
    says_nothing,
    within_the_head,
    behind_the_head,
    within_the_body,
    within_a_chunk,
    within_an_envelope,
    between_requests_of_a_stream,
    in_a_stream_of_responses,
    in_a_stream_both_ways,
    with_an_answer,
    within_the_next_request,
]
WAITING: Final = [while_waiting(method) for method in (ECHO, COUNT, COLLECT)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "reach",
    [
        *(pytest.param(point, id=point.__name__) for point in POINTS),
        *(
            pytest.param(point, id=f"while_waiting_for_{method.name}")
            for point, method in zip(WAITING, (ECHO, COUNT, COLLECT), strict=True)
        ),
    ],
)
def test_a_client_that_is_gone(
    grpc_loop: Loop, reach: Callable[[Rig, Connection], Awaitable[None]], end: str, logged: Logged
) -> None:
    """Its call ends within a second, on both sides, and no part of a request is passed on."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        await reach(rig, connection)
        ENDS[end](connection)
        await rig.until(lambda: not open_connections(rig))
        await rig.until(lambda: rig.gateway.running == 0 and rig.server.running == 0)
        assert "never" not in rig.notes.seen
        assert "never" not in rig.notes.complete
        # What the others ask is served as before.
        other = await rig.http().post(ECHO.path, content=body_of(ECHO, "b"), headers=PROTO)
        assert other.status_code == 200

    through(grpc_loop, body, channel={"stream_window": 16})
    assert logged.failures() == []
