"""grpclib, on its defaults: what its generated stub does, written out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from benchmarks.drivers import follow_in_asyncio
from benchmarks.stacks import Peer
from benchmarks.workload import METHOD, TIMEOUT, Messages, Orders

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest


class _Grpclib:
    """Implements :class:`Peer`."""

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        asyncio.run(_serve(messages, announce))

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        asyncio.run(_drive(messages, address, orders))


class _Bench:
    """The service, with the table of methods that the server asks for."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def echo(self, stream: Stream[EchoRequest, EchoReply]) -> None:
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(self._messages.answer(request))

    def __mapping__(self) -> dict[str, Handler]:
        types = self._messages.request, self._messages.reply
        return {METHOD: Handler(self.echo, Cardinality.UNARY_UNARY, *types)}


async def _serve(messages: Messages, announce: Callable[[str], None]) -> None:
    # The server does not tell which port the kernel chose, but it takes a socket. On one that does
    # not name its protocol asyncio leaves Nagle's algorithm on, and each lone call takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = Server([_Bench(messages)])
    await server.start(sock=listener)
    announce(str(listener.getsockname()[1]))
    await server.wait_closed()


async def _drive(messages: Messages, address: str, orders: Orders) -> None:
    async with Channel("127.0.0.1", int(address)) as channel:
        echo = UnaryUnaryMethod(channel, METHOD, messages.request, messages.reply)

        def call(request: EchoRequest) -> Awaitable[EchoReply]:
            return echo(request, timeout=TIMEOUT)

        await follow_in_asyncio(messages, orders, call)


PEER: Final[Peer] = _Grpclib()
