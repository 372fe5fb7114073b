"""What HTTP has and gRPC has not: curl, GET, compression, web pages of other origins, probes."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from connectrpc.compression.gzip import GzipCompression
from google.protobuf.wrappers_pb2 import StringValue

from tests.http_gateway.support import JSON, PROTO, STREAM, Rig, envelope, head, through
from tests.rpc.service import ECHO, MISSING, text
from tests.rpc.streaming import COUNT
from tests.support import Loop
from txzmq.rpc import IdempotencyLevel, Method
from txzmq.rpc.http_gateway import Cors, HttpGateway
from txzmq.rpc.method_sources import FirstOf, ServedMethods

#: The same method, which may be called by GET.
SAFE = Method(
    ECHO.path, "echo", StringValue, StringValue, idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS
)
ORIGIN = "https://app.example.com"


class Safe:
    """Knows that a method has no side effects."""

    def find(self, path: str) -> Any:
        return SAFE if path == SAFE.path else None


def with_safe(_: Any) -> FirstOf:
    from tests.grpc_channel.support import ByTxzmq

    return FirstOf(Safe(), ServedMethods([ByTxzmq]))


# -- GET -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_get(grpc_loop: Loop, as_json: bool) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client(json=as_json)
        assert await client.outcome(SAFE, text("a☺ +/"), use_get=True) == [text("a☺ +/")]
        client = rig.client(json=as_json, send_compression=None)
        assert await client.outcome(SAFE, text("b"), use_get=True) == [text("b")]
        error = await client.failure(SAFE, text("code 5"), use_get=True)
        assert error.message == "code 5"

    through(grpc_loop, body, methods=with_safe)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"encoding": "json", "message": '"a"'}, 200, "a"),
        ({"encoding": "json", "message": "ImEi", "base64": "1", "connect": "v1"}, 200, "a"),
        ({"encoding": "json", "message": "ImEi====", "base64": "1"}, 200, "a"),
        ({"encoding": "json"}, 400, "the gateway refuses the call: 'message' parameter is"),
        ({"encoding": "xml", "message": "x"}, 400, "encoding has to be json or proto"),
        ({"message": "x"}, 400, "encoding has to be json or proto"),
        ({}, 400, "encoding has to be json or proto"),
        ({"encoding": "json", "message": "ImE!", "base64": "1"}, 400, "no URL-safe base64"),
        ({"encoding": "json", "message": "ImEi+", "base64": "1"}, 400, "no URL-safe base64"),
        ({"encoding": "json", "message": "ImEiI", "base64": "1"}, 400, "no URL-safe base64"),
        ({"encoding": "json", "message": b'"\xff"'}, 400, "it is no UTF-8"),
        ({"encoding": "json", "message": "{"}, 400, "cannot read the google.protobuf.StringVal"),
        ({"encoding": "json", "message": '"a"', "compression": "x"}, 501, "unknown compression"),
        ({"encoding": "json", "message": "x", "compression": "gzip"}, 400, "decompress"),
    ],
)
def test_queries(grpc_loop: Loop, query: dict[str, Any], status: int, words: str) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().get(f"{SAFE.path}?{urlencode(query)}")
        assert response.status_code == status
        assert words in response.text
        if status != 200:
            assert response.json()["code"] in ("invalid_argument", "unimplemented")
            assert rig.notes.seen == []

    through(grpc_loop, body, methods=with_safe)


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("GET", ECHO.path, "POST"),
        ("GET", COUNT.path, "POST"),
        ("PUT", ECHO.path, "POST"),
        ("OPTIONS", ECHO.path, "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
    ],
)
def test_other_verbs(grpc_loop: Loop, verb: str, path: str, allow: str) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().request(verb, path)
        assert response.status_code == 405
        assert response.headers["allow"] == allow
        assert f"the gateway takes {path} by {allow.replace(', ', ' and ')}" in response.text

    through(grpc_loop, body)


# -- content types and methods ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (ECHO.path, "text/plain"),
        (ECHO.path, ""),
        (ECHO.path, "application/connect+json"),
        (ECHO.path, "application/grpc"),
        (ECHO.path, "application/grpc+proto"),
        (ECHO.path, "application/grpc-web-text"),
        (ECHO.path, "application/x-www-form-urlencoded"),
        (COUNT.path, "application/json"),
        (COUNT.path, "application/connect+xml"),
    ],
)
def test_other_content_types(grpc_loop: Loop, path: str, content_type: str) -> None:
    async def body(rig: Rig) -> None:
        headers = {"content-type": content_type}
        response = await rig.http().post(path, content="{}", headers=headers)
        assert response.status_code == 415
        first = "application/json" if path == ECHO.path else "application/connect+json"
        assert response.headers["accept-post"].startswith(first)
        assert response.text.startswith(f"the gateway takes {path} as {first}, ")
        assert rig.notes.seen == []

    through(grpc_loop, body)


def test_content_types_with_parameters(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        response = await rig.http().post(ECHO.path, content='"a"', headers=headers)
        assert response.text == '"a"'

    through(grpc_loop, body)


@pytest.mark.parametrize(
    "path",
    [
        *(MISSING.path, "/", "/a", "//", "/a/b/c", "/%ff/x", "/x%0a/y"),
        # A proxy in front that denies /test.Echo/Echo may not know them for it.
        *("/test.Echo%2fEcho", "/test.Ech%6f/Echo", "/%74est.Echo/Echo"),
    ],
)
def test_methods_that_are_not_there(grpc_loop: Loop, path: str) -> None:
    async def body(rig: Rig) -> None:
        for kind in (JSON, PROTO, {"content-type": "text/plain"}, {}):
            response = await rig.http().post(path, content="{}", headers=kind)
            assert response.status_code == 404
            assert response.json()["code"] == "unimplemented"
            assert response.json()["message"].startswith("the gateway knows of no method /")
        response = await rig.http().post(path, content=b"", headers=STREAM)
        assert response.status_code == 200
        assert b'{"error": {"code": "unimplemented", "message": "the gateway' in response.content
        web = {"content-type": "application/grpc-web+proto"}
        response = await rig.http().post(path, content=b"", headers=web)
        assert response.status_code == 200
        assert b"grpc-status: 12" in response.content
        response = await rig.http().get(path)
        assert response.status_code == 404

    through(grpc_loop, body)


def test_services_for_callers_on_the_same_machine(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        path = "/txzmq.rpc.v1.Admin/ListPeers"
        response = await rig.http().post(path, content="{}", headers=JSON)
        assert response.status_code == 403
        assert response.json() == {
            "code": "permission_denied",
            "message": f"the gateway does not pass {path} on: ask the server itself",
        }

    through(grpc_loop, body)


# -- compression -----------------------------------------------------------------------------------


def test_gzip_both_ways(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client(
            send_compression=GzipCompression(), accept_compression=[GzipCompression()]
        )
        assert await client.outcome(ECHO, text("a" * 10_000)) == [text("a" * 10_000)]
        assert len(await client.outcome(COUNT, text("3 of 1000"))) == 3
        headers = {**JSON, "content-encoding": "gzip", "accept-encoding": "gzip"}
        content = gzip.compress(json.dumps("b" * 1_000).encode())
        response = await rig.http().post(ECHO.path, content=content, headers=headers)
        assert response.headers["content-encoding"] == "gzip"
        assert response.json() == "b" * 1_000

    through(grpc_loop, body)


def test_other_compressions(grpc_loop: Loop) -> None:
    brotli = pytest.importorskip("connectrpc.compression.brotli", reason="brotli")
    zstd = pytest.importorskip("connectrpc.compression.zstd", reason="zstandard")
    both = [brotli.BrotliCompression(), zstd.ZstdCompression()]

    async def body(rig: Rig) -> None:
        for each in both:
            client = rig.client(send_compression=each, accept_compression=[each])
            assert await client.outcome(ECHO, text("a" * 10_000)) == [text("a" * 10_000)]
        error = await rig.client(send_compression=GzipCompression()).failure(ECHO, text("a"))
        assert "unknown compression: 'gzip'" in error.message

    through(grpc_loop, body, gateway={"compressions": both})


# -- probes ----------------------------------------------------------------------------------------


def test_probes(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        await rig.client().outcome(ECHO, text("a"))
        for path in ("/healthz", "/readyz"):
            response = await http.get(path)
            assert (response.status_code, response.text) == (200, "ok\n")
            response = await http.head(path)
            assert (response.status_code, response.text) == (200, "")
        await rig.server.stop(0).asFuture(asyncio.get_running_loop())
        response = await http.get("/readyz")
        assert response.status_code == 503
        assert response.text == "the gateway can reach no server\n"
        response = await http.get("/healthz")
        assert response.status_code == 200

    through(grpc_loop, body)


# -- web pages of other origins --------------------------------------------------------------------

PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,connect-protocol-version,x-tenant",
}


def of_cors(response: Any) -> dict[str, str]:
    return {
        key.removeprefix("access-control-"): value
        for key, value in response.headers.items()
        if key.startswith("access-control-")
    }


def test_no_page_of_another_origin_may_call_by_default(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        response = await http.options(ECHO.path, headers=PREFLIGHT)
        assert response.status_code == 405
        assert of_cors(response) == {}
        response = await http.post(ECHO.path, content='"a"', headers={**JSON, "origin": ORIGIN})
        assert of_cors(response) == {}

    through(grpc_loop, body)


def test_pages_that_may_call(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        response = await http.options(ECHO.path, headers=PREFLIGHT)
        assert response.status_code == 204
        assert of_cors(response) == {
            "allow-origin": ORIGIN,
            "allow-methods": "GET, POST",
            "allow-headers": PREFLIGHT["access-control-request-headers"],
            "max-age": "7200",
        }
        assert response.headers["vary"] == "origin"
        mine = {**JSON, "origin": ORIGIN}
        response = await http.post(ECHO.path, content='"metadata"', headers=mine)
        assert response.headers["access-control-allow-origin"] == ORIGIN
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"initial", "trailer-trailing", "content-encoding"} <= set(exposed)
        # Errors, too, and what has no method.
        for path, content in ((ECHO.path, '"code 5"'), ("/a/b", "{}"), (ECHO.path, "{")):
            response = await http.post(path, content=content, headers=mine)
            assert response.status_code >= 400
            assert response.headers["access-control-allow-origin"] == ORIGIN
        web = {"content-type": "application/grpc-web+proto", "origin": ORIGIN}
        data = envelope(text("metadata").SerializeToString())
        response = await http.post(ECHO.path, content=data, headers=web)
        assert "initial" in response.headers["access-control-expose-headers"]

    through(grpc_loop, body, gateway={"cors": Cors([ORIGIN])})


def test_pages_that_may_not_call(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        for origin in ("https://evil.example", ORIGIN + ".evil.example", "null", ORIGIN.upper()):
            response = await http.options(ECHO.path, headers={**PREFLIGHT, "origin": origin})
            assert response.status_code == 403
            assert of_cors(response) == {}
            mine = {**JSON, "origin": origin}
            response = await http.post(ECHO.path, content='"a"', headers=mine)
            assert of_cors(response) == {}
            assert "origin" in response.headers["vary"]
        # Nor may a cache give a page what it has got for who is none.
        response = await http.post(ECHO.path, content='"a"', headers=JSON)
        assert response.status_code == 200
        assert of_cors(response) == {}
        assert "origin" in response.headers["vary"]

    through(grpc_loop, body, gateway={"cors": Cors([ORIGIN], credentials=True)})


def test_all_pages_and_cookies(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().options(ECHO.path, headers=PREFLIGHT)
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in response.headers
        again = HttpGateway(
            rig.channel, ServedMethods([]), cors=Cors([ORIGIN], credentials=True, max_age=1)
        )
        listener = await again.listen(reactor=rig.loop.reactor).asFuture(asyncio.get_running_loop())
        response = await rig.http().options(f"{listener.url}/a/b", headers=PREFLIGHT)
        assert response.headers["access-control-allow-credentials"] == "true"
        assert response.headers["access-control-max-age"] == "1"
        await listener.stop().asFuture(asyncio.get_running_loop())

    through(grpc_loop, body, gateway={"cors": Cors(["*"])})


@pytest.mark.parametrize(
    ("origins", "more", "error", "words"),
    [
        (ORIGIN, {}, TypeError, "origins must be a collection of origins"),
        ([1], {}, TypeError, "origins must be an origin"),
        (["app.example.com"], {}, ValueError, "is no origin: write scheme and host"),
        ([ORIGIN + "/"], {}, ValueError, "is no origin: write scheme and host"),
        (["HTTPS://x"], {}, ValueError, "is no origin: write scheme and host"),
        (["*"], {"credentials": True}, ValueError, "credentials: calls of all pages"),
        ([], {"max_age": -1}, ValueError, "max_age must be"),
    ],
)
def test_wrong_origins(
    origins: Any, more: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Cors(origins, **more)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (f"http://x{ECHO.path}", True),
        (f"HTTPS://example.com:443{ECHO.path}", True),
        (f"http://[::1]:80{ECHO.path}", True),
        (f"http://user@x{ECHO.path}", True),
        (f"http://x/{ECHO.path}", False),
        (f"http://x{ECHO.path.replace('Echo', '%45cho')}", False),
        ("http://x", False),
        ("http://", False),
        (f"ftp://x{ECHO.path}", False),
        ("test.Echo/Echo", False),
        ("*", False),
    ],
)
def test_a_client_that_takes_the_gateway_for_a_proxy(
    grpc_loop: Loop, target: str, found: bool
) -> None:
    """It sends a whole URL, whose path is the method's (RFC 9112, 3.2.2)."""

    async def body(rig: Rig) -> None:
        connection = await rig.connection()
        content_type = f"content-type: {PROTO['content-type']}"
        data = text("a").SerializeToString()
        asked = head(target, content_type, f"content-length: {len(data)}", "connection: close")
        connection.send(asked + data)
        answer = await connection.rest()
        assert answer.startswith(b"HTTP/1.1 200 " if found else b"HTTP/1.1 404 "), answer
        assert rig.notes.seen == (["a"] if found else [])
        connection = await rig.connection()
        connection.send(head("http://x/healthz?a=b", "connection: close", verb="GET"))
        assert (await connection.rest()).endswith(b"ok\n")

    through(grpc_loop, body)
