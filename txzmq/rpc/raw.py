"""Methods whose messages stay bytes, and methods that a server has by no service.

Proxies, gateways, recorders and command lines pass on messages of which they know nothing. They
call with :class:`RawMessage` by a method that :func:`raw_method` makes of a path, and serve by a
*fallback*, which a server asks for the methods that none of its services has::

    def find(path: str) -> MethodHandler[RawMessage, RawMessage] | None:
        if path not in kinds:
            return None  # UNIMPLEMENTED
        return MethodHandler(raw_method(path, kinds[path]), handler)

    server = Server(factory, [], fallback=find)

The guide's page on raw methods has a whole relay, and says what holds for such calls.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, final

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.context import Context
from txzmq.rpc.interceptors import UnaryResult
from txzmq.rpc.method import IdempotencyLevel, Kind, Method, StreamOptions
from txzmq.rpc.streams import RequestStream, StreamResult

__all__ = ["Fallback", "Handler", "MethodHandler", "RawMessage", "raw_method"]

Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)
T = TypeVar("T")

_Result: TypeAlias = (
    UnaryResult[T] | StreamResult[T] | Coroutine[Deferred[Any], Any, StreamResult[T]]
)
#: What serves a method: a function of a request, or where requests stream of a
#: :class:`~txzmq.rpc.RequestStream`, and of the call's :class:`~txzmq.rpc.Context`. It returns what
#: the method of a generated base class may: a response, or where responses stream what gives them.
Handler: TypeAlias = (
    Callable[[Req, Context], _Result[Res]] | Callable[[RequestStream[Req], Context], _Result[Res]]
)


def raw_method(
    path: str,
    kind: Kind = Kind.UNARY_UNARY,
    *,
    idempotency_level: IdempotencyLevel = IdempotencyLevel.IDEMPOTENCY_UNKNOWN,
    stream: StreamOptions | None = None,
) -> Method[RawMessage, RawMessage]:
    """A method whose requests and responses are bytes, to call or to serve.

    The other side may have the same method with messages: nothing of this goes over the wire. All
    but the path has to be as its proto says, since nobody tells.

    :param path: ``/package.Service/Method``. Its last part is the method's name.
    :param kind: which of requests and responses stream.
    :param idempotency_level: whether a call may be sent twice.
    :param stream: of a method that returns a stream: whether it is shared, for instance. Calls
        share a run where their requests are equal byte by byte.
    :raises ValueError: for a path that is none, and so TypeError.
    """
    _check.text("path", path, "/package.Service/Method")
    return Method(
        path,
        path.rpartition("/")[2] or path,
        RawMessage,
        RawMessage,
        kind,
        idempotency_level,
        stream=stream,
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class MethodHandler(Generic[Req, Res]):
    """A method and what serves it: what a fallback answers.

    Its messages are mostly raw, but may be of any classes, such as those that are made of a
    descriptor pool.
    """

    method: Method[Req, Res]
    handler: Handler[Req, Res]
    #: Whether the server has the method as it has those of its services, so that metrics may count
    #: it by its name. The names have to be few then, and not whatever a client writes.
    known: bool = False

    def __post_init__(self) -> None:
        """:raises TypeError: for a value of a wrong type.

        :raises ValueError: if the method requires a word of its callers.
        """
        _check.instance("method", self.method, Method, "a Method")
        _check.function("handler", self.handler, ("request", "context"))
        _check.boolean("known", self.known)
        if self.method.requires:
            raise ValueError(
                f"method: {self.method.path} requires {self.method.requires!r}, and who may call "
                "it is decided before a fallback is asked: name the path in authorize"
            )


# Any: of methods of any messages.
_Answer: TypeAlias = MethodHandler[Any, Any] | None
#: Given the path of a method that no service of the server has: what serves it, or None where
#: nothing does. It may return a Deferred or be a coroutine; the call waits meanwhile, for at most
#: 10 s. It is asked for each call, and the server remembers nothing of what it answers. An
#: :class:`~txzmq.rpc.RpcError` that it raises is the call's answer.
Fallback: TypeAlias = Callable[
    [str], _Answer | Deferred[_Answer] | Coroutine[Deferred[Any], Any, _Answer]
]
