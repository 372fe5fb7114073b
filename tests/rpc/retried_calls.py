"""Calls with a retry or hedging policy, over several servers in memory."""

from __future__ import annotations

from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from tests.support import error_of
from txzmq.rpc import Channel, IdempotencyLevel, Method, Server, ServerLimits
from txzmq.testing import MemoryNetwork

IDEMPOTENT = Method(
    "/test.Echo/Echo",
    "echo",
    StringValue,
    StringValue,
    idempotency_level=IdempotencyLevel.IDEMPOTENT,
)
PLAIN = Method("/test.Echo/Echo", "echo", StringValue, StringValue)
RETRY: dict[str, Any] = {
    "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
}
HEDGE: dict[str, Any] = {
    "hedgingPolicy": {
        "maxAttempts": 3,
        "hedgingDelay": "0.5s",
        "nonFatalStatusCodes": ["UNAVAILABLE"],
    }
}


def config(policy: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{"service": "test.Echo"}], **policy}], **more}


class Field:
    """Servers in memory and a channel to all of them; nothing may be left at the end."""

    def __init__(
        self, services: list[Any], service_config: Any, limits: ServerLimits | None = None
    ) -> None:
        self.network = MemoryNetwork()
        self.services = services
        self.servers = [Server(self.network, [service], limits=limits) for service in services]
        self.addresses = [f"inproc://{number}" for number in range(len(services))]
        for server, address in zip(self.servers, self.addresses, strict=True):
            server.listen(address)
        self.channel = Channel(self.network, self.addresses, service_config=service_config)
        self.network.run()

    def call(
        self, method: Method[StringValue, StringValue] = IDEMPOTENT, **options: Any
    ) -> Deferred[Any]:
        deferred = self.channel.unary_unary(method, text("x"), **options)
        return deferred.addErrback(error_of)

    @property
    def seen(self) -> int:
        return sum(len(service.seen) for service in self.services)

    def close(self) -> None:
        self.channel.close()
        for server in self.servers:
            server.stop(0)
        self.network.advance(1)
        assert not self.network.clock.getDelayedCalls()
