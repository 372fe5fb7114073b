"""txzmq with CURVE keys, and a table of who may call what."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.txzmq_keys import Keys
from benchmarks.workload import SERVICE
from txzmq.rpc.authorization import permissions


class _Permissions(Keys):
    authorize = staticmethod(
        permissions({f"/{SERVICE}/*": {"staff", "*"}, "/acme.orders.v1.Orders/*": {"staff"}})
    )


PEER: Final = _Permissions()
