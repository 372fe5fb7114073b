"""A network whose connections do what the test says, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.rpc.service import ECHO, text
from tests.support import error_of
from txzmq._guard import Guard
from txzmq.rpc import Channel, ConnectivityState, ResolvedAddress, ResolverListener
from txzmq.rpc._wire.headers import RequestHead, decode_request
from txzmq.rpc.transport import (
    ClientHandler,
    PublisherHandler,
    PublisherTransport,
    SendResult,
    ServerHandler,
    ServerTransport,
    SubscriberHandler,
    SubscriberTransport,
    WorkerHandler,
)

IDLE, CONNECTING, READY, FAILED, SHUTDOWN = (
    ConnectivityState.IDLE,
    ConnectivityState.CONNECTING,
    ConnectivityState.READY,
    ConnectivityState.TRANSIENT_FAILURE,
    ConnectivityState.SHUTDOWN,
)


class Line:
    """A connection that does what the test says; requests are noted, and answered by it."""

    def __init__(self, network: Lines, address: str, handler: ClientHandler) -> None:
        self.network = network
        self.address = address
        self.handler = handler
        self.open = True
        #: Id and header of each request.
        self.requests: list[tuple[bytes, RequestHead]] = []

    def send_message(self, message: list[bytes]) -> SendResult:
        assert self.open
        self.requests.append((message[0], decode_request(message[2])))
        return SendResult.SENT

    def flush_soon(self) -> None:
        self.network.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        if self.open:
            self.handler.flush()

    def close(self) -> None:
        self.open = False

    @property
    def paths(self) -> list[str]:
        return [head.path.rpartition("/")[2] for _, head in self.requests]

    def answer(self, index: int) -> None:
        self.handler.received([self.requests[index][0], b"", b"", text("x").SerializeToString()])


class Lines:
    """A network of such connections."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.made: list[Line] = []
        self.broken = False
        self.guard = Guard()
        self.random = random.Random(0)

    def connect(self, address: str, handler: ClientHandler, options: Mapping[str, int]) -> Line:
        if self.broken or "://" not in address:
            raise OSError("no more sockets")
        line = Line(self, address, handler)
        self.made.append(line)
        return line

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        raise NotImplementedError

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        raise NotImplementedError

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        raise NotImplementedError

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        raise NotImplementedError

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    @property
    def open(self) -> list[Line]:
        return [line for line in self.made if line.open]

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps, as a reactor does."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 0.01:
            self.clock.advance(0.01)

    def run(self) -> None:
        self.clock.advance(0)


class Told:
    """A resolver that tells what the test says."""

    listener: ResolverListener

    def __init__(self, *first: str) -> None:
        self._first = first
        self.hints = 0
        self.closed = False

    def start(self, clock: Any, listener: ResolverListener) -> None:
        self.listener = listener
        if self._first:
            self.tell(*self._first)

    def tell(self, *addresses: str | ResolvedAddress) -> None:
        self.listener.resolved([ResolvedAddress(a) if isinstance(a, str) else a for a in addresses])

    def resolve_now(self) -> None:
        self.hints += 1

    def close(self) -> None:
        self.closed = True


def ready(target: Any = "tcp://a", **options: Any) -> tuple[Lines, Channel, Line]:
    """A channel with one connection, which is there."""
    network = Lines()
    channel = Channel(network, target, **options)
    (line,) = network.made
    line.handler.connected()
    return network, channel, line


def call(channel: Channel, *, timeout: float = 3600, wait: bool = False) -> Deferred[Any]:
    deferred = channel.unary_unary(ECHO, text("x"), timeout=timeout, wait_for_ready=wait)
    return deferred.addErrback(error_of)


def result(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "it has not ended"
    return results[0]
