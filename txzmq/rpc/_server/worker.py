"""A socket of a server that dials out: to a proxy, which gives it requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twisted.logger import Logger

from txzmq._escape import escaped
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._core.transport import Network
from txzmq.rpc._server.listener import Listener, ListenerOwner

__all__ = ["Worker"]

_log = Logger()
#: Seconds until the next connection to a proxy that was lost: the first, and the longest.
_FIRST_BACKOFF: Final = 0.2
_MAX_BACKOFF: Final = 10.0


class Worker(Listener):
    """A connection to a proxy, and the calls that came by it (a :class:`WorkerHandler`).

    It is made anew whenever it is lost, by a socket of its own: libzmq does not connect again after
    a breach of its protocol. The calls end with it. Their replies would reach nobody, for a proxy
    that has restarted knows its clients by other routing ids.
    """

    def __init__(
        self, owner: ListenerOwner, network: Network, address: str, options: Mapping[str, int]
    ) -> None:
        """Begin to connect.

        :raises Exception: if the address is none.
        """
        super().__init__(owner, for_proxy=True)
        self._network = network
        self._address = address
        self._options = options
        self._backoff = Backoff(_FIRST_BACKOFF, _MAX_BACKOFF, network.random)
        self._redial = ResettableTimer(network.clock, self._dial_again)
        self._is_closed = False
        # Between two connections there is no socket whose end would tell.
        self._forget_network = network.when_closed(self._network_closed)
        try:
            self.opened(network.dial_out(address, self, options))
        except BaseException:
            self._forget_network()
            raise

    def received(self, message: list[bytes]) -> None:
        """Serve requests: the proxy works."""
        self._backoff.reset()
        super().received(message)

    def failed(self, reason: str) -> None:
        """The connection was lost or could not be made: end its calls, and make another."""
        if self._is_closed:
            return
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()
        self.owner.count("connection to a proxy lost")
        if not self._backoff.failures:  # once, not with each attempt
            _log.warn("{address}: {reason}", address=self._address, reason=escaped(reason))
        self._redial.start(self._backoff.next())
        for peer in self.wire.peers:
            self.peer_lost(peer)

    def _dial_again(self) -> None:
        try:
            self.opened(self._network.dial_out(self._address, self, self._options))
        except Exception as error:  # noqa: BLE001 - what a socket lacks now it may have later
            self.failed(str(error))

    def _network_closed(self) -> None:
        """All sockets are about to be closed."""
        if self.transport is not None:
            self.transport.close()
        self.closed()

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self._stop()
        super().closed()

    def close(self) -> None:
        """Send what can be sent, and leave the proxy."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        self._is_closed = True
        self._redial.stop()
        self._forget_network()
