"""A method that a server has, and a call of it from arrival to answer."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq.rpc._admission import Place
from txzmq.rpc._shared import is_shared, share
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context
from txzmq.rpc.interceptors import ServerInterceptor, chain_server
from txzmq.rpc.method import Kind, Method, Service

if TYPE_CHECKING:
    from txzmq.rpc._listener import Listener

__all__ = ["Entry", "ServedCall", "ServiceHandler", "entries"]


class ServiceHandler(Protocol):
    """An instance of a generated ``<Service>Base``."""

    #: The service that it implements.
    __txzmq_service__: ClassVar[Service]


class Entry:
    """A method that the server has."""

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


def entries(
    services: Sequence[ServiceHandler], interceptors: Sequence[ServerInterceptor]
) -> dict[str, Entry]:
    """The methods of all services by their paths, each handler behind the interceptors.

    :raises ValueError: if two services have one path.
    """
    found: dict[str, Entry] = {}
    for service in services:
        for method in service.__txzmq_service__.methods:
            if method.path in found:
                raise ValueError(f"two services implement {method.path}")
            handler = getattr(service, method.name)
            if is_shared(method):
                handler = share(method, handler)
            handler = chain_server(interceptors, handler)
            found[method.path] = Entry(method, handler)
    return found


class ServedCall:
    """A call that the server has taken on."""

    __slots__ = (
        "answered",
        "body",
        "cache_key",
        "context",
        "deadline",
        "deferred",
        "detached",
        "ended",
        "entry",
        "key",
        "listener",
        "place",
        "queued",
        "registered",
        "tick",
        "waited",
    )

    def __init__(
        self,
        listener: Listener,
        key: CallKey,
        entry: Entry,
        context: Context,
        deadline: float | None,
        body: bytes,
    ) -> None:
        self.listener = listener
        self.key = key
        self.entry = entry
        self.context = context
        self.deadline = deadline
        #: The serialised request; given up when the handler starts.
        self.body = body
        #: Of the handler's result, while it is awaited.
        self.deferred: Deferred[Any] | None = None
        #: Nobody waits for the handler's result any more.
        self.answered = False
        #: The handler's result is there.
        self.ended = False
        #: Under which its reply may be asked for again.
        self.cache_key: Hashable | None = None
        #: Its own client does not wait any more, but others that asked for the same do.
        self.detached = False
        self.place: Place = (key[0], entry.path)
        self.queued = False
        #: Whether it is or was.
        self.waited = False
        #: Whether cancellation, loss of the peer and the deadline find the call.
        self.registered = False
        self.tick = 0

    def take_request(self) -> Any:
        """What the handler gets; the serialised request is given up.

        :raises DecodeError: if it cannot be parsed; on PyPy also UnicodeDecodeError.
        """
        body, self.body = self.body, b""
        return self.entry.request_type.FromString(body)

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in."""
        return contextvars.copy_context()
