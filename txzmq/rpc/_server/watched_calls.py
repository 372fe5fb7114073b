"""Calls on a server whose observer is told of them.

A server without one has :class:`ServedCall` and :class:`StreamCall` in their place, which know
nothing of all this.
"""

from __future__ import annotations

import contextvars
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Final, Protocol

from txzmq._identity import Identity
from txzmq._ids import ID_SIZE
from txzmq._reactor import Clock
from txzmq.rpc._core.call_watch import CallWatch
from txzmq.rpc._server.call import CallListener, ServedCall, StreamCall
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.request_stream import ReceivedRequests
from txzmq.rpc._wire.headers import OpenStream, RequestHead, ResponseHead
from txzmq.rpc._wire.server import CallKey, Refusal, Request
from txzmq.rpc.context import Context
from txzmq.rpc.errors import to_code
from txzmq.rpc.method import Kind
from txzmq.rpc.records import CallEnd, CallRecord, Side

__all__ = ["WatchedCalls"]

_SERVER: Final = Side.SERVER


def _begin(
    watch: CallWatch, context: Context, method: ServedMethod, key: CallKey
) -> contextvars.Context:
    """Tell that a call begins; what its handler is to run in."""
    arrived = context.arrived
    record = CallRecord(
        _SERVER,
        context.method,
        method.method.kind,
        arrived,
        context.metadata,
        context.peer,
        context.identity,
        method.known,
        key[-1],
    )
    context.watch_end(CallEnd(arrived, record, watch.ended))
    surroundings = contextvars.copy_context()
    surroundings.run(watch.started, record)
    return surroundings


class RefusingListener(Protocol):
    """By which a request came."""

    @property
    def identity(self) -> Identity | None:
        """Who has sent it; None where nobody has authenticated."""
        ...

    def peer_address(self, peer: bytes) -> str:
        """Where a peer connected from; empty if that is not known."""
        ...

    def call_started(self, peer: bytes) -> None:
        """Count a call of a peer, where connections are remembered."""
        ...


class WatchedCall(ServedCall):
    """A call with one request and one response."""

    __slots__ = ("_request_bytes", "_surroundings")

    def __init__(
        self,
        watch: CallWatch,
        listener: CallListener,
        key: CallKey,
        method: ServedMethod,
        context: Context,
        deadline: float | None,
        body: bytes,
        cache_key: Hashable | None,
    ) -> None:
        """:param watch: tells the observer; the others are a :class:`ServedCall`'s."""
        listener.call_started(key[0])
        ServedCall.__init__(self, listener, key, method, context, deadline, body, cache_key)
        self._request_bytes = len(body)
        self._surroundings = _begin(watch, context, method, key)

    @property
    def surroundings(self) -> contextvars.Context:
        """What the handler runs in, and the observer has seen."""
        return self._surroundings

    @property
    def bytes_taken(self) -> int:
        """Bytes of its request, also where it waits for the reply to another one."""
        return self._request_bytes


class WatchedStreamCall(StreamCall):
    """A call in which requests or responses stream."""

    __slots__ = ()

    def __init__(
        self,
        watch: CallWatch,
        listener: CallListener,
        key: CallKey,
        method: ServedMethod,
        context: Context,
        deadline: float | None,
        body: bytes,
        open_stream: OpenStream,
        requests: ReceivedRequests | None,
    ) -> None:
        """:param watch: tells the observer; the others are a :class:`StreamCall`'s."""
        listener.call_started(key[0])
        super().__init__(listener, key, method, context, deadline, body, open_stream, requests)
        self._surroundings = _begin(watch, context, method, key)


class WatchedCalls:
    """Makes calls that an observer is told of, and tells of requests that do not become any.

    :ivar call: makes one with one request and one response.
    :ivar stream_call: makes one that streams.
    """

    def __init__(self, watch: CallWatch, clock: Clock, methods: Mapping[str, ServedMethod]) -> None:
        """
        :param watch: tells the observer.
        :param methods: that the server has, by path.
        """
        self.call = partial(WatchedCall, watch)
        self.stream_call = partial(WatchedStreamCall, watch)
        self._watch = watch
        self._clock = clock
        self._by_path = methods

    def tell_refusal(
        self,
        listener: RefusingListener,
        request: Request,
        status: ResponseHead,
        arrived: float,
        identity: Identity | None,
        method: ServedMethod | None = None,
    ) -> None:
        """A request was not taken on.

        :param method: of the call, if a fallback has given it.
        """
        listener.call_started(request.key[0])
        record = self._record(listener, request, arrived, identity, method)
        self._tell(record, status, len(request.body))

    def end_of_waiting(
        self,
        listener: RefusingListener,
        request: Request,
        arrived: float,
        identity: Identity | None,
    ) -> CallEnd:
        """Where the end is told of a call that ends before it is known who makes or serves it."""
        record = self._record(listener, request, arrived, identity)

        def told(record: CallRecord) -> None:
            listener.call_started(request.key[0])
            self._tell_ended(record)

        return CallEnd(arrived, record, told)

    def tell_unreadable(self, listener: RefusingListener, refusal: Refusal, arrived: float) -> None:
        """The header of a request cannot be read."""
        key = refusal.key
        listener.call_started(key[0])
        peer = listener.peer_address(key[0])
        kind, identity = Kind.UNARY_UNARY, listener.identity
        # What is too long or too short for an id may be why.
        id_ = key[-1] if len(key[-1]) == ID_SIZE else b""
        record = CallRecord(_SERVER, "", kind, arrived, (), peer, identity, False, id_)
        self._tell(record, ResponseHead(refusal.code, refusal.reason), 0)

    def _record(
        self,
        listener: RefusingListener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        method: ServedMethod | None = None,
    ) -> CallRecord:
        """The record of a call that does not come to a handler."""
        key, head, _ = request
        method = method or self._by_path.get(head.path)
        kind = _looks_like(head) if method is None else method.method.kind
        return CallRecord(
            _SERVER,
            head.path,
            kind,
            arrived,
            head.metadata,
            listener.peer_address(key[0]),
            identity,
            method is not None and method.known,
            key[-1],
        )

    def _tell(self, record: CallRecord, status: ResponseHead, size: int) -> None:
        requests = 0 if record.kind.request_streaming else 1
        code, now = to_code(status.code), self._clock.seconds()
        record.complete(code, status.message, now, requests, 0, size, 0)
        self._tell_ended(record)

    def _tell_ended(self, record: CallRecord) -> None:
        """A call has begun and ended at once, as far as an observer is concerned."""
        contextvars.copy_context().run(self._watch.started, record)
        self._watch.ended(record)


def _looks_like(head: RequestHead) -> Kind:
    """The kind of a call of an unknown method, by its request."""
    if head.open_stream is None:
        return Kind.UNARY_UNARY
    return Kind.STREAM_STREAM if head.open_stream.requests else Kind.UNARY_STREAM
