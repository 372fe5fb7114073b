"""Watches what the server of one connection says of its health (gRFC A17).

The rules are those of https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md
and of https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import contextvars
from random import Random
from typing import Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._client.call import Call, CallRegistry, SubchannelPort
from txzmq.rpc._client.call_credentials import CallCredentials
from txzmq.rpc._client.calls import CallOptions, Calls
from txzmq.rpc._client.retry_policy import Throttle
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._services.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.errors import RpcError, Unavailable, Unimplemented
from txzmq.rpc.limits import METADATA_SIZE
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.method import Kind, Method
from txzmq.rpc.streams import ResponseStream
from txzmq.rpc.watching import ConnectivityState

__all__ = ["HealthCheck", "HealthCheckOwner"]

_log = Logger()
_WATCH: Final[Method[HealthCheckRequest, HealthCheckResponse]] = Method(
    path="/grpc.health.v1.Health/Watch",
    name="watch",
    request_type=HealthCheckRequest,
    response_type=HealthCheckResponse,
    kind=Kind.UNARY_STREAM,
)
#: A status is a few bytes, and only the newest is of use.
_WINDOW: Final = 4
_LARGEST: Final = 1024
_OPTIONS: Final = CallOptions(
    timeout=30.0,  # for the answer to the opening call; the stream has no end
    max_timeout=None,
    wait_for_ready=True,
    message_size=_LARGEST,
    metadata_size=METADATA_SIZE,
    backlog=64 * _LARGEST,  # more than the longest name
    stream_window=_WINDOW,
    stream_window_bytes=_WINDOW * _LARGEST,
)


class HealthCheckOwner(SubchannelPort, Protocol):
    """The connection whose server is watched.

    :ivar address: of the server.
    """

    address: str

    def send(self, call: Call) -> None:
        """Send a call on this connection."""
        ...

    def health_changed(self) -> None:
        """:attr:`HealthCheck.state` is another now."""
        ...

    def count(self, event: str) -> None:
        """Count an event."""
        ...


class HealthCheck:
    """One connection's stream of ``Watch``; opened again, after a backoff, when it has ended.

    :ivar state: of the connection, as far as the server says: READY if it serves.
    :ivar reason: why it is not READY.
    """

    def __init__(
        self,
        owner: HealthCheckOwner,
        service: str,
        *,
        clock: Clock,
        guard: Guard,
        random: Random,
        liveness: Liveness,
        call_credentials: BearerCredentials | None = None,
    ) -> None:
        """
        :param service: its full name; empty for the server as a whole.
        :param call_credentials: what the calls carry; None for nothing.
        """
        self._owner = owner
        self._service = service
        start, self._call_credentials = self._send, None
        if call_credentials is not None:
            self._call_credentials = CallCredentials(
                call_credentials, clock, guard, METADATA_SIZE, self._send
            )
            start = self._call_credentials.start
        self._registry = CallRegistry(clock, guard, random, Throttle(), start, owner.count)
        self._calls = Calls(self._registry, _OPTIONS, None, ())
        self._backoff = Backoff(liveness.first_backoff, liveness.max_backoff, random)
        self._again = ResettableTimer(clock, self._open_afresh)
        self._stream: ResponseStream[HealthCheckResponse] | None = None
        # Whether the server is asked, or will be; not if it cannot say.
        self._is_watching = False
        # Whether that it cannot was logged.
        self._was_told = False
        self.state = ConnectivityState.CONNECTING
        self.reason = ""
        self._forget()

    def _forget(self) -> None:
        self.state = ConnectivityState.CONNECTING
        self.reason = f"{self._owner.address}: nothing is known yet of the health of {self._what}"

    @property
    def _what(self) -> str:
        return self._service or "the server"

    def start(self) -> None:
        """The connection can carry calls; nothing happens if it is watched already."""
        if not self._is_watching:
            self._is_watching = True
            self._open_afresh()

    def stop(self) -> None:
        """The connection is gone, or is not to be used any more."""
        self._is_watching = False
        self._again.stop()
        self._backoff.reset()
        self._forget()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self.stop()
        self._registry.refuse()
        error = Unavailable("the channel is closed")
        if self._call_credentials is not None:
            self._call_credentials.close(error)
        self._registry.close(error)

    def _open_afresh(self) -> None:
        # Whoever has caused it, in a handler for instance: it is not part of their call.
        contextvars.Context().run(self._open)

    def _open(self) -> None:
        request = HealthCheckRequest(service=self._service)
        stream = self._calls.stream(_WATCH, request, None, None, None)
        self._stream = stream
        Deferred.fromCoroutine(self._follow(stream))

    def _send(self, call: Call) -> None:
        if self._is_watching:
            self._owner.send(call)
        else:
            call.fail(Unavailable("the connection is not to be used any more"))

    async def _follow(self, stream: ResponseStream[HealthCheckResponse]) -> None:
        why = "the stream has ended"
        try:
            async for response in stream:
                self._told(response)
        except Unimplemented:
            self._cannot_say(stream)
            return
        except (RpcError, CancelledError) as error:
            why = str(error)
        self._ended(stream, why)

    def _told(self, response: HealthCheckResponse) -> None:
        """The server says how the service does."""
        self._backoff.reset()
        if response.status == HealthCheckResponse.SERVING:
            self._set(ConnectivityState.READY, "")
        elif response.status == HealthCheckResponse.SERVICE_UNKNOWN:
            self._fail(f"the server does not know the health of {self._what}")
        else:
            try:
                status = HealthCheckResponse.ServingStatus.Name(response.status)
            except ValueError:  # of a newer proto
                status = str(int(response.status))
            self._fail(f"the server says that {self._what} is {status}")

    def _ended(self, stream: ResponseStream[HealthCheckResponse], why: str) -> None:
        """A stream has ended: open another one after a while."""
        if stream is self._stream:  # and was not stopped
            self._stream = None
            self._again.start(self._backoff.next())
            self._fail(f"its health cannot be watched: {why}")

    def _cannot_say(self, stream: ResponseStream[HealthCheckResponse]) -> None:
        """The server has no health service: it is not asked again on this connection."""
        if stream is not self._stream:
            return
        self._stream = None
        if not self._was_told:
            self._was_told = True
            _log.warn(
                "{address} has no health service that can be watched, and counts as healthy",
                address=self._owner.address,
            )
        self._set(ConnectivityState.READY, "")

    def _fail(self, why: str) -> None:
        self._set(ConnectivityState.TRANSIENT_FAILURE, f"{self._owner.address}: {why}")

    def _set(self, state: ConnectivityState, reason: str) -> None:
        self.state, self.reason = state, reason
        self._owner.health_changed()
