"""Streams with a retry policy, and handlers that fail before they succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, StreamWorld
from txzmq.rpc import IdempotencyLevel, Method, Unavailable


def idempotent(method: Method[StringValue, StringValue]) -> Method[StringValue, StringValue]:
    return replace(method, idempotency_level=IdempotencyLevel.IDEMPOTENT)


def config(codes: list[str] | None = None, **more: Any) -> dict[str, Any]:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": codes or ["UNAVAILABLE"],
    }
    return {
        "methodConfig": [{"name": [{"service": "test.Streaming"}], "retryPolicy": policy}],
        **more,
    }


class World(StreamWorld):
    """Its methods are idempotent."""

    def __init__(self, handler: Any, service_config: Any = None, **options: Any) -> None:
        super().__init__(handler, service_config=service_config or config(), **options)

    def open(
        self,
        value: object = 3,
        *,
        method: Method[StringValue, StringValue] = COUNT,
        **options: Any,
    ) -> Any:
        return self.channel.unary_stream(idempotent(method), text(str(value)), **options)

    def collect(self, requests: Any, **options: Any) -> Deferred[StringValue]:
        return self.channel.stream_unary(idempotent(COLLECT), requests, **options)

    def chat(self, requests: Any, **options: Any) -> Any:
        return self.channel.stream_stream(idempotent(CHAT), requests, **options)

    @property
    def attempts(self) -> list[str]:
        """Those before each one that has reached the handler, as it was told."""
        metadata = [dict(context.metadata) for context in self.service.contexts]
        return [str(pairs.get("grpc-previous-rpc-attempts", "")) for pairs in metadata]


Worlds = Callable[..., World]


def not_now(**options: Any) -> Unavailable:
    return Unavailable("not now", **options)


class Failing:
    """Fails so many times before it gives three items."""

    def __init__(self, failures: float, error: Callable[[], Exception] = not_now) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    @property
    def fails(self) -> bool:
        self.calls += 1
        return self.calls <= self.failures
