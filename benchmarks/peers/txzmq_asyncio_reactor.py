"""txzmq on Twisted's asyncio reactor, by Deferreds: what Tasks are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet import asyncioreactor

from benchmarks.peers.txzmq_ import Txzmq
from benchmarks.workload import Messages, Orders


class _OnAsyncio(Txzmq):
    """The reactor is installed in the processes that measure, and not where a peer is imported."""

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        asyncioreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
        super().serve(messages, announce)

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        asyncioreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
        super().drive(messages, address, orders)


PEER: Final = _OnAsyncio()
