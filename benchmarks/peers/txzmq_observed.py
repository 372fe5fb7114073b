"""txzmq with an observer on one side, which counts the calls and their seconds."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers.txzmq_ import Txzmq
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, ServerLimits
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.transport import Network


class _OnServer(Txzmq):
    def make_server(
        self, factory: ZmqFactory | Network, service: Any, limits: ServerLimits | None = None
    ) -> Server:
        return Server(factory, [service], limits=limits, observer=Metrics())


class _OnClient(Txzmq):
    def make_channel(self, factory: ZmqFactory | Network, address: str) -> Channel:
        return Channel(factory, address, observer=Metrics())


ON_CLIENT: Final = _OnClient()
ON_SERVER: Final = _OnServer()
