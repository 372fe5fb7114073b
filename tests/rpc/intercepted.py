"""A server and a channel whose calls go through interceptors, and interceptors that note calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.rpc.service import ADDRESS, Echo, World
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientInterceptor,
    ClientProceed,
    Context,
    RpcError,
    Server,
    ServerInterceptor,
    ServerProceed,
)
from txzmq.testing import MemoryNetwork


class Intercepted(World):
    """A server and a channel whose calls go through interceptors."""

    def __init__(
        self,
        service: Echo | None = None,
        *,
        client: list[ClientInterceptor] | None = None,
        server: list[ServerInterceptor] | None = None,
        serve: bool = True,
    ) -> None:
        self.network = MemoryNetwork()
        self.service = Echo() if service is None else service
        self.server = Server(self.network, [self.service], interceptors=server or [])
        if serve:
            self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, interceptors=client or [])


def at_client(name: str, seen: list[str]) -> ClientInterceptor:
    async def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        seen.append(f"{name} {call.method.path} {call.request.value}")
        try:
            response = await proceed(call)
        except RpcError as error:
            seen.append(f"{name} {error.code.name}")
            raise
        seen.append(f"{name} {response.value}")
        return response

    return interceptor


def at_server(name: str, seen: list[str]) -> ServerInterceptor:
    async def interceptor(request: Any, context: Context, proceed: ServerProceed) -> Any:
        seen.append(f"{name} {context.method} {request.value}")
        try:
            response = await proceed(request)
        except BaseException as error:
            seen.append(f"{name} {error!r}")
            raise
        seen.append(f"{name} {response.value}")
        return response

    return interceptor


Worlds = Callable[..., Intercepted]
