"""What passes through a gateway besides messages: time, ends, metadata, back-pressure."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code as ConnectCode
from connectrpc.protocol import ProtocolType
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from tests.grpc_gateway.test_who_calls import LIES, LOCALHOST, WHO, Who
from tests.http_gateway.support import (
    JSON,
    STREAM,
    Connection,
    Rig,
    chunk,
    envelope,
    given_to,
    head,
    through,
)
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Method
from txzmq.rpc.forwarded import ForwardedClient

KINDS = [ECHO, COUNT, COLLECT, CHAT]
PROTOCOLS = [ProtocolType.CONNECT, ProtocolType.GRPC_WEB]
#: For a handler of each kind that waits until it is cancelled.
WAIT = "wait"


def begin(connection: Connection, method: Method[Any, Any], *headers: str) -> None:
    """Begin a call that waits; one whose requests stream has given one, and not the last."""
    data = text(WAIT).SerializeToString()
    if method is ECHO:
        length = f"content-length: {len(data)}"
        connection.send(head(method, "content-type: application/proto", length, *headers) + data)
        return
    kind = "content-type: application/connect+proto"
    connection.send(head(method, kind, "transfer-encoding: chunked", *headers))
    connection.send(chunk(envelope(data)))
    if method is COUNT:
        connection.send(chunk(b""))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", KINDS)
def test_the_handler_has_the_time_of_the_client(
    grpc_loop: Loop, method: Method[Any, Any], protocol: ProtocolType
) -> None:
    async def body(rig: Rig) -> None:
        await rig.client(protocol).failure(method, given_to(method, "code 5"), timeout_ms=30_000)
        assert rig.notes.remaining is not None
        assert 20 < rig.notes.remaining <= 30
        await rig.client(protocol).failure(method, given_to(method, "code 5"))
        assert rig.notes.remaining is None or rig.notes.remaining > 100

    through(grpc_loop, body, channel={"timeout": 1.0})


@pytest.mark.parametrize("method", KINDS)
def test_deadlines(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        begin(connection, method, "connect-timeout-ms: 300")
        await rig.until(lambda: rig.notes.seen == [WAIT])
        answer = await connection.head()
        assert answer.startswith(b"HTTP/1.1 504" if method is ECHO else b"HTTP/1.1 200")
        async with asyncio.timeout(5):
            answer = await connection.reader.readuntil(b"}")
        assert b'"deadline_exceeded"' in answer
        assert b"the time of the call was up at the gateway; it may have been executed" in answer
        await rig.until(lambda: rig.notes.cancelled == [WAIT])

    through(grpc_loop, body)


class Later:
    """A source that says after a while what it knows."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def of(self, _: Any) -> Later:
        """This one, whatever the channel."""
        return self

    def find(self, path: str) -> Deferred[Method[Any, Any] | None]:
        found: Deferred[Method[Any, Any] | None] = Deferred()
        asyncio.get_running_loop().call_later(self.seconds, found.callback, ECHO)
        return found


def test_the_time_of_a_call_goes_on_while_its_method_is_looked_for(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        headers = {**JSON, "connect-timeout-ms": "30000"}
        await rig.http().post(ECHO.path, content='"a"', headers=headers)
        assert rig.notes.remaining is not None
        assert rig.notes.remaining <= 29.8
        headers["connect-timeout-ms"] = "100"
        response = await rig.http().post(ECHO.path, content='"b"', headers=headers)
        assert response.status_code == 504
        assert response.json() == {
            "code": "deadline_exceeded",
            "message": "the time of the call was up at the gateway; it was not executed",
        }
        assert rig.notes.seen == ["a"]

    through(grpc_loop, body, methods=Later(0.2).of)


@pytest.mark.parametrize("given", ["0", "-1", "x", "1e3", "99999999999"])
def test_deadlines_that_are_none(grpc_loop: Loop, given: str) -> None:
    async def body(rig: Rig) -> None:
        headers = {**JSON, "connect-timeout-ms": given}
        response = await rig.http().post(ECHO.path, content='"a"', headers=headers)
        code = "deadline_exceeded" if given == "0" else "invalid_argument"
        assert response.json()["code"] == code
        assert rig.notes.seen == []

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("how", ["cut", "close"])
def test_a_client_that_goes_away(grpc_loop: Loop, method: Method[Any, Any], how: str) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        begin(connection, method)
        await rig.until(lambda: rig.notes.seen == [WAIT])
        if how == "cut":
            connection.cut()
        else:
            await connection.close()
        await rig.until(lambda: rig.notes.cancelled == [WAIT])
        assert rig.notes.complete == []

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [COLLECT, CHAT])
def test_a_client_that_goes_away_while_it_is_held_up(
    grpc_loop: Loop, method: Method[Any, Any]
) -> None:
    """Nothing is read of it then, so that no end of the connection is, either."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        begin(connection, method)
        await rig.until(lambda: rig.notes.seen == [WAIT])
        data = chunk(envelope(text("x" * 10_000).SerializeToString()))

        async def write(number: int) -> None:
            for _ in range(number):
                connection.send(data)
                async with asyncio.timeout(0.3):
                    await connection.writer.drain()

        with pytest.raises(TimeoutError):
            await write(5_000)  # or 50 MB went somewhere
        connection.cut()
        await rig.until(lambda: rig.notes.cancelled == [WAIT])
        assert rig.notes.complete == []

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [COLLECT, CHAT])
@pytest.mark.parametrize("how", ["cut", "end of the body", "in an envelope"])
def test_requests_that_break_off_are_not_taken_for_all(
    grpc_loop: Loop, method: Method[Any, Any], how: str, logged: Logged
) -> None:
    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        kind = "content-type: application/connect+proto"
        connection.send(head(method, kind, "transfer-encoding: chunked"))
        connection.send(chunk(envelope(text("a").SerializeToString())))
        await rig.until(lambda: rig.notes.seen == ["a"])
        if how == "cut":
            connection.cut()
        else:
            part = envelope(text("b").SerializeToString())
            connection.send(chunk(part[: 3 if how == "end of the body" else 6]) + chunk(b""))
            answer = await connection.head()
            async with asyncio.timeout(5):
                answer += await connection.reader.readuntil(b"}}")
            assert b'"code": "invalid_argument"' in answer
            assert b"the gateway refuses the call: protocol error: " in answer
        await rig.until(lambda: rig.server.running == 0)
        assert rig.notes.complete == []

    through(grpc_loop, body)
    # Clients go, and nobody who runs the gateway has to look after it.
    assert [event for event in logged if event["log_level"] >= LogLevel.error] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", KINDS)
def test_metadata_both_ways(
    grpc_loop: Loop, method: Method[Any, Any], protocol: ProtocolType
) -> None:
    binary = b64encode(bytes(range(256))).decode()
    sent = {"x-text": "a b", "X-Bytes-Bin": binary, "grpc-own": "1", "connect-own": "1"}

    async def body(rig: Rig) -> None:
        with ResponseMetadata() as received:
            await rig.client(protocol).outcome(method, given_to(method, "metadata"), headers=sent)
        headers, trailers = received.headers, received.trailers
        ours = {"x-text": "a b", "x-bytes-bin": binary.rstrip("=")}
        own = {key: value for key, value in headers.items() if key[:2] in ("x-", "in")}
        assert own == {"initial": "1", **ours}
        assert trailers["trailing"] == "2"
        assert trailers["x-text"] == "a b"
        assert trailers["x-bytes-bin"] == binary.rstrip("=")
        assert not [key for key in trailers if "own" in key]

    through(grpc_loop, body)


@pytest.mark.parametrize("method", KINDS)
def test_metadata_of_errors(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        with ResponseMetadata() as received:
            await rig.client().failure(method, given_to(method, "code 5"))
        assert received.trailers["t"] == "1"
        assert received.trailers["t-bin"] == "AP8"

    through(grpc_loop, body)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("txzmq-x", "1", "'txzmq-x' is reserved"),
        ("x-bin", "?", "the header 'x-bin' is no base64"),
        ("x-bin", "abcde", "the header 'x-bin' is no base64"),
        ("x!y", "1", "'x!y' may only have the characters"),
        ("x", "é", "the header 'x' has characters outside of ASCII"),
        ("x", "a\tb", "must be printable ASCII"),
    ],
)
def test_metadata_that_a_channel_does_not_take(
    grpc_loop: Loop, key: str, value: str, words: str
) -> None:
    async def body(rig: Rig) -> None:
        headers = [(b"content-type", b"application/json"), (key.encode(), value.encode())]
        response = await rig.http().post(ECHO.path, content='"a"', headers=headers)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_argument"
        assert response.json()["message"].startswith("the gateway cannot pass the call on: ")
        assert words in response.json()["message"]
        assert rig.notes.seen == []

    through(grpc_loop, body)


def test_binary_values_that_became_one_header(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        with ResponseMetadata() as received:
            await rig.client().outcome(ECHO, text("metadata"), headers={"x-a-bin": "AQ==, Ag"})
        assert received.headers.getall("x-a-bin") == ["AQ", "Ag"]

    through(grpc_loop, body)


def test_who_calls(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        lies = {key: str(value) for key, value in LIES}
        await rig.client().outcome(WHO, text("a"), headers=lies)
        assert who.clients == [ForwardedClient(address=LOCALHOST)]
        assert not {"forwarded", "x-real-ip"}.intersection(who.keys)

    who = Who()
    through(grpc_loop, body, services=[who])


def test_the_word_of_a_trusted_proxy(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        sent = {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https"}
        await rig.client().outcome(WHO, text("a"), headers=sent)
        (client,) = who.clients
        assert client is not None
        assert str(client.address) == "198.51.100.7"
        assert client.secure

    who = Who()
    trusted = {"trusted_proxies": ["127.0.0.0/8"]}
    through(grpc_loop, body, services=[who], gateway=trusted)


def test_a_slow_reader_holds_up_the_handler(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        data = envelope(text("4000 of 10000").SerializeToString())
        async with rig.http().stream("POST", COUNT.path, content=data, headers=STREAM) as response:
            chunks = response.aiter_raw(1_000)
            size = len(await anext(chunks))
            given = -1
            async with asyncio.timeout(10):
                while given != rig.notes.given:  # until it stands still
                    given = rig.notes.given
                    await asyncio.sleep(0.2)
            # The windows of both ends, and of TCP, are far below the stream's 40 MB.
            assert 1 < given < 2_000
            async for each in chunks:
                size += len(each)
        assert size > 40_000_000
        assert rig.notes.given == 4_000

    through(grpc_loop, body, channel={"stream_window": 16})


def test_a_server_that_is_lost(grpc_loop: Loop, logged: Logged) -> None:
    async def body(rig: Rig) -> None:
        await rig.server.stop(0).asFuture(asyncio.get_running_loop())
        for method in KINDS:
            service = method.path.split("/")[1]
            error = await rig.client().failure(method, given_to(method, "a"))
            assert error.code is ConnectCode.UNAVAILABLE
            # Not where the servers are, which the log says.
            expected = f"the gateway cannot reach a server of {service}; the call was not sent"
            assert error.message == expected

    through(grpc_loop, body)
    assert not logged.failures()


def test_what_servers_and_clients_tell_each_other_about_attempts(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        sent = {"grpc-previous-rpc-attempts": "2"}
        await rig.client().outcome(WHO, text("a"), headers=sent)
        assert "grpc-previous-rpc-attempts" in who.keys

    who = Who()
    through(grpc_loop, body, services=[who])


@pytest.mark.parametrize("headers", [{"connect-timeout-ms": "50"}, {"grpc-timeout": "50000u"}])
def test_deadlines_while_a_method_is_looked_for(grpc_loop: Loop, headers: dict[str, str]) -> None:
    cancelled: list[object] = []

    class Later:
        def find(self, path: str, /) -> Any:
            return Deferred[Any](cancelled.append)

    def later(_: object) -> Any:
        return Later()

    async def body(rig: Rig) -> None:
        response = await rig.http().post(ECHO.path, content='"a"', headers={**JSON, **headers})
        assert response.status_code == 504
        said = "the time of the call was up at the gateway; it was not executed"
        assert response.json()["message"] == said
        await rig.until(lambda: cancelled)

    through(grpc_loop, body, methods=later)
