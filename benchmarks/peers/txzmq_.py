"""txzmq: the generated client and server base, on the defaults."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.drivers import TwistedCall, follow_in_twisted
from benchmarks.stacks import Peer
from benchmarks.workload import TIMEOUT, Messages, Orders
from txzmq import ZmqFactory
from txzmq.rpc import Caller, Channel, Context, Server, ServerLimits
from txzmq.rpc.transport import Network

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest


class Txzmq(Peer):
    """What another may want to change are methods of their own."""

    def make_server(
        self, factory: ZmqFactory | Network, service: Any, limits: ServerLimits | None = None
    ) -> Server:
        return Server(factory, [service], limits=limits)

    def make_channel(self, factory: ZmqFactory | Network, address: str) -> Channel:
        return Channel(factory, address)

    def address_for_clients(self, address: str) -> str:
        """What clients are told: where the server listens, and what else they need."""
        return address

    # Any: the client's module is generated when the benchmarks run, and the clock is the reactor.
    def caller(self, client: Any, clock: Any) -> Callable[[EchoRequest], Deferred[EchoReply]]:
        echo = client.echo

        def call(request: EchoRequest) -> Deferred[EchoReply]:
            reply: Deferred[EchoReply] = echo(request, timeout=TIMEOUT)
            return reply

        return call

    # Any: the module is generated when the benchmarks run.
    def make_service(self, messages: Messages) -> Any:
        return bench_service(messages)

    async def follow(self, messages: Messages, orders: Orders, call: TwistedCall) -> None:
        await follow_in_twisted(messages, orders, call)

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        service = self.make_service(messages)

        def main(reactor: object) -> Deferred[None]:
            server = self.make_server(make_factory(reactor), service)
            announce(self.address_for_clients(server.listen("tcp://127.0.0.1:*")))
            return Deferred()  # never fires

        react(main)

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        async def main(reactor: object) -> None:
            channel = self.make_channel(make_factory(reactor), address)
            call = self.caller(bench_client(channel), reactor)
            await self.follow(messages, orders, call)
            channel.close()

        react(main)


# Any: the module is generated when the benchmarks run.
def bench_service(messages: Messages) -> Any:
    """An instance of a class with the generated base."""
    generated: Any = import_module("generated.bench_txzmq")

    def echo(_service: object, request: EchoRequest, _context: Context) -> EchoReply:
        return messages.answer(request)

    return type("Bench", (generated.BenchBase,), {"echo": echo})()


def bench_client(channel: Caller) -> Any:
    """The generated client."""
    generated: Any = import_module("generated.bench_txzmq")
    return generated.BenchClient(channel)


def make_factory(reactor: Any) -> ZmqFactory:
    """A factory on *reactor*; Any, as zope's interfaces mean nothing to the type checkers."""
    factory = ZmqFactory()
    factory.reactor = reactor
    factory.registerForShutdown()
    return factory


PEER: Final = Txzmq()
