"""txzmq with a table of permissions that each call is looked up in."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers.txzmq_ import Txzmq
from txzmq import ZmqFactory
from txzmq.rpc import Server, ServerLimits
from txzmq.rpc.authorization import permissions
from txzmq.rpc.transport import Network


class _Permitted(Txzmq):
    """A row for all methods decides, which is the last that is looked for."""

    def make_server(
        self, factory: ZmqFactory | Network, service: Any, limits: ServerLimits | None = None
    ) -> Server:
        authorize = permissions({"orders.write": {"staff"}, "*": {"anybody"}})
        return Server(factory, [service], limits=limits, authorize=authorize)


PEER: Final = _Permitted()
