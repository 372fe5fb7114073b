"""The client's side of a call: what makes calls, and what a call is made of."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from contextvars import ContextVar, Token
from numbers import Real
from types import CoroutineType
from typing import Any, Final, Protocol, TypeAlias, TypeVar, final

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq.rpc._raw_message import RawMessage, hint_to_wrap
from txzmq.rpc.context import Context
from txzmq.rpc.metadata import Metadata, MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.streams import ResponseStream

__all__ = [
    "CallSpec",
    "Caller",
    "ResponseMetadata",
    "StreamInput",
    "check_method",
    "check_request",
    "check_timeout",
    "gives_messages",
    "wanted_metadata",
    "wrong_request",
]

T = TypeVar("T")
Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)

#: What a client hands to a method that takes a stream of requests.
StreamInput: TypeAlias = Iterable[T] | AsyncIterable[T]
#: What is iterable, and never has a message among its items.
_NO_SOURCES: Final = (Message, Deferred, str, bytes, bytearray, Mapping)


class ResponseMetadata:
    """Takes the metadata of the response to the call that is made within. ::

        with ResponseMetadata() as metadata:
            reply = await client.say_hello(request)
        print(metadata.trailing)

    It is filled when the response arrives, also with an error's; nothing is in it if the call
    ended here, by its deadline for instance. Of several calls made within, it has the last
    response's. Holds for calls made in the block itself and in coroutines started there, not for
    those that an interceptor makes on its own.

    :ivar initial: what the server put in front of the response, as pairs.
    :ivar trailing: what it put behind.
    """

    __slots__ = ("_token", "initial", "trailing")

    def __init__(self) -> None:
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self._token: Token[ResponseMetadata | None] | None = None

    def __repr__(self) -> str:
        return f"<ResponseMetadata initial={self.initial!r} trailing={self.trailing!r}>"

    def received(self, initial: Metadata, trailing: Metadata) -> None:
        """Take the metadata of a response; txzmq calls this when it arrives."""
        self.initial = initial
        self.trailing = trailing

    def __enter__(self) -> ResponseMetadata:
        """:raises RuntimeError: if it is entered already; each block needs one of its own."""
        if self._token is not None:
            raise RuntimeError("a ResponseMetadata is entered already; make one for each block")
        self._token = wanted_metadata.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None, "it was entered"
        wanted_metadata.reset(self._token)
        self._token = None


#: Where the calls made here are to put the metadata of their responses.
wanted_metadata: ContextVar[ResponseMetadata | None] = ContextVar(
    "txzmq.rpc.response_metadata", default=None
)


def check_timeout(timeout: object) -> None:
    """Check the timeout of a call. Any number is one: with none left, a call is too late.

    :raises TypeError: if it is no number; ValueError for NaN, and what no float can hold.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise _check.wrong_type("timeout", timeout, "a number of seconds")
    if timeout != timeout:
        raise ValueError("timeout must be a number of seconds, not nan")
    try:
        float(timeout)
    except OverflowError:
        text = f"timeout must be a number of seconds, not {_check.shown(timeout)}; use math.inf"
        raise ValueError(text) from None


def check_method(method: object) -> None:
    """Check what a channel is to call.

    :raises TypeError: if it is no method of generated code.
    """
    _check.instance("method", method, Method, "a Method of generated code")


# Any: methods of any messages.
def check_request(method: Method[Any, Any], given: object) -> None:
    """Check what a method is called with: a request, or what gives the requests.

    :raises TypeError: if the method takes another message, or is to be given an iterable.
    """
    if not method.kind.request_streaming:
        if not isinstance(given, method.request_type):
            raise wrong_request(method, given)
    elif not gives_messages(given):
        raise _wrong_source(method, given)


def wrong_request(method: Method[Any, Any], request: object) -> TypeError:
    """The error for a request that the method does not take."""
    hint = _hint_for(request) or hint_to_wrap(request, method.request_type)
    if isinstance(request, type) and issubclass(request, method.request_type):
        hint = f"; pass an instance, {request.__name__}(...)"
    expected = method.request_type.__name__
    return TypeError(f"{method.path} takes {expected}, not {_check.kind(request)}{hint}")


def gives_messages(given: object) -> bool:
    """Whether messages may come from it."""
    return isinstance(given, (Iterable, AsyncIterable)) and not isinstance(given, _NO_SOURCES)


def _wrong_source(method: Method[Any, Any], given: object) -> TypeError:
    """The error for what gives no requests; what is in it is not shown."""
    is_message = isinstance(given, Message | RawMessage)
    hint = "; put it in a list" if is_message else _hint_for(given)
    return TypeError(f"{method.path} takes an iterable of requests, not {_check.kind(given)}{hint}")


def _hint_for(given: object) -> str:
    """What to do with what is no request yet."""
    return "; await it first" if isinstance(given, Deferred | CoroutineType) else ""


@final
class CallSpec:
    """What a call is made of, from the caller to the connection; nothing changes it.

    Interceptors see it as a :class:`~txzmq.rpc.ClientCall`.

    :ivar method: which method is called.
    :ivar request: the request, or what gives the requests of a method that streams them.
    :ivar deadline: when the call's time is up, in the clock's seconds; None for never.
    :ivar metadata: of the request.
    :ivar wait_for_ready: whether the call waits while no server can be reached.
    :ivar response_metadata: takes the metadata of the response; None where nobody wants it.
    :ivar parent: the call whose handler makes this one; None outside of handlers.
    """

    # No frozen dataclass, which sets each attribute through object.__setattr__, and no NamedTuple,
    # whose attributes are slower to read: each call has one of these, and reads it a dozen times.
    __slots__ = (
        "deadline",
        "metadata",
        "method",
        "parent",
        "request",
        "response_metadata",
        "wait_for_ready",
    )

    def __init__(
        self,
        # Any: a channel has calls of any methods; the caller's signature typed the result.
        method: Method[Any, Any],
        request: Any,
        deadline: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        response_metadata: ResponseMetadata | None,
        parent: Context | None,
    ) -> None:
        self.method = method
        self.request = request
        self.deadline = deadline
        self.metadata = metadata
        self.wait_for_ready = wait_for_ready
        self.response_metadata = response_metadata
        self.parent = parent

    def replace(self, **changes: Any) -> CallSpec:
        """The same call with something changed; the names are those of the attributes."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return CallSpec(**{**values, **changes})

    def with_metadata(self, metadata: Metadata) -> CallSpec:
        """The same call with other metadata; in a third of the time of :meth:`replace`."""
        return CallSpec(
            self.method,
            self.request,
            self.deadline,
            metadata,
            self.wait_for_ready,
            self.response_metadata,
            self.parent,
        )


class Caller(Protocol):
    """Makes calls: what a generated client needs of a channel.

    :class:`~txzmq.rpc.Channel` is one; tests use others. All four take:

    :param method: which method to call, from generated code.
    :param timeout: seconds until the call fails with DEADLINE_EXCEEDED, at once if there are none;
        None for the channel's default.
    :param metadata: pairs of key and value that travel with the request.
    :param wait_for_ready: whether to wait, at most until the deadline, while no server can be
        reached, rather than to fail with UNAVAILABLE; None for the channel's default.
    :raises TypeError: if the method, what it is called with, or an option has a wrong type: at
        once, not by the Deferred or the stream, which tell what comes of a call.
    :raises ValueError: for a timeout that is not a number, and malformed metadata.
    """

    def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """One request, one response."""
        ...

    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """One request, any number of responses."""
        ...

    def stream_unary(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Any number of requests, one response."""
        ...

    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Any number of requests, any number of responses."""
        ...
