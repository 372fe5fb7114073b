"""txzmq in a program of asyncio's: Tasks await the calls, and handlers are Tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from benchmarks.drivers import follow_in_asyncio
from benchmarks.peers.txzmq_ import bench_client
from benchmarks.peers.txzmq_coroutines import awaiting_service
from benchmarks.stacks import Peer
from benchmarks.workload import TIMEOUT, Messages, Orders
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, aio

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest


class TxzmqInAsyncio(Peer):
    """A server and a client, each of asyncio's."""

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        service = awaiting_service(messages)

        async def main() -> None:
            server = Server(_factory(), [service], handlers="asyncio")
            announce(server.listen("tcp://127.0.0.1:*"))
            await asyncio.Event().wait()  # for ever

        aio.run(main)

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        async def main() -> None:
            channel = Channel(_factory(), address)
            echo = bench_client(channel).echo

            def call(request: EchoRequest) -> Deferred[EchoReply]:
                reply: Deferred[EchoReply] = echo(request, timeout=TIMEOUT)
                return reply

            await follow_in_asyncio(messages, orders, call)
            channel.close()

        aio.run(main)


def _factory() -> ZmqFactory:
    factory = ZmqFactory()
    factory.registerForShutdown()
    return factory


PEER: Final = TxzmqInAsyncio()
