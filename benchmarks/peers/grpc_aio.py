"""gRPC's own asyncio API: what its generated stub does, written out.

On its defaults but for two: how many requests may wait until the server's loop takes them, because
it cancels some of 10,000 that come at once, and the size of a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from benchmarks.drivers import AsyncioCall, follow_in_asyncio
from benchmarks.stacks import Peer
from benchmarks.trust import new_tls, tls_client, tls_server
from benchmarks.workload import METHOD, SERVICE, TIMEOUT, Messages, Orders

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

# Any: grpcio has no types, and half of what a checker infers is unknown.
grpc: Any = import_module("grpc")
aio: Any = import_module("grpc.aio")


_OPTIONS: Final = (
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.max_receive_message_length", 32 << 20),
)


class GrpcAio:
    """Implements :class:`Peer`.

    :ivar secured: whether with mutual TLS.
    """

    def __init__(self, *, secured: bool = False) -> None:
        self.secured = secured

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        asyncio.run(_serve(messages, announce, secured=self.secured))

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        asyncio.run(_drive(messages, address, orders))


async def _serve(messages: Messages, announce: Callable[[str], None], *, secured: bool) -> None:
    async def echo(request: EchoRequest, _context: object) -> EchoReply:
        return messages.answer(request)

    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=messages.request.FromString,
        response_serializer=messages.reply.SerializeToString,
    )
    server = aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),)
    )
    address = listen(server, secured=secured)
    await server.start()
    announce(address)
    await server.wait_for_termination()


async def _drive(messages: Messages, address: str, orders: Orders) -> None:
    async with open_channel(address, _OPTIONS) as channel:
        echo = channel.unary_unary(
            METHOD,
            request_serializer=messages.request.SerializeToString,
            response_deserializer=messages.reply.FromString,
        )
        call: AsyncioCall = lambda request: echo(request, timeout=TIMEOUT)  # noqa: E731 - typed so
        await follow_in_asyncio(messages, orders, call)


def listen(server: Any, *, secured: bool) -> str:
    """Listen on a port that the kernel chooses; what to tell clients."""
    if not secured:
        return f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    certificates = new_tls()
    port = server.add_secure_port("127.0.0.1:0", tls_server(certificates))
    return f"127.0.0.1:{port}{certificates}"


def open_channel(line: str, options: Sequence[tuple[str, int]] = ()) -> Any:
    """A channel to a server, by what it told its clients."""
    address, credentials = tls_client(line)
    if credentials is None:
        return aio.insecure_channel(address, options=options)
    return aio.secure_channel(address, credentials, options=options)


PEER: Final[Peer] = GrpcAio()
