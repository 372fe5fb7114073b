"""Clients that call for some seconds, and count."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from benchmarks.gateway.served import COUNT, ECHO

__all__ = ["ConnectClient", "GrpcClient"]

_REQUEST: Final = StringValue(value="x" * 100)
#: Items of one stream.
_ITEMS: Final = Int32Value(value=1_000)


class ConnectClient:
    """One of Connect's unary calls, by HTTP/1.1: a connection for each call in flight.

    It parses no more than it needs, so that it takes little of the processors.
    """

    def __init__(self, address: str, content_type: str, body: bytes) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._request = (
            f"POST {ECHO.path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\n"
            f"Connect-Protocol-Version: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @classmethod
    def binary(cls, address: str) -> ConnectClient:
        """With messages of protobuf's."""
        return cls(address, "application/proto", _REQUEST.SerializeToString())

    @classmethod
    def json(cls, address: str) -> ConnectClient:
        """With messages in JSON."""
        return cls(address, "application/json", json.dumps(_REQUEST.value).encode())

    async def unary(self, in_flight: int, seconds: float) -> int:
        """Calls with one request and one response; how many there were."""
        while len(self._connections) < in_flight:
            self._connections.append(await asyncio.open_connection(self._host, self._port))
        end = time.perf_counter() + seconds
        done = 0

        async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal done
            while time.perf_counter() < end:
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200 "), head
                _, told, rest = head.partition(b"content-length:")
                if told:
                    body = await reader.readexactly(int(rest.partition(b"\r\n")[0]))
                else:
                    body = await reader.readuntil(b"0\r\n\r\n")  # the last chunk
                assert _REQUEST.value.encode() in body, "it is another's response"
                done += 1

        await asyncio.gather(*(call(*each) for each in self._connections[:in_flight]))
        return done

    async def close(self) -> None:
        """Let go of the connections."""
        for _, writer in self._connections:
            writer.close()


class GrpcClient:
    """One of grpc.aio's, with one connection."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        # Any: grpcio's stubs do not know of the messages.
        self._echo: Any = self._channel.unary_unary(
            ECHO.path, StringValue.SerializeToString, StringValue.FromString
        )
        self._count: Any = self._channel.unary_stream(
            COUNT.path, Int32Value.SerializeToString, StringValue.FromString
        )

    async def unary(self, in_flight: int, seconds: float) -> int:
        """Calls with one request and one response; how many there were."""
        end = time.perf_counter() + seconds
        done = 0

        async def call() -> None:
            nonlocal done
            while time.perf_counter() < end:
                response = await self._echo(_REQUEST)
                assert response == _REQUEST, "it is another's response"
                done += 1

        await asyncio.gather(*(call() for _ in range(in_flight)))
        return done

    async def streams(self, in_flight: int, seconds: float) -> int:
        """Streams of responses, one after the other; how many items there were."""
        end = time.perf_counter() + seconds
        done = 0

        async def read() -> None:
            nonlocal done
            while time.perf_counter() < end:
                items = 0
                async for _ in self._count(_ITEMS):
                    items += 1
                assert items == _ITEMS.value, "items were lost"
                done += items

        await asyncio.gather(*(read() for _ in range(in_flight)))
        return done

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()
