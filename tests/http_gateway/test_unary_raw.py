"""Plain calls are answered the short way as they are the long way, whatever comes over the wire."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")

from tests.http_gateway.support import Rig, head, through
from tests.rpc.service import ECHO, text
from tests.support import Loop
from txzmq.rpc._http.unary import UnaryApplication
from txzmq.rpc.http_gateway import Cors

ORIGIN = "https://app.example.com"
#: Requests have it, so that the gateway closes the connection behind the last one.
LAST = "connection: close"
SIZE = 200

#: Headers that are of meaning to a plain call, or nearly so.
ODD = [
    *("Connect-Protocol-Version: 1", "connect-protocol-version: 2", "connect-protocol-version:"),
    *("connect-timeout-ms: 0", "connect-timeout-ms:", "connect-timeout-ms: 5000"),
    *("connect-timeout-ms: 9999999999", "connect-timeout-ms: 99999999999"),
    *("connect-timeout-ms: -1", "connect-timeout-ms: 1e3", "connect-timeout-ms: +5"),
    *("connect-timeout-ms: 5000, 1", "connect-timeout-ms: 0x10", "connect-timeout-ms:  0070000"),
    *("accept-encoding: gzip", "accept-encoding: gzip;q=0, identity", "accept-encoding: *"),
    *("accept-encoding: br, gzip", "accept-encoding: ,gzip", "accept-encoding: GZIP"),
    *("accept-encoding:", "accept-encoding: zstd, br;q=1.0, gzip;q=0.5, identity;q=0"),
    *("content-encoding: identity", "content-encoding:", "content-encoding: gzip"),
    *("te: trailers", "expect: 100-continue", "trailer: x", "grpc-timeout: 1m"),
    *("x-token: a b", "x-token:", "x-token: a,b", "X-TOKEN: c", "x_token: d", "x-bin: AAE"),
    *("x-bin: !", "x-bin: AA==,AAE=", "txzmq-own: x", "connect-other: y", "x-\u00e9: z"),
    *("x-token: \u00e9", "x-token: \x7f", "cookie: a=b; c=d", "authorization: Bearer x"),
    *(f"origin: {ORIGIN}", "origin: null", "x-forwarded-for: 1.2.3.4", "forwarded: for=1"),
    *("upgrade: h2c", "user-agent: x", "accept: text/html", "content-type: application/proto"),
]
TYPES = [
    *("application/json", "application/proto", "Application/JSON", "application/json "),
    *("application/json; charset=utf-8", "application/proto;x", "application/connect+proto"),
    *("text/plain", "", "application/json,application/proto"),
]
JSON = [
    *('"a"', "{}", "null", "1", "[]", '"\\ud800"', '"\\u0000"', '"\u00e9"', '"a" "b"', ""),
    *('"' + "x" * (SIZE - 2) + '"', '"' + "x" * (SIZE - 1) + '"', "[" * 150, "NaN", '"a'),
    *('"code 5"', '"code 16"', '"code 99"', ' \n\t"a" ', '\ufeff"a"'),
]
BINARY = [
    *(text(value).SerializeToString() for value in ("", "a", "code 5", "\u00e9", "x" * 196)),
    *(b"\xff", b"\x0a", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x10\x01", b"\x0a\x01a\x0a\x01b"),
]
VERBS = ["POST"] * 12 + ["GET", "HEAD", "PUT", "OPTIONS", "post"]
LENGTHS = ["{}"] * 12 + ["+{}", "0{}", "{},{}", "{} ", "-{}", "", "x"]


def requests(seed: int) -> Iterator[bytes]:
    """Some, each with a few things that are odd."""
    chance = random.Random(seed)
    while True:
        is_json = chance.random() < 0.5
        kind = f"application/{'json' if is_json else 'proto'}"
        if chance.random() < 0.15:
            kind = chance.choice(TYPES)
        body = chance.choice(JSON).encode() if is_json else chance.choice(BINARY)
        length = chance.choice(LENGTHS).replace("{}", str(len(body)))
        headers = [f"content-type: {kind}", f"content-length: {length}"]
        headers += chance.sample(ODD, chance.choice([0, 1, 1, 2, 3]))
        chance.shuffle(headers)
        yield head(ECHO, *headers, verb=chance.choice(VERBS)) + body


async def answers(rig: Rig, sent: bytes) -> bytes:
    """What comes until the gateway closes the connection."""
    connection = await rig.connection()
    connection.send(sent)
    try:
        got = await connection.rest()
    finally:
        await connection.close()
    # h11's words about what it has refused have the place where it was.
    return re.sub(rb"(?i)\r\ndate: [^\r]*", b"", got)


def only_long(*_: Any) -> None:
    """In place of what knows plain requests."""


@pytest.mark.parametrize("seed", range(2))
def test_both_ways_answer_alike(grpc_loop: Loop, seed: int) -> None:
    """Two requests at once on each connection; a last one has the gateway close it."""

    async def body(rig: Rig) -> None:
        whole = requests(seed)
        last = head(ECHO, "content-type: application/json", "content-length: 3", LAST) + b'"z"'
        taken = 0
        plain = UnaryApplication._plain_headers  # pyright: ignore[reportPrivateUsage]  # to count it

        def counted(application: Any, scope: Any) -> Any:
            nonlocal taken
            found = plain(application, scope)
            taken += found is not None
            return found

        for one, other in itertools.islice(itertools.pairwise(whole), 60):
            sent = one + other + last
            with patch.object(UnaryApplication, "_plain_headers", counted):
                short = await answers(rig, sent)
            with patch.object(UnaryApplication, "_plain_headers", only_long):
                long = await answers(rig, sent)
            assert short == long, sent
        assert taken > 30  # or it compares the long way with itself

    cors = Cors([ORIGIN])
    through(grpc_loop, body, gateway={"cors": cors, "message_size": SIZE})
