"""The methods that a server has, by their paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from txzmq.rpc._core.interceptors import chain_server
from txzmq.rpc._server.shared import is_shared, share
from txzmq.rpc.context import Context
from txzmq.rpc.interceptors import ServerInterceptor
from txzmq.rpc.method import Kind, Method, ServiceHandler

__all__ = ["ServedMethod", "served_methods"]


class ServedMethod:
    """A method that the server has, with its handler behind the interceptors."""

    __slots__ = (
        "handler",
        "method",
        "path",
        "request_streaming",
        "request_type",
        "response_streaming",
        "response_type",
        "unary",
    )

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(self, method: Method[Any, Any], handler: Callable[[Any, Context], Any]) -> None:
        self.method = method
        self.handler = handler
        self.path = method.path
        self.request_type: type[Message] = method.request_type
        self.response_type: type[Message] = method.response_type
        self.unary = method.kind is Kind.UNARY_UNARY
        self.request_streaming = method.kind.request_streaming
        self.response_streaming = method.kind.response_streaming


def served_methods(
    services: Sequence[ServiceHandler], interceptors: Sequence[ServerInterceptor]
) -> dict[str, ServedMethod]:
    """The methods of all services by their paths, each handler behind the interceptors.

    :raises ValueError: if two services have one path.
    """
    found: dict[str, ServedMethod] = {}
    for service in services:
        for method in service.__txzmq_service__.methods:
            if method.path in found:
                raise ValueError(f"two services implement {method.path}")
            handler = getattr(service, method.name)
            if is_shared(method):
                handler = share(method, handler)
            handler = chain_server(interceptors, handler)
            found[method.path] = ServedMethod(method, handler)
    return found
