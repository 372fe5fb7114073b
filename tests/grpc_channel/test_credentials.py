"""Who a channel of gRPC's is to its server: TLS, mutual TLS, tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from twisted.internet.defer import Deferred

from tests.grpc_channel.support import Rig, add, call, served
from tests.grpc_channel.test_calls import error
from tests.rpc.service import ECHO, OTHER, WATCH, text
from tests.rpc.streaming import COUNT
from tests.support import Loop
from txzmq.rpc import Unauthenticated, Unavailable
from txzmq.rpc.authentication import BearerCredentials


class Authority:
    """Certificates for a server and a client."""

    def __init__(self) -> None:
        trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        client = authority.issue_cert("alice@example.org")
        self.root: bytes = authority.cert_pem.bytes()
        self.server_pair = _pair(server)
        self.client_pair = _pair(client)


def _pair(certificate: Any) -> tuple[bytes, bytes]:
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return certificate.private_key_pem.bytes(), chain


def test_tls_and_mutual_tls(grpc_loop: Loop) -> None:
    authority = Authority()
    key, chain = authority.client_pair
    trusting = grpc.ssl_server_credentials(
        [authority.server_pair], authority.root, require_client_auth=True
    )

    async def main() -> None:
        async with served(grpc_loop, Rig, credentials=trusting) as rig:
            known = rig.channel(
                credentials=grpc.ssl_channel_credentials(authority.root, key, chain),
                call_credentials=BearerCredentials(lambda: "token"),
            )
            assert (await call(known, ECHO, "x")).value == "x"
            unknown = rig.channel(credentials=grpc.ssl_channel_credentials(authority.root))
            plain = rig.channel()
            for channel in (unknown, plain):
                assert type(await error(call(channel, ECHO, "x"))) is Unavailable

    grpc_loop.run(main)


class Asking(Rig):
    """A rig whose server wants a token."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.tokens: list[str] = []

    def prepare(self, server: grpc.aio.Server) -> None:
        async def check(context: Any) -> None:
            token = dict(context.invocation_metadata()).get("authorization", "")
            self.tokens.append(token)
            if not token.endswith("good"):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        async def other(request: Any, context: Any) -> Any:
            await check(context)
            return request

        async def several(request: Any, context: Any) -> Any:
            await check(context)
            yield request

        add(server, OTHER, other)
        add(server, WATCH, several)


def test_a_token_goes_with_each_call(grpc_loop: Loop, tmp_path: Path) -> None:
    """And another one with the next, where a server has refused it."""
    tmp_path.chmod(0o700)
    given = iter(["bad", "good"])
    waiting: list[Deferred[str]] = []

    def get_token() -> Deferred[str]:
        waiting.append(Deferred())
        return waiting[-1]

    async def main() -> list[str]:
        rig = Asking(grpc_loop)
        await rig.serve(f"unix:{tmp_path}/socket")
        channel = rig.channel(call_credentials=BearerCredentials(get_token))
        first = channel.unary_unary(OTHER, text("x"))
        waiting.pop().callback(next(given))
        assert type(await error(first)) is Unauthenticated
        stream = channel.unary_stream(WATCH, text("x"))
        waiting.pop().callback(next(given))
        assert [item.value async for item in stream] == ["x"]
        own = channel.unary_unary(OTHER, text("x"), metadata={"authorization": "my good"})
        assert (await own).value == "x"
        assert (await channel.unary_unary(OTHER, text("x"))).value == "x"
        assert not waiting
        await rig.close()
        return rig.tokens

    tokens = grpc_loop.run(main)
    assert tokens == ["Bearer bad", "Bearer good", "my good", "Bearer good"]


def test_a_stream_waits_for_a_token_as_long_as_it_may(grpc_loop: Loop, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    async def main() -> None:
        async with served(grpc_loop, Rig, address=f"unix:{tmp_path}/socket") as rig:
            credentials = BearerCredentials(lambda: Deferred())
            channel = rig.channel(call_credentials=credentials)
            late = await error(call(channel, COUNT, "1", timeout=0.1).ended())
            assert "get_token has not answered yet" in str(late)
            credentials = BearerCredentials(lambda: Deferred())
            channel = rig.channel(call_credentials=credentials)
            streams = [call(channel, COUNT, "1"), call(channel, COUNT, "1")]
            ends = [error(stream.ended()) for stream in streams]
            streams[0].cancel()
            channel.close()
            assert [str(await end) for end in ends] == [
                "the stream was cancelled",
                "the channel was closed",
            ]

    grpc_loop.run(main)
