"""Clients that call for some seconds, and count."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from benchmarks.gateway.served import COUNT, ECHO

__all__ = ["GrpcClient"]

_REQUEST: Final = StringValue(value="x" * 100)
#: Items of one stream.
_ITEMS: Final = Int32Value(value=1_000)


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
