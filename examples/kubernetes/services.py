"""What the pods of ``greeter.yaml`` serve: a service of calls and one of streams.

``txzmq serve examples.kubernetes.services:Greeter`` finds them by their names.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.task import deferLater

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase
from generated.demo.streams.v1.streams_pb2 import WatchRequest, WatchResponse
from generated.demo.streams.v1.streams_txzmq import MarketBase
from txzmq.rpc import Context, InvalidArgument, ServerLimits


class Greeter(GreeterBase):
    """Greets people, sloths after a second."""

    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        if request.name == "Sloth":
            await wait(1.0)
        return HelloReply(message=f"Hello, {request.name}!")


class Market(MarketBase):
    """Prices, which this pod publishes at a port of its own."""

    async def watch(self, request: WatchRequest, context: Context) -> AsyncIterator[WatchResponse]:
        cents = 10_000
        while True:
            yield WatchResponse(symbol=request.symbol, cents=cents)
            await wait(1.0)
            cents += random.randint(-100, 100)


async def wait(seconds: float) -> None:
    # Imported here: the worker has installed it by now. Any: Twisted's, which has no types.
    from twisted.internet import reactor

    running: Any = reactor
    await deferLater(running, seconds)


def options() -> dict[str, object]:
    """Further arguments of the server: ``--options examples.kubernetes.services:options``."""
    return {"limits": ServerLimits(connection_age=3600.0, connection_age_grace=60.0)}
