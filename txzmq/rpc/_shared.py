"""Methods whose callers share one run of the handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from txzmq.rpc.context import Context
from txzmq.rpc.method import Method, Sharing

__all__ = ["SharedRequest", "is_shared", "share"]


class SharedRequest:
    """What a shared method gives instead of items: who may have them is known now.

    :ivar key: the same for equal requests.
    """

    __slots__ = ("handler", "key", "method", "request")

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(
        self, method: Method[Any, Any], handler: Callable[[Any, Context], Any], request: Message
    ) -> None:
        self.method = method
        self.handler = handler
        self.request = request
        self.key = (method.path, request.SerializeToString(deterministic=True))


def is_shared(method: Method[Any, Any]) -> bool:
    """Whether callers with equal requests share the items."""
    return method.stream is not None and method.stream.sharing is Sharing.SHARED


def share(
    method: Method[Any, Any], handler: Callable[[Any, Context], Any]
) -> Callable[[Any, Context], Any]:
    """In place of a handler, behind the interceptors: they see each subscriber, it does not."""

    def shared(request: Any, context: Context) -> SharedRequest:
        return SharedRequest(method, handler, request)

    return shared
