"""The shop in a process of its own, which says when a stream is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tests.cli.shop import Shop
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Server
from txzmq.rpc.admin import Admin
from txzmq.rpc.reflection import Reflection


class TellingShop(Shop):
    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for receipt in super().Watch(request, context):
                yield receipt
        finally:
            print("the stream is over", flush=True)


def main() -> None:
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [TellingShop(), Reflection(), Admin()])
    print(f"ready at {server.listen('tcp://127.0.0.1:*')}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
