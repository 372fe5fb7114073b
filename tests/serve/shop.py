"""What the supervisors of these tests serve."""

from __future__ import annotations

import os
from collections import UserDict
from collections.abc import AsyncIterator, ItemsView, Iterator
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from twisted.internet.task import deferLater

from tests.rpc.service import Echo, text
from txzmq._reactor import default_reactor
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Context, UnaryResult

#: Of a stream.
ITEMS: Final = 20


class Shop(Echo):
    """Says which process has served the call; ``other`` takes its time."""

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        return text(f"{os.getpid()} {request.value}")

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        reactor: Any = default_reactor()
        return deferLater(reactor, float(request.value), text, str(os.getpid()))

    async def watch(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:  # type: ignore[override]  # the other one has none
        reactor: Any = default_reactor()
        for number in range(ITEMS):
            yield text(f"{request.value} {number}")
            await deferLater(reactor, 0.002)


class _Fails(Collector):
    """A collector of metrics that always fails."""

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        raise LookupError("no figures")


class _Once(UserDict[str, str]):
    """Clients' keys that can be read once."""

    def items(self) -> ItemsView[str, str]:
        items, self.items = super().items(), self._again  # type: ignore[method-assign]  # on purpose
        return items

    def _again(self) -> ItemsView[str, str]:
        raise LookupError("no keys")


def failing() -> dict[str, object]:
    """Options of a server whose code fails whenever the supervisor asks for something."""
    REGISTRY.register(_Fails())
    keys = CurveKeyPair.generate()
    return {"credentials": CurveServerCredentials(keys, _Once({keys.public_key: "alice"}))}
