"""What clients may send that is wrong: each is answered or cut off, and the gateway goes on."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("hypothesis", reason="hypothesis is not installed here")
from hypothesis import example, given
from hypothesis import strategies as st

from tests.http_gateway.support import (
    JSON,
    PROTO,
    STREAM,
    Rig,
    chunk,
    envelope,
    head,
    through,
)
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Method
from txzmq.rpc._gateway.forwarding import Forwarding
from txzmq.rpc._http.content import content_of, query_of
from txzmq.rpc._http.headers import metadata_of
from txzmq.rpc._http.transcoding import Transcoder
from txzmq.rpc.errors import InvalidArgument
from txzmq.rpc.metadata import normalise
from txzmq.rpc.method_sources import ServedMethods

WORD = text("a").SerializeToString()
UNARY = ("content-type: application/proto", f"content-length: {len(WORD)}")
CHUNKED = ("content-type: application/connect+proto", "transfer-encoding: chunked")


async def check(rig: Rig) -> None:
    """The gateway goes on."""
    assert await rig.client().outcome(ECHO, text("after")) == [text("after")]


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[1]",
        b"\xff",
        b"a",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"\\ud800"',
        b"1" * 10_000,
        b"NaN",
        b'"a" "b"',
    ],
)
def test_json_that_is_none(grpc_loop: Loop, content: bytes) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().post(ECHO.path, content=content, headers=JSON)
        assert response.status_code == 400
        answer = response.json()
        assert answer["code"] == "invalid_argument"
        words = "the gateway cannot read the google.protobuf.StringValue as JSON: "
        assert answer["message"].startswith(words)
        assert len(answer["message"]) < 500
        assert rig.notes.seen == []
        await check(rig)

    through(grpc_loop, body)


@pytest.mark.parametrize("kind", ["gzip", "plain", "length that lies"])
@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_requests_over_the_limit(grpc_loop: Loop, method: Method[Any, Any], kind: str) -> None:
    over = text("a" * 10_000).SerializeToString()

    async def body(rig: Rig) -> None:
        headers = dict(PROTO if method is ECHO else STREAM)
        content = over
        if kind == "gzip":
            content = gzip.compress(bytes(10_000_000))
            assert len(content) < 20_000
            headers["content-encoding" if method is ECHO else "connect-content-encoding"] = "gzip"
        if method is not ECHO:
            content = envelope(content, flags=kind == "gzip")
        if kind == "length that lies" and method is not ECHO:
            content = b"\0\xff\xff\xff\xff" + over[:10]
        response = await rig.http().post(method.path, content=content, headers=headers)
        assert b'resource_exhausted"' in response.content
        assert b"the gateway refuses the call: message is larger than" in response.content
        assert response.status_code == (429 if method is ECHO else 200)
        assert rig.notes.seen == []
        await check(rig)

    size = 20_000 if kind == "gzip" else 1_000
    through(grpc_loop, body, gateway={"message_size": size})


def test_responses_over_the_limit(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        for method, request in ((ECHO, "x" * 17), (COUNT, "1 of 30"), (COLLECT, "y" * 9)):
            given: Any = [text(request)] * 3 if method is COLLECT else text(request)
            error = await rig.client(send_compression=None).failure(method, given)
            assert error.code.value == "resource_exhausted"
        assert "the gateway does not pass on a response of 3" in error.message

    through(grpc_loop, body, gateway={"message_size": 18})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0", "incomplete envelope"),
        (b"\0\0\0\0\5ab", "promised 5 bytes in enveloped message, got 2 bytes"),
        (envelope(WORD, flags=4), "invalid envelope flags"),
        (envelope(WORD, flags=1), "sent compressed message without compression support"),
        (envelope(WORD) * 2, "unary request has multiple messages"),
        (b"", "unary request has zero messages"),
    ],
)
def test_envelopes_that_are_none(grpc_loop: Loop, content: bytes, words: str) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().post(COUNT.path, content=content, headers=STREAM)
        assert words in response.text
        assert "the gateway refuses the call: " in response.text
        web = {"content-type": "application/grpc-web+proto"}
        response = await rig.http().post(COUNT.path, content=content, headers=web)
        assert "grpc-status: " in response.text
        assert rig.notes.seen == []
        await check(rig)

    through(grpc_loop, body)


def test_compressions_that_are_none(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        for content, encoding, status in (
            (b"no gzip", "gzip", 400),
            (gzip.compress(WORD)[:-4], "gzip", 400),
            (WORD, "br", 501),
            (WORD, "gzip, gzip", 501),
        ):
            headers = {**PROTO, "content-encoding": encoding}
            response = await http.post(ECHO.path, content=content, headers=headers)
            assert response.status_code == status
            assert response.json()["message"].startswith("the gateway refuses the call: ")
        await check(rig)

    through(grpc_loop, body)


# -- HTTP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a\r\n\r\n",  # HTTP/0.9
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # the beginning of TLS
        b"POST /a HTTP/1.1\r\n\r\n",  # without a host
        b"POST /a HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 100_000,
        b"POST /a HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000,
        b"POST /" + b"a" * 100_000,
    ],
)
def test_what_is_no_request(grpc_loop: Loop, logged: Logged, data: bytes) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        connection.send(data)
        answer = await connection.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        await check(rig)

    through(grpc_loop, body)
    assert not logged.failures()


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_a_body_that_becomes_garbage(
    grpc_loop: Loop, logged: Logged, method: Method[Any, Any]
) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        kind = UNARY[0] if method is ECHO else CHUNKED[0]
        connection.send(head(method, kind, CHUNKED[1]))
        if method is not ECHO:
            connection.send(chunk(envelope(WORD)))
        answer = b""
        if method is CHAT:
            answer = await connection.head()
        elif method is COLLECT:
            await rig.until(lambda: rig.notes.seen == ["a"])
        connection.send(b"zz\r\n")
        answer += await connection.rest()
        started = method is CHAT  # its first response is there already
        assert answer.startswith(b"HTTP/1.1 200 " if started else b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert rig.notes.complete == []
        await check(rig)

    through(grpc_loop, body)
    assert not logged.failures()


def test_requests_that_do_not_wait_for_answers(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        one = head(ECHO, *UNARY) + WORD
        connection.send(one * 20 + head(ECHO, *UNARY, "connection: close") + WORD)
        answer = await connection.rest()
        assert answer.count(b"HTTP/1.1 200") == 21
        assert rig.notes.seen == ["a"] * 21

    through(grpc_loop, body)


def test_a_client_that_goes_away_with_further_requests(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        wait = text("wait").SerializeToString()
        first = head(ECHO, UNARY[0], f"content-length: {len(wait)}") + wait
        connection.send(first + (head(ECHO, *UNARY) + WORD) * 2_000)
        await rig.until(lambda: rig.notes.seen == ["wait"])
        connection.cut()
        await rig.until(lambda: rig.notes.cancelled == ["wait"])
        assert rig.notes.seen == ["wait"]

    through(grpc_loop, body)


def test_the_preface_of_http_2(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        connection.send(b"PRI * HTTP/2.0\r\nhost: x\r\n\r\nSM\r\n\r\n")
        assert (await connection.rest()).startswith(b"HTTP/1.1 4")

    through(grpc_loop, body)


def test_websockets_are_not_spoken(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        response = await rig.http().get(ECHO.path, headers=headers)
        assert response.status_code == 405

    through(grpc_loop, body)


# -- those that are slow ---------------------------------------------------------------------------


def test_heads_that_trickle(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        idle, slow, second = [await rig.connection() for _ in range(3)]
        second.send(head(ECHO, *UNARY) + WORD)
        await second.head()
        closed = asyncio.gather(idle.rest(), slow.rest(), second.rest())
        for byte in b"POST / HTTP/1.1\r\nhost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx":
            slow.send(bytes([byte]))
            second.send(bytes([byte]))
            await asyncio.sleep(0.03)
            if closed.done():
                break
        assert list(await closed)[:2] == [b"", b""]

    through(grpc_loop, body, header_timeout=0.3)


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_bodies_that_trickle(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        kind = UNARY[0] if method is ECHO else CHUNKED[0]
        connection.send(head(method, kind, "content-length: 1000"))
        if method in (COLLECT, CHAT):
            # There each part has its time.
            for byte in envelope(WORD):
                connection.send(bytes([byte]))
                await asyncio.sleep(0.05)
            await rig.until(lambda: rig.notes.seen == ["a"])
        answer = await connection.reader.readuntil(b"body")
        assert b'"deadline_exceeded"' in answer
        assert b"the gateway has waited for 0.2 s for the request's body" in answer
        await rig.until(lambda: rig.server.running == 0)
        assert rig.notes.complete == []

    through(grpc_loop, body, gateway={"body_timeout": 0.2})


def test_bodies_that_go_on_behind_their_answers(
    grpc_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("txzmq.rpc._http.server._REST", 0.3)

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        connection.send(head("/a/b", UNARY[0], "transfer-encoding: chunked"))
        assert b" 404 " in await connection.head()

        async def go_on() -> None:
            async with asyncio.timeout(8):
                while True:
                    connection.send(chunk(b"x" * 100))
                    await connection.writer.drain()
                    await asyncio.sleep(0.05)

        with pytest.raises(ConnectionError):
            await go_on()

    through(grpc_loop, body)


def test_readers_that_take_nothing(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        data = envelope(text("100000 of 10000").SerializeToString())
        connection.send(head(COUNT, CHUNKED[0], f"content-length: {len(data)}") + data)
        await connection.head()
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport's
        async with asyncio.timeout(10):
            while not rig.notes.cancelled:
                await asyncio.sleep(0.05)

    through(grpc_loop, body, channel={"stream_window": 16}, write_timeout=0.5)


# -- too many --------------------------------------------------------------------------------------


def test_more_connections_than_may_be(grpc_loop: Loop, logged: Logged) -> None:
    async def body(rig: Rig) -> None:
        first = await rig.connection()
        first.send(head(ECHO, *UNARY) + WORD)
        await first.reader.readuntil(b"\r\n\r\n" + WORD)
        second = await rig.connection()
        answer = await second.rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"the gateway has too many connections\n")
        first.send(head(ECHO, *UNARY) + WORD)
        assert b"HTTP/1.1 200" in await first.head()

    through(grpc_loop, body, connections=1)


@pytest.mark.parametrize("method", [ECHO, CHAT])
def test_more_calls_than_may_go_on_at_once(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        given: Any = [text("wait")] if method is CHAT else text("wait")
        calls = [asyncio.ensure_future(rig.client().outcome(method, given)) for _ in range(2)]
        await rig.until(lambda: rig.notes.seen == ["wait"] * 2)
        error = await rig.client().failure(method, given)
        assert error.code.value == "resource_exhausted"
        assert error.message == "the gateway has 2 calls already"
        for call in calls:
            call.cancel()
        await rig.until(lambda: rig.notes.cancelled == ["wait"] * 2)
        await asyncio.gather(*calls, return_exceptions=True)
        await check(rig)

    through(grpc_loop, body, gateway={"maximum_concurrent_rpcs": 2})


# -- by property -----------------------------------------------------------------------------------

SENDER = Forwarding().sender("192.0.2.1", secure=False)


# Any: whatever is read.
def read(function: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """What is read, or why it is refused."""
    try:
        return function(*given), ""
    except InvalidArgument as error:
        return None, error.message


@given(st.binary())
@example(b"encoding=json&message=%ff")
@example(b"encoding=proto&base64=1&message=a")
def test_any_query_is_read_or_refused(query: bytes) -> None:
    content, refusal = read(query_of, query)
    if refusal:
        assert refusal.startswith("the gateway cannot read the ")
    else:
        assert content.name in ("application/json", "application/proto")


@given(st.text())
def test_any_content_type_is_known_or_not(given_type: str) -> None:
    content = content_of(given_type)
    assert content is None or content.name in given_type.lower()


KEYS = st.one_of(
    st.sampled_from(["a", "b-bin", "te", "grpc-x", "txzmq-a", "forwarded"]),
    st.text("abAB0-_.!é\n", max_size=6),
)
VALUES = st.text("aA0+/=, ?\t\n\x7f", max_size=9)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=5))
def test_any_headers_are_metadata_or_refused(headers: list[tuple[str, str]]) -> None:
    metadata, refusal = read(metadata_of, headers, SENDER)
    if refusal:
        assert refusal.startswith("the gateway cannot pass the call on: ")
    else:
        assert normalise(metadata) == metadata
        assert not [key for key, _ in metadata if key.startswith(("grpc-", "connect-"))]


@given(st.binary())
@example(b'"\\ud800"')
def test_any_body_is_json_or_refused(body: bytes) -> None:
    transcoder = Transcoder(ECHO, ServedMethods([]))
    raw, refusal = read(lambda: asyncio.run(transcoder.to_raw(body)))
    if refusal:
        assert refusal.startswith("the gateway cannot read the google.protobuf.StringValue")
    else:
        again = asyncio.run(transcoder.to_json(raw))
        assert asyncio.run(transcoder.to_raw(again)) == raw
