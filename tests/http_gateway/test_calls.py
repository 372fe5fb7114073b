"""Calls of Connect's and gRPC-Web's clients through a gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from connectrpc.code import Code as ConnectCode
from connectrpc.protocol import ProtocolType

from tests.http_gateway.support import JSON, Rig, given_to, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Loop
from txzmq.rpc import Method

KINDS = [ECHO, COUNT, COLLECT, CHAT]
PROTOCOLS = [ProtocolType.CONNECT, ProtocolType.GRPC_WEB]
MIB = 1024 * 1024


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_four_kinds(grpc_loop: Loop, protocol: ProtocolType, json: bool) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client(protocol, json=json)
        assert await client.outcome(ECHO, text("a☺")) == [text("a☺")]
        assert await client.outcome(COUNT, text("3")) == [text(n) for n in "012"]
        assert await client.outcome(COLLECT, [text("a"), text("b")]) == [text("a,b")]
        assert await client.outcome(CHAT, [text("a"), text("b")]) == [text("a"), text("b")]
        assert await client.outcome(CHAT, []) == []

    through(grpc_loop, body)


def test_curl(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        response = await rig.http().post(ECHO.path, content='"a☺"', headers=JSON)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.text == '"a☺"'

    through(grpc_loop, body)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", KINDS)
def test_errors_with_their_details(
    grpc_loop: Loop, method: Method[Any, Any], protocol: ProtocolType
) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client(protocol)
        for code in ConnectCode:
            number = list(ConnectCode).index(code) + 1
            error = await client.failure(method, given_to(method, f"code {number}"))
            assert (error.code, error.message) == (code, f"code {number}")
        error = await client.failure(method, given_to(method, "details \t☺\n"))
        assert (error.code, error.message) == (ConnectCode.NOT_FOUND, "details \t☺\n")
        (detail,) = error.details
        assert detail.type_name == "google.protobuf.StringValue"
        assert detail.message_bytes == text("why").SerializeToString()

    through(grpc_loop, body)


def test_a_thousand_calls_at_once(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        calls = (client.outcome(ECHO, text(str(number))) for number in range(1_000))
        responses = await asyncio.gather(*calls)
        assert [response.value for (response,) in responses] == [str(n) for n in range(1_000)]

    through(grpc_loop, body)
