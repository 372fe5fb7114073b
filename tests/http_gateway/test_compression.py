"""What clients may send compressed."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
import httpx
from connectrpc.compression import Compression
from connectrpc.compression.gzip import GzipCompression

from tests.http_gateway.support import PROTO, STREAM, Rig, envelope, through
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import COLLECT
from tests.support import Loop
from txzmq.rpc import Method

WORD = text("a").SerializeToString()


class BrotliLike(Compression):
    """A compression of the user's own."""

    def name(self) -> str:
        return "br"

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)

    def decompress(
        self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None
    ) -> bytes:
        return bytes(data)


@pytest.mark.parametrize("method", [ECHO, COLLECT])
@pytest.mark.parametrize("given", [None, (BrotliLike(), GzipCompression())])
def test_gzip_of_many_members(
    grpc_loop: Loop, method: Method[Any, Any], given: tuple[Compression, ...] | None
) -> None:
    """Each costs as much as all that is behind it, so that many would block the reactor."""
    name = "content-encoding" if method is ECHO else "connect-content-encoding"
    headers = {**(PROTO if method is ECHO else STREAM), name: "gzip"}

    async def body(rig: Rig) -> None:
        async def answer(content: bytes) -> httpx.Response:
            if method is not ECHO:
                content = envelope(content, flags=1)
            return await rig.http().post(method.path, content=content, headers=headers)

        word = gzip.compress(WORD[:1]) + gzip.compress(b"") * 14 + gzip.compress(WORD[1:])
        one = gzip.compress(WORD)
        assert WORD in (await answer(word)).content
        many = await answer(word + gzip.compress(b""))
        assert b"invalid_argument" in many.content
        assert b"the gateway refuses the call: the gzip stream has more than 16" in many.content
        for broken in (word[:-1], word[:-8], one + b"\0", b"\x1f\x8b", one[:10]):
            assert b"the gateway refuses the call: decompress: " in (await answer(broken)).content
        assert rig.notes.seen == ["a"]

    through(grpc_loop, body, gateway={"compressions": given})
