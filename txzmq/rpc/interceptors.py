"""Functions around calls: authentication, logging, retries, whatever concerns every method.

An interceptor gets a call and a function that goes on with it, ``proceed``, which returns a
Deferred of the response. It may look at the call, change it, answer without going on, go on more
than once, and look at the response or the error. The first one given is the outermost: it sees a
call first and its outcome last.

An interceptor returns what a handler may: the response, a Deferred of it, or a coroutine::

    async def add_token(call: ClientCall, proceed: ClientProceed) -> Any:
        return await proceed(call.replace(metadata=(*call.metadata, ("authorization", token))))

When ``proceed`` has fired, a call with one response is over, and a stream has only been opened. How
a call of any kind ended, and when, is told by :meth:`ClientCall.ended` and
:meth:`Context.ended() <txzmq.rpc.Context.ended>`::

    def log_calls(call: ClientCall, proceed: ClientProceed) -> Any:
        call.ended().addCallback(lambda record: log.info("{record}", record=record))
        return proceed(call)

The response is a message, and a :class:`~txzmq.rpc.ResponseStream` where the method streams
responses; the request is a message, and what the caller gave (on the server a
:class:`~txzmq.rpc.RequestStream`) where the method streams requests.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import EllipsisType
from typing import Any, Protocol, TypeAlias, TypeVar, final

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._reactor import Clock
from txzmq.rpc.client import CallSpec, ResponseMetadata, check_timeout
from txzmq.rpc.context import Context
from txzmq.rpc.metadata import Metadata, MetadataInput, normalise
from txzmq.rpc.method import Method
from txzmq.rpc.records import CallRecord, Tallied

__all__ = [
    "ClientCall",
    "ClientInterceptor",
    "ClientProceed",
    "InterceptedPort",
    "ServerInterceptor",
    "ServerProceed",
    "UnaryResult",
    "parts_of",
]

T = TypeVar("T")

#: What a handler of a method with one response may return: the response, a Deferred of it, or a
#: coroutine (an ``async def`` handler).
UnaryResult: TypeAlias = T | Deferred[T] | Coroutine[Deferred[Any], Any, T]


class InterceptedPort(Protocol):
    """The call that the caller made; it is told when interceptors go on with it."""

    @property
    def over(self) -> bool:
        """Whether the caller has its outcome, or is about to."""
        ...

    @property
    def taken(self) -> tuple[Message, bytes] | None:
        """A request and the value that it had, serialised, where its owner may have changed it."""
        ...

    def ended(self) -> Deferred[CallRecord]:
        """Fires when the call has ended."""
        ...

    def goes_by(self, made: Tallied) -> None:
        """The interceptors went on with the call: this one is made for it."""
        ...

    def went_on(
        self, made: Tallied, deferred: Deferred[Any], spec: CallSpec, body: bytes | None
    ) -> None:
        """As :meth:`goes_by`, with the call as *spec*; *deferred* gives the response.

        :param body: the request, serialised; None where requests stream.
        """
        ...


@final
class ClientCall:
    """A call as a client's interceptor sees it; :meth:`replace` makes a changed one."""

    __slots__ = ("_clock", "_port", "_spec")

    def __init__(self, port: InterceptedPort, clock: Clock, spec: CallSpec) -> None:
        """Only the channel makes one; *spec* has a place for the metadata of the response."""
        self._port = port
        self._clock = clock
        self._spec = spec

    def __repr__(self) -> str:
        return f"<ClientCall {self._spec.method.path} deadline={self._spec.deadline}>"

    # Any: an interceptor sees calls of any method.
    @property
    def method(self) -> Method[Any, Any]:
        """Which method is called; ``call.method.path`` is its name on the wire."""
        return self._spec.method

    @property
    def request(self) -> Any:
        """The request, or the stream of requests that the caller gave."""
        return self._spec.request

    @property
    def deadline(self) -> float | None:
        """When the call's time is up, in the reactor's seconds; None for never.

        Going on with the call again does not give it more time.
        """
        return self._spec.deadline

    @property
    def metadata(self) -> Metadata:
        """Of the request."""
        return self._spec.metadata

    @property
    def wait_for_ready(self) -> bool:
        """Whether to wait while no server can be reached."""
        return self._spec.wait_for_ready

    @property
    def response(self) -> ResponseMetadata:
        """Gets the metadata of the response.

        Those of the last one, where the interceptor goes on with the call more than once.
        """
        response = self._spec.response_metadata
        assert response is not None, "the channel gives each call one"
        return response

    @property
    def over(self) -> bool:
        """Whether the caller has its outcome, because it cancelled for instance.

        Going on then ends with ``CancelledError``, and sends nothing.
        """
        return self._port.over

    def ended(self) -> Deferred[CallRecord]:
        """Fires when the caller's call has truly ended, with how it did: status, seconds, items.

        For calls of all four kinds, whatever the interceptors do with them: a stream of responses
        ends when its end has arrived, or it is cancelled, long after it was opened. Never fails.
        Each call returns a Deferred of its own; to cancel it has no effect on the call. Ask before
        going on.

        :raises RuntimeError: if the call ended when nobody had asked.
        """
        return self._port.ended()

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, 0.0 when it has passed; None without a deadline."""
        deadline = self._spec.deadline
        return None if deadline is None else max(0.0, deadline - self._clock.seconds())

    def replace(
        self,
        *,
        request: object = ...,
        timeout: float | EllipsisType = ...,
        metadata: MetadataInput | EllipsisType = ...,
        wait_for_ready: bool | EllipsisType = ...,
    ) -> ClientCall:
        """The same call with something changed.

        :param timeout: seconds from now; the caller's own deadline holds all the same.
        :param metadata: instead of the caller's: ``{**dict(call.metadata), "k": "v"}`` adds some.
        :raises ValueError: for a value that is not allowed, and so TypeError.
        """
        changes: dict[str, Any] = {}
        if request is not ...:
            changes["request"] = request
        if not isinstance(timeout, EllipsisType):
            check_timeout(timeout)
            changes["deadline"] = self._clock.seconds() + timeout
        if not isinstance(metadata, EllipsisType):
            changes["metadata"] = normalise(metadata)
        if not isinstance(wait_for_ready, EllipsisType):
            _check.boolean("wait_for_ready", wait_for_ready)
            changes["wait_for_ready"] = wait_for_ready
        return ClientCall(self._port, self._clock, self._spec.replace(**changes))


def parts_of(call: ClientCall) -> tuple[InterceptedPort, CallSpec]:
    """The call that the caller made, and what the channel is to go on with.

    :raises TypeError: if it is none: an interceptor went on with something else.
    """
    if type(call) is not ClientCall:
        raise TypeError(
            "an interceptor must go on with its ClientCall, proceed(call), not "
            f"{_check.shown(call)}"
        )
    return call._port, call._spec  # pyright: ignore[reportPrivateUsage]  # the channel's own


#: Goes on with a call: to the next interceptor, and at last to the server.
ClientProceed: TypeAlias = Callable[[ClientCall], Deferred[Any]]
#: ``interceptor(call, proceed)`` on the client.
ClientInterceptor: TypeAlias = Callable[[ClientCall, ClientProceed], UnaryResult[Any]]
#: Goes on with a request: to the next interceptor, and at last to the handler.
ServerProceed: TypeAlias = Callable[[Any], Deferred[Any]]
#: ``interceptor(request, context, proceed)`` on the server. An :class:`~txzmq.rpc.RpcError` that
#: it raises is the answer; ``context.method`` says which method is called.
ServerInterceptor: TypeAlias = Callable[[Any, Context, ServerProceed], UnaryResult[Any]]
