"""What servers may answer that HTTP cannot have as it is."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("hypothesis", reason="hypothesis is not installed here")
import h11
from connectrpc.client import ResponseMetadata
from connectrpc.protocol import ProtocolType
from connectrpc.request import Headers
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from tests.http_gateway.support import Rig, through
from tests.rpc.service import text
from tests.support import Logged, Loop
from txzmq.rpc import Context, Method, Service
from txzmq.rpc._http.headers import add_metadata
from txzmq.rpc._http.server import Log
from txzmq.rpc.metadata import normalise

BLANKS = Method("/test.Blanks/Echo", "echo", StringValue, StringValue)


class Blanks:
    """Answers with metadata that HTTP has no words for."""

    __txzmq_service__: ClassVar[Service] = Service("test.Blanks", (BLANKS,))

    def echo(self, request: StringValue, context: Context) -> StringValue:
        pairs = (("x-around", " a b "), ("x-only", "  "), ("x-none", ""))
        context.send_initial_metadata(pairs)
        context.set_trailing_metadata(pairs)
        return request


@pytest.mark.parametrize("protocol", [ProtocolType.CONNECT, ProtocolType.GRPC_WEB])
def test_blanks_around_values(grpc_loop: Loop, logged: Logged, protocol: ProtocolType) -> None:
    async def body(rig: Rig) -> None:
        with ResponseMetadata() as received:
            assert await rig.client(protocol).outcome(BLANKS, text("a")) == [text("a")]
        for headers in (received.headers, received.trailers):
            told = {key: value for key, value in headers.items() if key.startswith("x-")}
            assert told == {"x-around": "a b", "x-only": "", "x-none": ""}

    through(grpc_loop, body, services=[Blanks()])
    assert logged.failures() == []


_KEYS = st.from_regex(r"[0-9a-z_.-]{1,20}", fullmatch=True)
_TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(
    st.lists(
        st.one_of(
            st.tuples(_KEYS.filter(lambda key: not key.endswith("-bin")), _TEXTS),
            st.tuples(_KEYS.map(lambda key: f"{key}-bin"), st.binary(max_size=20)),
        ),
        max_size=5,
    )
)
@example([("x", " ")])
@example([("transfer-encoding", "chunked"), ("content-length", "-1")])
def test_any_metadata_of_a_server_can_be_sent(pairs: list[tuple[str, Any]]) -> None:
    metadata = normalise([pair for pair in pairs if not pair[0].startswith("txzmq-")])
    headers = Headers()
    add_metadata(headers, metadata)
    sent = [(key.encode(), value.encode()) for key, value in headers.allitems()]
    h11.Response(status_code=200, headers=sent)


def test_the_log_of_failures_is_kept_short(logged: Logged) -> None:
    clock = Clock()
    log = Log(clock)
    for _ in range(100):
        log.error("uvicorn's words", exc_info=ValueError("why"))
        log.error("uvicorn's words", exc_info=OSError("why"))
    assert [type(each) for each in logged.failures()] == [ValueError, OSError]
    clock.advance(61)
    log.error("uvicorn's words", exc_info=ValueError("why"))
    assert logged[-1]["left_out"] == 99
