"""A relay: a server that passes the calls of all methods on to other servers, as bytes.

It stands between clients and servers where these cannot or must not reach each other, or where
calls are to be balanced over servers in one place::

    channel = Channel(factory, "tcp://10.0.0.7:5000-5003", wait_for_ready=True)
    relay = Relay(channel, ReflectedMethods(channel))
    server = Server(factory, [RelayHealth(channel)], fallback=relay.find)

Clients do not notice it: deadlines, cancellation, metadata both ways, errors with their details and
back-pressure pass. The guide's page on proxies says what else holds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txzmq import _check
from txzmq.rpc.client import Caller, ResponseMetadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import PermissionDenied, RpcError, Unavailable
from txzmq.rpc.health import (
    OVERALL,
    Health,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthClient,
    HealthListRequest,
    HealthListResponse,
    ServingStatus,
)
from txzmq.rpc.method import Kind, Method
from txzmq.rpc.method_sources import LOCAL_SERVICES, MethodSource
from txzmq.rpc.raw import MethodHandler, RawMessage, raw_method
from txzmq.rpc.streams import RequestStream, ResponseStream
from txzmq.rpc.watching import ConnectivityState

__all__ = ["Relay", "RelayHealth", "Relayed"]

_T = TypeVar("_T")
_Raw: TypeAlias = Method[RawMessage, RawMessage]
#: What a relay has at a path.
Relayed: TypeAlias = MethodHandler[RawMessage, RawMessage] | None

#: Seconds for a call: what is left of its caller's, whatever the channel has for others.
_OWN: Final = math.inf


class _Channel(Caller, Protocol):
    """What is to be known of a channel, to say whether a relay can pass calls on."""

    @property
    def state(self) -> ConnectivityState:
        """What it is doing."""
        ...

    def wait_for_state_change(self, last: ConnectivityState, /) -> Deferred[ConnectivityState]:
        """Wait until the state is not *last* any more."""
        ...


class Relay:
    """Passes calls on to a channel; :meth:`find` is a server's fallback.

    Each call becomes one of the channel's, with what is left of its time. When the caller cancels
    it, or is lost, the channel's is cancelled, too. A message is passed on when the other side has
    room for it.

    The servers see the relay as their client, with the relay's key and address. Metadata passes,
    with tokens that it has.

    Calls of ``txzmq.rpc.v1.Admin`` are refused: a server answers them to callers on its own
    machine, and a relay may be on it while its callers are not.
    """

    def __init__(self, channel: Caller, methods: MethodSource) -> None:
        """
        :param channel: to the servers. With ``wait_for_ready=True``, calls wait while none of them
            is there, as long as their deadlines allow.
        :param methods: which methods the servers have; see :mod:`txzmq.rpc.method_sources`. What
            it finds is kept by path, so they have to be few.
        :raises TypeError: if *methods* is no source.
        """
        if not callable(getattr(methods, "find", None)):
            raise _check.wrong_type("methods", methods, "a MethodSource")
        self._channel = channel
        self._methods = methods
        # What was made of the methods that the source has, by path: to check it takes long.
        self._made: dict[str, tuple[Method[Any, Any], MethodHandler[RawMessage, RawMessage]]] = {}
        # Any: handlers of four kinds, each of other arguments.
        self._handlers: dict[Kind, Callable[..., Any]] = {
            Kind.UNARY_UNARY: self._unary_unary,
            Kind.UNARY_STREAM: self._unary_stream,
            Kind.STREAM_UNARY: self._stream_unary,
            Kind.STREAM_STREAM: self._stream_stream,
        }

    def find(self, path: str, /) -> Relayed | Deferred[Relayed]:
        """What serves a method; None if the servers do not have it.

        :raises RpcError: if that cannot be found out, or the method is not for relays. The Deferred
            may fail likewise.
        """
        if path.startswith(LOCAL_SERVICES):
            raise PermissionDenied(f"{path} is not passed on: ask the server itself")
        found = self._methods.find(path)
        if isinstance(found, Deferred):
            return found.addCallback(self._relayed)
        return self._relayed(found)

    def _relayed(self, found: Method[Any, Any] | None) -> Relayed:
        if found is None:
            return None
        made = self._made.get(found.path)
        if made is not None and made[0] is found:
            return made[1]
        # To the servers, as they have it: how often a call may be sent, whether a stream resumes.
        there = raw_method(
            found.path,
            found.kind,
            idempotency_level=found.idempotency_level,
            stream=found.stream,
        )
        # Not shared here: each call is to be judged by the servers, by its own metadata.
        here = raw_method(found.path, found.kind, idempotency_level=found.idempotency_level)
        handler = MethodHandler(here, partial(self._handlers[found.kind], there), known=True)
        self._made[found.path] = (found, handler)
        return handler

    def _unary_unary(
        self, method: _Raw, request: RawMessage, context: Context
    ) -> Deferred[RawMessage]:
        with ResponseMetadata() as metadata:
            call = self._channel.unary_unary(
                method, request, timeout=_OWN, metadata=context.metadata
            )
        return _response(call, metadata, context)

    def _stream_unary(
        self, method: _Raw, requests: RequestStream[RawMessage], context: Context
    ) -> Deferred[RawMessage]:
        with ResponseMetadata() as metadata:
            call = self._channel.stream_unary(
                method, requests, timeout=_OWN, metadata=context.metadata
            )
        return _response(call, metadata, context)

    async def _unary_stream(
        self, method: _Raw, request: RawMessage, context: Context
    ) -> AsyncIterator[RawMessage]:
        stream = self._channel.unary_stream(
            method, request, timeout=_OWN, metadata=context.metadata
        )
        return await _responses(stream, context)

    async def _stream_stream(
        self, method: _Raw, requests: RequestStream[RawMessage], context: Context
    ) -> AsyncIterator[RawMessage]:
        stream = self._channel.stream_stream(
            method, requests, timeout=_OWN, metadata=context.metadata
        )
        return await _responses(stream, context)


def _response(
    call: Deferred[RawMessage], metadata: ResponseMetadata, context: Context
) -> Deferred[RawMessage]:
    """The call's outcome as the handler's. No coroutine, which would take longer."""

    def succeeded(response: RawMessage) -> RawMessage:
        if metadata.initial:
            context.send_initial_metadata(metadata.initial)
        if metadata.trailing:
            context.set_trailing_metadata(metadata.trailing)
        return response

    def failed(failure: Failure) -> Failure:
        if metadata.initial:
            context.send_initial_metadata(metadata.initial)
        error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        if isinstance(error, RpcError):
            raise _answer(error) from error
        return failure

    return call.addCallbacks(succeeded, failed)


async def _responses(
    stream: ResponseStream[RawMessage], context: Context
) -> AsyncIterator[RawMessage]:
    try:
        context.send_initial_metadata(await stream.received_initial_metadata())
    except RpcError as error:
        raise _answer(error) from error
    return _items(stream, context)


async def _items(stream: ResponseStream[RawMessage], context: Context) -> AsyncIterator[RawMessage]:
    async with stream:
        try:
            async for item in stream:
                yield item
        except RpcError as error:
            raise _answer(error) from error
        context.set_trailing_metadata(stream.trailing_metadata)


def _answer(error: RpcError) -> RpcError:
    """The error of a call as the relay's own: what a handler's call ended with is no answer."""
    return RpcError(error.code, error.message, details=error.details, metadata=error.metadata)


class RelayHealth(Health):
    """A relay's own health, as that of the server as a whole; all else is the servers' behind it.

    Under the name ``""`` it is SERVING while at least one server can be called, and NOT_SERVING
    while none can, and from when the relay stops. Questions about a service go to one of the
    servers, and so does List, but for the answer about ``""``.
    """

    def __init__(self, channel: _Channel) -> None:
        """:param channel: to the servers, such as a :class:`~txzmq.rpc.Channel`."""
        super().__init__()
        self._channel = channel
        self._client = HealthClient(channel)
        self._passed: set[ResponseStream[HealthCheckResponse]] = set()
        self._next: Deferred[ConnectivityState] | None = None
        self._follow(channel.state)

    def _follow(self, state: ConnectivityState) -> None:
        """Say what the channel's state means, and wait for the next one."""
        ready = state is ConnectivityState.READY
        self.set(OVERALL, ServingStatus.SERVING if ready else ServingStatus.NOT_SERVING)
        if state is ConnectivityState.SHUTDOWN:
            self._next = None
            return
        self._next = self._channel.wait_for_state_change(state)
        self._next.addCallbacks(self._follow, _cancelled)

    def __txzmq_stopping__(self) -> None:
        super().__txzmq_stopping__()
        following, self._next = self._next, None
        if following is not None:
            following.cancel()
        for stream in self._passed.copy():
            stream.cancel()

    async def check(  # type: ignore[override]  # a coroutine, as any handler may be
        self, request: HealthCheckRequest, context: Context
    ) -> HealthCheckResponse:
        """The relay's own status, or what a server says of a service."""
        if request.service == OVERALL:
            return super().check(request, context)
        call = self._client.check(request, metadata=context.metadata, wait_for_ready=False)
        return await _asked(call)

    async def list(  # type: ignore[override]  # as above
        self, request: HealthListRequest, context: Context
    ) -> HealthListResponse:
        """What a server says of its services, with the relay's own status."""
        call = self._client.list(request, metadata=context.metadata, wait_for_ready=False)
        listed = await _asked(call)
        value = HealthCheckResponse.ServingStatus.Value(self.statuses[OVERALL].name)
        own = HealthCheckResponse(status=value)
        return HealthListResponse(statuses={**listed.statuses, OVERALL: own})

    async def watch(
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        """The relay's own status, or what a server says of a service, and each new one."""
        if request.service == OVERALL:
            async for status in super().watch(request, context):
                yield status
            return
        stream = self._client.watch(request, metadata=context.metadata, wait_for_ready=False)
        self._passed.add(stream)
        try:
            async with stream:
                async for status in stream:
                    yield status
        except RpcError as error:
            raise _answer(error) from error
        except (CancelledError, asyncio.CancelledError):
            raise Unavailable("the server is shutting down") from None
        finally:
            self._passed.discard(stream)


def _cancelled(_: object) -> None:
    """The server stops."""


async def _asked(call: Deferred[_T]) -> _T:
    try:
        return await call
    except RpcError as error:
        raise _answer(error) from error
