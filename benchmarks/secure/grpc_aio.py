"""grpc.aio: ``python -m benchmarks.secure.grpc_aio serve [secured]``, or ``drive``.

As :mod:`benchmarks.secure.txzmq_`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from importlib import import_module
from typing import Any, Final

from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.peers.grpc_aio import open_channel
from benchmarks.secure.orders import AT_ONCE, METHOD, SERVICE, TIMEOUT, Connected, Order, connected
from benchmarks.streams.loads import SECURED, item
from benchmarks.trust import new_tls, tls_server

# Any: grpcio has no types, and half of what a checker infers is unknown.
grpc: Any = import_module("grpc")
aio: Any = import_module("grpc.aio")

#: Otherwise all channels of a process share one connection. A client connects again as soon as
#: txzmq's does.
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


async def serve() -> None:
    """Serve until killed."""

    async def echo(request: BytesValue, context: object) -> BytesValue:
        return request

    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server = aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),)
    )
    address, _, certificates = sys.stdin.readline().strip().partition(" ")
    if not certificates and SECURED in sys.argv:
        certificates = new_tls().strip()
    address = address or "127.0.0.1:0"
    if certificates:
        port = server.add_secure_port(address, tls_server(certificates))
    else:
        port = server.add_insecure_port(address)
    await server.start()
    print(f"127.0.0.1:{port} {certificates}".strip(), flush=True)
    await server.wait_for_termination()


async def drive() -> None:
    """Follow the orders that come, line by line."""
    clients = _Clients((await asyncio.to_thread(sys.stdin.readline)).strip())
    while line := await asyncio.to_thread(sys.stdin.readline):
        order: Order = json.loads(line)
        print(json.dumps(await clients.follow(order)), flush=True)
    await clients.close()


class _Clients:
    def __init__(self, line: str) -> None:
        self._line = line
        self._channels: list[Any] = []
        #: Seconds that each has taken.
        self._times: list[float] = []

    async def follow(self, order: Order) -> Connected:
        cpu, began = time.process_time(), time.perf_counter()
        self._times = []
        if order["what"] == "rate":
            end = began + order["seconds"]
            await asyncio.gather(*[self._come_and_go(end) for _ in range(AT_ONCE)])
        else:
            if order["what"] == "hold":
                self._channels += [self._open() for _ in range(order["clients"])]
            await asyncio.gather(*[self._call(each, began) for each in self._channels])
        seconds = time.perf_counter() - began
        return connected(self._times, seconds, time.process_time() - cpu)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _open(self) -> Any:
        return open_channel(self._line, _OPTIONS)

    async def _come_and_go(self, end: float) -> None:
        while (began := time.perf_counter()) < end:
            async with self._open() as channel:
                await self._call(channel, began)

    async def _call(self, channel: Any, began: float) -> None:
        echo = channel.unary_unary(
            METHOD,
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )
        while True:
            try:
                await echo(item(), timeout=TIMEOUT, wait_for_ready=True)
            except grpc.RpcError as error:
                # It was on its way to the server that died.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)
            else:
                break
        self._times.append(time.perf_counter() - began)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve() if sys.argv[1] == "serve" else drive())
