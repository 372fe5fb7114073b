"""The control services: the calls by which channels manage their calls, streams and connections.

They are ``txzmq.rpc.v1.Control`` and ``txzmq.rpc.v1.Streams``. A control call is served at once and
needs no place, so that a server which is full can be told to do less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from txzmq._reactor import Clock
from txzmq.rpc._server.call import ServedCall
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.request_stream import NOT_IN_ORDER
from txzmq.rpc._server.streams import StreamRegistry
from txzmq.rpc._wire.control import (
    ACKNOWLEDGE,
    CANCEL,
    CANCEL_STREAMS,
    LEAVE,
    PING,
    REPLAY,
    SEND,
)
from txzmq.rpc._wire.headers import OK, ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import to_message
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import MAX_CANCELLED
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.rpc.v1.streams_pb2 import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    CancelStreamsRequest,
    ReplayRequest,
    ReplayResponse,
    SendRequest,
)

__all__ = ["CallOwner", "ControlServices"]

#: Seconds that a client has to let pass between two pings on a connection.
_PING_PAUSE: Final = 5.0
_PINGS_TOO_OFTEN: Final = ResponseHead(
    Code.RESOURCE_EXHAUSTED, f"a client may ping every {_PING_PAUSE:g} s"
)
_CANNOT_BE_PARSED: Final = ResponseHead(Code.INTERNAL, "the request cannot be parsed")
_NO_STREAM: Final = ResponseHead(Code.NOT_FOUND, "the server does not have this stream")


class CallOwner(Protocol):
    """What the control services need of what serves the calls."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    def abandon(self, calls: Iterable[ServedCall], reason: str) -> None:
        """End calls whose result nobody wants."""
        ...

    def awaits(self, requests: bytes) -> bool:
        """Whether a stream of requests is that of a call of which something is not known yet."""
        ...

    def count(self, reason: str) -> None:
        """Count something that was refused or dropped."""
        ...


class _Method(NamedTuple):
    """A method of the control services."""

    #: Parses the request.
    parse: Callable[[bytes], Any]
    #: Serves and answers it. Any: the request, of each method's own type.
    serve: Callable[[Listener, CallKey, Any], None]


class ControlServices:
    """Serves the control calls."""

    def __init__(self, calls: CallOwner, streams: StreamRegistry) -> None:
        self._calls = calls
        self._streams = streams
        # When each client pinged last, of those that did within the pause; the oldest first. No
        # plain dict: that takes ever longer to find its first key if it is always the one to go.
        self._pings: OrderedDict[CallKey, float] = OrderedDict()
        self._by_path: Final = {
            CANCEL: _Method(CancelRequest.FromString, self._cancel),
            PING: _Method(_unread, self._ping),
            LEAVE: _Method(_unread, self._leave),
            ACKNOWLEDGE: _Method(AcknowledgeRequest.FromString, self._acknowledge),
            REPLAY: _Method(ReplayRequest.FromString, self._replay),
            CANCEL_STREAMS: _Method(CancelStreamsRequest.FromString, self._cancel_streams),
            SEND: _Method(SendRequest.FromString, self._send),
        }

    def serve(self, listener: Listener, key: CallKey, path: str, body: bytes) -> bool:
        """Serve a request to a control service; False if the path is none of theirs."""
        method = self._by_path.get(path)
        if method is None:
            return False
        try:
            request = method.parse(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            listener.answer(key, _CANNOT_BE_PARSED)
        else:
            method.serve(listener, key, request)
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        self._pings.clear()

    # -- txzmq.rpc.v1.Control ----------------------------------------------------------------

    def _cancel(self, listener: Listener, key: CallKey, request: CancelRequest) -> None:
        if len(request.request_ids) > MAX_CANCELLED:
            listener.answer(key, _too_many(f"one Cancel ends {MAX_CANCELLED} calls at most"))
            return
        found: list[ServedCall] = []
        for request_id in request.request_ids:
            cancelled = (*key[:-1], request_id)
            call = listener.wire.find(cancelled)
            if call is not None:
                found.append(call)
            else:
                self._streams.cancelled(cancelled)
        self._calls.abandon(found, "the client cancelled it")
        listener.answer(key, OK)

    def _ping(self, listener: Listener, key: CallKey, _: None) -> None:
        self._streams.heard(key[0])
        listener.answer(key, OK if self._may_ping(key[:-1]) else _PINGS_TOO_OFTEN)

    def _may_ping(self, route: CallKey) -> bool:
        """Whether a client has waited long enough since its last ping."""
        now = self._calls.clock.seconds()
        pings = self._pings
        while pings and now - next(iter(pings.values())) >= _PING_PAUSE:
            pings.popitem(last=False)
        if route in pings:
            self._calls.count("ping too soon")
            return False
        pings[route] = now
        return True

    def _leave(self, listener: Listener, key: CallKey, _: None) -> None:
        listener.left(key)
        listener.answer(key, OK)

    # -- txzmq.rpc.v1.Streams ----------------------------------------------------------------

    def _acknowledge(self, listener: Listener, key: CallKey, request: AcknowledgeRequest) -> None:
        if len(request.positions) > MAX_CANCELLED:
            listener.answer(key, _too_many_streams("Acknowledge"))
            return
        unknown = self._streams.acknowledge(key[0], request.positions, listener.user)
        response = AcknowledgeResponse(unknown=unknown, epoch=self._streams.epoch)
        listener.answer(key, OK, response.SerializeToString())

    def _replay(self, listener: Listener, key: CallKey, request: ReplayRequest) -> None:
        publication = self._streams.replay(key[0], request.topic, request.sequence, listener.user)
        if publication is None:
            listener.answer(key, _NO_STREAM)
            return
        response = ReplayResponse(publication=to_message(publication))
        listener.answer(key, OK, response.SerializeToString())

    def _cancel_streams(
        self, listener: Listener, key: CallKey, request: CancelStreamsRequest
    ) -> None:
        if len(request.topics) > MAX_CANCELLED:
            listener.answer(key, _too_many_streams("Cancel"))
            return
        self._streams.cancel(key[0], request.topics, listener.user)
        listener.answer(key, OK)

    def _send(self, listener: Listener, key: CallKey, request: SendRequest) -> None:
        requests = self._streams.find_requests(request.requests, listener.user)
        if requests is not None:
            requests.receive(listener, key, request)  # it answers when they have been read
        elif request.acknowledge:
            # Its client sends it again.
            is_early = self._calls.awaits(request.requests)
            listener.answer(key, NOT_IN_ORDER if is_early else _NO_STREAM)


def _unread(body: bytes) -> None:
    """Parses a request that says nothing, whatever its bytes."""


def _too_many(reason: str) -> ResponseHead:
    return ResponseHead(Code.INVALID_ARGUMENT, reason)


def _too_many_streams(method: str) -> ResponseHead:
    return _too_many(f"one {method} takes {MAX_CANCELLED} streams at most")
