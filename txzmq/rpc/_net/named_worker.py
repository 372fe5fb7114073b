"""A server's connection to a proxy whose address has the name of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from txzmq._identity import Identity
from txzmq._send_result import SendResult
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import Network, PeerConnection, ServerTransport, WorkerHandler
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.resolvers import DnsResolver, ResolvedAddress

__all__ = ["NamedWorker"]


class NamedWorker:
    """A connection to a proxy whose host is a name: looked up once, each time anew."""

    tells_of_loss = True
    authenticates = False

    def __init__(
        self,
        network: Network,
        address: str,
        target: str,
        handler: WorkerHandler,
        connect: Callable[[str], ServerTransport],
    ) -> None:
        """
        :param target: what to look up.
        :param connect: makes the connection to an address.
        """
        self.endpoint = address
        self._handler = handler
        self._random = network.random
        self._connect = connect
        self._transport: ServerTransport | None = None
        self._reason = ""
        self._fail = ResettableTimer(network.clock, self._failed)
        self._forget_network = network.when_closed(self._closed)
        self._resolver = DnsResolver(target)
        self._resolver.start(network.clock, self)

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        """Connect to one of the name's addresses; when it is lost, another gets its turn."""
        self._stop()
        try:
            self._transport = self._connect(self._random.choice(addresses).address)
        except Exception as error:  # noqa: BLE001 - what a socket lacks now it may have later
            self._fail_soon(str(error))

    def not_resolved(self, error: Unavailable) -> None:
        """The name cannot be looked up now."""
        self._stop()
        self._fail_soon(error.message)

    def _fail_soon(self, reason: str) -> None:
        self._reason = reason
        self._fail.start(0)  # not at once: the handler may not have this transport yet

    def _failed(self) -> None:
        self._handler.failed(self._reason)

    def _closed(self) -> None:
        self.close()
        self._handler.closed()

    def _stop(self) -> None:
        self._resolver.close()
        self._forget_network()

    def send_message(self, message: list[bytes]) -> SendResult:
        """Nobody is connected before the name is known, so that there is nobody to reply to."""
        if self._transport is None:
            return SendResult.UNREACHABLE
        return self._transport.send_message(message)

    def has_input(self) -> bool:
        return self._transport is not None and self._transport.has_input()

    def sender(self) -> Identity | None:
        return None  # a proxy says nothing of who calls

    def peer_address(self, peer: bytes) -> str:
        return "" if self._transport is None else self._transport.peer_address(peer)

    def connection_of(self, peer: bytes) -> PeerConnection | None:
        return None  # it is this side's own

    def accept_no_more(self) -> bool:
        return False  # it accepts none

    def flush_soon(self) -> None:
        if self._transport is not None:
            self._transport.flush_soon()

    def close(self) -> None:
        self._stop()
        self._fail.stop()
        if self._transport is not None:
            self._transport.close()
