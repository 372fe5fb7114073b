"""txzmq with CURVE keys on both sides: all is encrypted, and the server knows who calls."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers.txzmq_ import Txzmq
from benchmarks.trust import curve_client, curve_server, new_curve
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, ServerLimits
from txzmq.rpc.authorization import Authorize
from txzmq.rpc.transport import Network

__all__ = ["PEER", "Keys"]


class Keys(Txzmq):
    """See the module.

    :ivar authorize: who may call what; None for everybody whose key is known.
    """

    authorize: Authorize | None = None

    def __init__(self) -> None:
        self._keys = new_curve()

    def make_server(
        self, factory: ZmqFactory | Network, service: Any, limits: ServerLimits | None = None
    ) -> Server:
        return Server(
            factory,
            [service],
            limits=limits,
            credentials=curve_server(self._keys),
            authorize=self.authorize,
        )

    def make_channel(self, factory: ZmqFactory | Network, address: str) -> Channel:
        address, credentials = curve_client(address)
        return Channel(factory, address, credentials=credentials)

    def address_for_clients(self, address: str) -> str:
        return address + self._keys


PEER: Final = Keys()
