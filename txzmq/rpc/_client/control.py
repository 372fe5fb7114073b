"""The control calls that a client makes on one connection: of its calls and of its streams.

They are calls of the services in ``protos/txzmq/rpc/v1/``. No user waits for their replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

from google.protobuf.message import DecodeError

from txzmq._reactor import Clock
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._wire import control as paths
from txzmq.rpc._wire.batches import MAX_BATCH, MAX_BATCH_SIZE
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_request, to_us
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import MAX_CANCELLED
from txzmq.rpc.v1 import streams_pb2
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["Answered", "ControlClient", "ControlPort", "WaitsForReply"]

#: Seconds after which a control call is given up that the server does not answer.
_TIMEOUT: Final = 30.0

#: Told of the reply to a control call: its header and body, or None if there will be none.
Answered: TypeAlias = Callable[[ResponseHead | None, bytes], None]


def _header(path: str) -> bytes:
    return encode_request(RequestHead(path, to_us(_TIMEOUT), ()))


_CANCEL: Final = _header(paths.CANCEL)
_PING: Final = _header(paths.PING)
_LEAVE: Final = _header(paths.LEAVE)
_ACKNOWLEDGE: Final = _header(paths.ACKNOWLEDGE)
_REPLAY: Final = _header(paths.REPLAY)
_CANCEL_STREAMS: Final = _header(paths.CANCEL_STREAMS)
_SEND: Final = _header(paths.SEND)


class WaitsForReply(Protocol):
    """What a reply ends: a call of a user's, or a control call."""

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        ...

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        ...


class ControlPort(Protocol):
    """The connection that control calls are made on."""

    def send_message(self, message: list[bytes]) -> bool:
        """Send a message, if the socket has room; whether it has."""
        ...

    @property
    def accepts_batches(self) -> bool:
        """Whether the server has said that it understands batches."""
        ...


class _ControlCall:
    """One control call whose reply is waited for."""

    __slots__ = ("_answered", "_deadlines", "request_id", "tick")

    def __init__(self, deadlines: Deadlines[_ControlCall], answered: Answered | None) -> None:
        self._deadlines = deadlines
        self._answered = answered
        self.request_id = b""
        self.tick = 0

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        self._deadlines.remove(self, self.tick)
        if self._answered is not None:
            self._answered(head, body)

    def fail(self, error: Exception) -> None:
        """The connection was lost."""
        self._deadlines.remove(self, self.tick)
        self.unanswered()

    def unanswered(self) -> None:
        """There will be no reply."""
        if self._answered is not None:
            self._answered(None, b"")


class _Probe:
    """A ping of which any answer shows that the server lives, a refusal too."""

    __slots__ = ("_answered",)

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The server has answered."""
        self._answered()

    def fail(self, error: Exception) -> None:
        """The connection was lost, which its owner knows."""


class ControlClient:
    """Makes control calls. Each method returns whether the socket had room for the call."""

    def __init__(self, port: ControlPort, wire: ClientWire[WaitsForReply], clock: Clock) -> None:
        """:param wire: gives the calls their ids."""
        self._port = port
        self._wire = wire
        self._clock = clock
        # One more timer than the channel's own, and only while a reply is waited for.
        self._waiting: Deadlines[_ControlCall] = Deadlines(clock, self._too_late)

    # -- txzmq.rpc.v1.Control ----------------------------------------------------------------

    def cancel(self, request_ids: Sequence[bytes]) -> None:
        """Cancel calls. What finds no room is not said: the calls' deadlines will end them."""
        for first in range(0, len(request_ids), MAX_CANCELLED):
            some = request_ids[first : first + MAX_CANCELLED]
            self._call(_CANCEL, CancelRequest(request_ids=some).SerializeToString())

    def ping(self) -> bool:
        """Ask the server for a sign of life."""
        return self._call(_PING)

    def probe(self, answered: Callable[[], None]) -> bool:
        """As :meth:`ping`; *answered* is called with the answer, whatever it is."""
        message = self._wire.request(_Probe(answered), _PING, b"")
        return self._send(message)

    def leave(self) -> bool:
        """Tell the server that no more calls come by this connection."""
        return self._call(_LEAVE)

    # -- txzmq.rpc.v1.Streams ----------------------------------------------------------------

    def acknowledge(self, positions: Sequence[tuple[bytes, int]], answered: Answered) -> bool:
        """Tell how far streams have been read.

        :param positions: topic, and number of the first item that was not read.
        """
        request = streams_pb2.AcknowledgeRequest()
        for topic, sequence in positions:
            request.positions.add(topic=topic, sequence=sequence)
        return self._call(_ACKNOWLEDGE, request.SerializeToString(), answered)

    def ask_epoch(self, answered: Callable[[bytes], None]) -> bool:
        """Ask which server this is, by acknowledging nothing.

        :param answered: called with the epoch of the server; empty if it does not say so.
        """

        def told(head: ResponseHead | None, body: bytes) -> None:
            epoch = b""
            if head is not None and head.code is Code.OK:
                with suppress(DecodeError, UnicodeDecodeError):  # the latter on PyPy
                    epoch = streams_pb2.AcknowledgeResponse.FromString(body).epoch
            answered(epoch)

        return self._call(_ACKNOWLEDGE, b"", told)

    def replay(self, topic: bytes, sequence: int, answered: Answered) -> bool:
        """Ask for the items of a stream from a number on."""
        request = streams_pb2.ReplayRequest(topic=topic, sequence=sequence)
        return self._call(_REPLAY, request.SerializeToString(), answered)

    def cancel_streams(self, topics: Sequence[bytes], *, wait: bool = True) -> bool:
        """Cancel streams, 1,000 at most.

        :param wait: whether to wait for the reply; not where the connection is about to close.
        """
        body = streams_pb2.CancelStreamsRequest(topics=topics).SerializeToString()
        return (
            self._call(_CANCEL_STREAMS, body)
            if wait
            else self._call_silently(_CANCEL_STREAMS, [body])
        )

    def send_requests(self, body: bytes, answered: Answered | None) -> bool:
        """Send items of a stream of requests: a serialised ``SendRequest``.

        :param answered: told of the acknowledgement; None if none is wanted.
        """
        if answered is not None:
            return self._call(_SEND, body, answered)
        return self._call_silently(_SEND, [body])

    def send_several(self, bodies: list[bytes]) -> bool:
        """As :meth:`send_requests` without acknowledgements, of several streams.

        :return: whether the socket had room for all; some may have been sent if it had not.
        """
        if len(bodies) == 1 or not self._port.accepts_batches:
            return all(self._call_silently(_SEND, [body]) for body in bodies)
        some: list[bytes] = []
        size = 0
        for body in bodies:
            some.append(body)
            size += len(body)
            if len(some) == MAX_BATCH or size > MAX_BATCH_SIZE:
                if not self._call_silently(_SEND, some):
                    return False
                some, size = [], 0
        return not some or self._call_silently(_SEND, some)

    # -- how they are made -------------------------------------------------------------------

    def _call(self, header: bytes, body: bytes = b"", answered: Answered | None = None) -> bool:
        call = _ControlCall(self._waiting, answered)
        message = self._wire.request(call, header, body)
        if not self._send(message):
            return False
        call.request_id = message[0]
        call.tick = self._waiting.set(call, self._clock.seconds() + _TIMEOUT)
        return True

    def _send(self, message: list[bytes]) -> bool:
        if self._port.send_message(message):
            return True
        self._wire.forget(message[0])
        return False

    def _call_silently(self, header: bytes, bodies: list[bytes]) -> bool:
        return self._port.send_message(self._wire.unanswered(header, bodies))

    def _too_late(self, call: _ControlCall) -> None:
        if self._wire.forget(call.request_id) is not None:
            call.unanswered()

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self._waiting.close()
