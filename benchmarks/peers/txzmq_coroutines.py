"""txzmq by coroutines of Twisted's on both sides: what ``txzmq_asyncio`` runs in Tasks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from benchmarks.drivers import TwistedCall, follow_in_coroutines
from benchmarks.peers.txzmq_ import Txzmq
from benchmarks.workload import Messages, Orders
from txzmq.rpc import Context

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest


class _InCoroutines(Txzmq):
    """A client that awaits, and a server whose handler is a coroutine."""

    # Any: the module is generated when the benchmarks run.
    def make_service(self, messages: Messages) -> Any:
        return awaiting_service(messages)

    async def follow(self, messages: Messages, orders: Orders, call: TwistedCall) -> None:
        await follow_in_coroutines(messages, orders, call)


# Any: as above.
def awaiting_service(messages: Messages) -> Any:
    """A service whose handler is a coroutine."""
    generated: Any = import_module("generated.bench_txzmq")

    async def echo(_service: object, request: EchoRequest, _context: Context) -> EchoReply:
        return messages.answer(request)

    return type("Bench", (generated.BenchBase,), {"echo": echo})()


PEER: Final = _InCoroutines()
