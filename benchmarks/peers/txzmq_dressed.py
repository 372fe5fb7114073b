"""txzmq with what a real application adds: interceptors, metadata, a deadline to inherit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from benchmarks.peers.txzmq_ import Txzmq
from benchmarks.workload import TIMEOUT
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    Server,
    ServerLimits,
    ServerProceed,
)
from txzmq.rpc.context import set_current
from txzmq.rpc.transport import Network

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

_METADATA: Final = {
    "authorization": "Bearer 4c0ffee4c0ffee4c0ffee",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tenant": "a",
    "user-agent": "benchmarks",
    "request-bin": b"\0\1\2\3",
}


def _around_call(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    return proceed(call)


def _around_handler(request: Any, context: Context, proceed: ServerProceed) -> Deferred[Any]:
    return proceed(request)


class _Dressed(Txzmq):
    """Three interceptors on either side, five keys of metadata, a call within a call."""

    def make_server(
        self, factory: ZmqFactory | Network, service: Any, limits: ServerLimits | None = None
    ) -> Server:
        return Server(factory, [service], interceptors=[_around_handler] * 3, limits=limits)

    def make_channel(self, factory: ZmqFactory | Network, address: str) -> Channel:
        return Channel(factory, address, interceptors=[_around_call] * 3)

    def caller(self, client: Any, clock: Any) -> Callable[[EchoRequest], Deferred[EchoReply]]:
        echo = client.echo

        def call(request: EchoRequest) -> Deferred[EchoReply]:
            # As if each call were made by a handler, whose deadline it inherits.
            set_current(Context("/a/b", clock=clock, deadline=clock.seconds() + TIMEOUT))
            try:
                reply: Deferred[EchoReply] = echo(request, timeout=TIMEOUT, metadata=_METADATA)
            finally:
                set_current(None)
            return reply

        return call


PEER: Final = _Dressed()
