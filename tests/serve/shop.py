"""What the supervisors of these tests serve."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.task import deferLater

from tests.rpc.service import Echo, text
from txzmq._reactor import default_reactor
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
