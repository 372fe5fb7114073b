"""Sockets whose keepalive notices within seconds what the defaults notice within half a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from txzmq.rpc.transport import (
    ClientHandler,
    ClientTransport,
    ServerHandler,
    ServerTransport,
    ZmqNetwork,
)

#: A connection is dead after 2 s of silence, or 3 s with something unacknowledged; an attempt to
#: connect, or a handshake, is given up after 1 s.
QUICK: Final[Mapping[str, int]] = {
    "TCP_KEEPALIVE_IDLE": 1,
    "TCP_KEEPALIVE_INTVL": 1,
    "TCP_KEEPALIVE_CNT": 1,
    "TCP_MAXRT": 3_000,
}
_CONNECTING: Final = {"CONNECT_TIMEOUT": 1_000, "HANDSHAKE_IVL": 1_000}


class QuickNetwork(ZmqNetwork):
    """Sockets with the options :data:`QUICK`."""

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        return super().connect(address, handler, {**options, **QUICK, **_CONNECTING})

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        return super().listen(address, handler, {**options, **QUICK})
