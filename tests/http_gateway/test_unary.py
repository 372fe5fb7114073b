"""Plain calls, which the gateway answers itself, are answered as connectrpc answers them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("hypothesis", reason="hypothesis is not installed here")
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed

from tests.rpc.service import ECHO
from txzmq.rpc import Code, Metadata, RpcError
from txzmq.rpc._gateway.forwarding import Forwarding
from txzmq.rpc._http import unary
from txzmq.rpc._http.calls import Calls, sender_of_call
from txzmq.rpc._http.server import CONNECTION
from txzmq.rpc.client import wanted_metadata
from txzmq.rpc.method_sources import ServedMethods
from txzmq.rpc.raw import RawMessage, raw_method

_SIZE: Final = 64
Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """What the servers answer."""

    body: bytes | RpcError | None = b""  # None: never
    initial: Metadata = ()
    trailing: Metadata = ()


class Servers:
    """A channel that gives one answer, and knows what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[tuple[bytes, bool, Metadata]] = []
        self.cancelled: list[bool] = []

    # Any: what a channel takes and returns.
    def unary_unary(self, _: Any, request: Any, *, timeout: float, metadata: Any) -> Any:
        self.asked.append((bytes(request), timeout < 1e9, tuple(metadata)))
        received = wanted_metadata.get()
        answer = self._answer
        if received is not None and answer.body is not None:
            received.received(answer.initial, answer.trailing)
        if answer.body is None:
            waits: Deferred[RawMessage] = Deferred(lambda _: self.cancelled.append(True))
            return waits
        return fail(answer.body) if isinstance(answer.body, RpcError) else self._answered()

    def _answered(self) -> Deferred[RawMessage]:
        assert isinstance(self._answer.body, bytes)
        return succeed(RawMessage(self._answer.body))


@dataclass
class Outcome:
    """What has become of a request."""

    sent: list[Any]
    asked: list[tuple[bytes, bool, Metadata]]
    raised: str


async def _outcome(
    headers: Pairs,
    parts: list[bytes],
    answer: Answer,
    *,
    json: bool = False,
    verb: str = "POST",
    plain: bool,
    servers: Servers | None = None,
) -> Outcome:
    """:param plain: whether the gateway may answer itself; connectrpc does where not."""
    servers = servers or Servers(answer)
    channel: Any = servers  # it has one method of a channel's
    calls = Calls(channel, ServedMethods([]), _SIZE, None)
    application = calls.application(ECHO, raw_method(ECHO.path), json=json)
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    sender_of_call.set(Forwarding().sender("192.0.2.7", secure=False))
    scope: dict[str, Any] = {
        "type": "http",
        "method": verb,
        "path": ECHO.path,
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "client": ("192.0.2.7", 5),
        "headers": headers,
        "extensions": {CONNECTION: object()} if plain else {},
    }
    try:
        await application(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - it is to be the same, whatever it is
        return Outcome(sent, servers.asked, repr(error))
    return Outcome(sent, servers.asked, "")


def both(
    headers: Pairs,
    parts: list[bytes],
    answer: Answer,
    *,
    json: bool = False,
    verb: str = "POST",
) -> Outcome:
    """What becomes of a request, which is the same by the gateway itself and by connectrpc."""

    async def main() -> list[Outcome]:
        return [
            await _outcome(headers, parts, answer, json=json, verb=verb, plain=plain)
            for plain in (True, False)
        ]

    ours, theirs = asyncio.run(main())
    assert ours == theirs
    return ours


def head(parts: list[bytes], *others: tuple[bytes, bytes], json: bool = False) -> Pairs:
    """The headers of a plain request, and others."""
    kind = b"application/json" if json else b"application/proto"
    length = b"%d" % sum(map(len, parts))
    return [(b"host", b"a"), (b"content-type", kind), (b"content-length", length), *others]


_NAMES = st.sampled_from(
    [
        b"accept-encoding",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"grpc-timeout",
        b"te",
        b"transfer-encoding",
        b"x-a",
        b"x-b-bin",
        b"x-forwarded-for",
        b"txzmq-a",
    ]
)
_VALUES = st.sampled_from(
    [
        *(b"", b"0", b"1", b"10000", b"12345678901", b"-1", b" 1", b"1_0", b"gzip", b"br, gzip"),
        *(b"identity", b"identity;q=1,gzip", b"AAA=", b"AA,BB", b"!", b"100-continue", b"a b"),
        *(b"application/json", b"application/proto; a=b", b"Application/Proto"),
    ]
)
#: Without a time that would be up in the one way, and not yet in the other.
_PAIRS = st.tuples(_NAMES, _VALUES).filter(
    lambda pair: pair[0] != b"connect-timeout-ms" or pair[1].strip() not in (b"1", b"1_0")
)
_TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
_METADATA = st.lists(
    st.tuples(st.sampled_from(["x-a", "x-c", "date", "access-control-a", "grpc-a"]), _TEXTS)
    | st.tuples(st.just("x-b-bin"), st.binary(max_size=8)),
    max_size=4,
).map(tuple)


@st.composite
def _errors(draw: st.DrawFn) -> RpcError:
    names = draw(st.lists(st.sampled_from(["a.B", "google.protobuf.StringValue"]), max_size=2))
    details = [
        AnyMessage(type_url=f"type.googleapis.com/{name}", value=draw(st.binary(max_size=8)))
        for name in names
    ]
    code = draw(st.sampled_from([code for code in Code if code is not Code.OK]))
    said = draw(st.text(max_size=8))
    return RpcError(code, said, details=details, metadata=draw(_METADATA)).of_server()


@given(
    st.lists(_PAIRS, max_size=4),
    st.lists(st.binary(max_size=40), min_size=1, max_size=3),
    st.builds(
        Answer,
        st.binary(max_size=_SIZE + 2) | _errors(),
        _METADATA,
        _METADATA,
    ),
    st.sampled_from(["POST", "POST", "GET", "PUT"]),
)
@example([(b"x-a", b"1"), (b"x-c", b"2"), (b"x-a", b"3")], [b"ab"], Answer(b"c"), "POST")
@example([(b"accept-encoding", b"br, gzip")], [b"a", b"b"], Answer(b"c" * 60), "POST")
@example([(b"connect-timeout-ms", b"10000")], [b""], Answer(b"", (("x-a", "b"),)), "POST")
@example([(b"connect-timeout-ms", b"0")], [b"a"], Answer(b"b"), "POST")
@example([], [b"a" * 40, b"b" * 40], Answer(b""), "POST")
def test_binary_calls(others: Pairs, parts: list[bytes], answer: Answer, verb: str) -> None:
    both(head(parts, *others), parts, answer, verb=verb)


@given(
    st.sampled_from([b'"a"', b'"\xc3\xa4"', b"", b"{}", b"null", b"[", b"\xff", b'"' + b"a" * 62]),
    st.builds(
        Answer,
        _TEXTS.map(lambda value: StringValue(value=value).SerializeToString())
        | st.just(b"\xff")
        | _errors(),
        _METADATA,
        _METADATA,
    ),
)
def test_calls_in_json(body: bytes, answer: Answer) -> None:
    both(head([body], json=True), [body], answer, json=True)


def test_what_is_plain_is_not_connectrpcs() -> None:
    """Or the comparison above would be of connectrpc with itself."""
    plain = [
        head([b"a"]),
        head([b"a"], (b"connect-protocol-version", b"1"), (b"x-a", b"b")),
        head([b"a"], (b"connect-timeout-ms", b"10000"), (b"accept-encoding", b"gzip")),
    ]
    others = [
        head([b"a"], (b"content-encoding", b"identity")),
        head([b"a"], (b"x-a", b"1"), (b"x-a", b"2")),
        head([b"a"], (b"connect-timeout-ms", b"1s")),
        head([b"a" * (_SIZE + 1)]),
        head([b"a"], json=True),
        [pair for pair in head([b"a"]) if pair[0] != b"content-length"],
    ]

    async def is_plain(headers: Pairs) -> bool:
        with patch.object(unary, "_body", side_effect=NotImplementedError("it is plain")):
            outcome = await _outcome(headers, [b"a"], Answer(), plain=True)
        return "it is plain" in outcome.raised

    assert [asyncio.run(is_plain(headers)) for headers in plain] == [True] * len(plain)
    assert [asyncio.run(is_plain(headers)) for headers in others] == [False] * len(others)


@pytest.mark.parametrize("answer", [Answer(None), Answer(None, (("x-a", "b"),))])
def test_the_time_of_a_call_is_up(answer: Answer) -> None:
    outcome = both(head([b"a"], (b"connect-timeout-ms", b"100")), [b"a"], answer)
    assert outcome.sent[0]["status"] == 504


def test_a_call_is_cancelled_whose_client_goes() -> None:
    servers = Servers(Answer(None))

    async def main() -> None:
        waits = asyncio.create_task(
            _outcome(head([b"a"]), [b"a"], Answer(), plain=True, servers=servers)
        )
        await asyncio.sleep(0)
        assert servers.cancelled == []
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(main())
    assert servers.cancelled == [True]
