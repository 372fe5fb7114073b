"""The processes that are measured: ``python -m benchmarks.scale.child server|client SETUP FOLDER``.

They talk with the process that measures as :mod:`benchmarks.child` does.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from benchmarks.child import Line, OrdersByLine, tell_cpu
from benchmarks.drivers import Rounds, TwistedCall
from benchmarks.peers.txzmq_ import bench_client, bench_service, make_factory
from benchmarks.scale.axes import Setup
from benchmarks.scale.served import serve_by_processes
from benchmarks.workload import SERVICE, TIMEOUT, Messages, Window
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, Context, Method, Server, Service
from txzmq.rpc.limits import MESSAGE_SIZE, ServerLimits

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

#: Bytes of replies that may wait for a client: more than the largest messages in flight.
_BACKLOG = 256 << 20


def methods_of(setup: Setup, messages: Messages) -> list[Method[Any, Any]]:
    """The methods of a service that no proto has."""
    return [
        Method(f"/{SERVICE}/Echo{number}", f"echo_{number}", messages.request, messages.reply)
        for number in range(setup.methods)
    ]


def service_of(setup: Setup, messages: Messages) -> Any:
    """An instance of the generated base, or of one with as many methods as *setup* says."""
    if not setup.methods:
        return bench_service(messages)

    def echo(_service: object, request: EchoRequest, _context: Context) -> EchoReply:
        return messages.answer(request)

    methods = methods_of(setup, messages)
    names: Mapping[str, object] = {method.name: echo for method in methods}
    service = Service(SERVICE, tuple(methods))
    return type("Bench", (), {"__txzmq_service__": service, **names})()


def caller_of(setup: Setup, messages: Messages, channel: Channel) -> TwistedCall:
    """What makes a call: of the generated client, or of each method in turn."""
    if not setup.methods:
        echo = bench_client(channel).echo

        def call(request: EchoRequest) -> Deferred[EchoReply]:
            reply: Deferred[EchoReply] = echo(request, timeout=TIMEOUT)
            return reply

        return call
    # From the first to the last, so that no two calls in flight need be of one method.
    following: Callable[[], Method[Any, Any]] = cycle(methods_of(setup, messages)).__next__

    def call_next(request: EchoRequest) -> Deferred[EchoReply]:
        return channel.unary_unary(following(), request, timeout=TIMEOUT)

    return call_next


def serve(setup: Setup, messages: Messages, line: Line) -> None:
    """Serve until the process is ended."""
    service = service_of(setup, messages)
    size = setup.message_limit or MESSAGE_SIZE
    limits = ServerLimits(message_size=size, backlog=_BACKLOG, backlog_per_peer=_BACKLOG)

    def main(reactor: object) -> Deferred[None]:
        server = Server(make_factory(reactor), [service], limits=limits)
        addresses = [server.listen("tcp://127.0.0.1:*") for _ in range(setup.endpoints)]
        line.write({"addresses": addresses})
        return Deferred()  # never fires

    react(main)


async def follow(calls: list[TwistedCall], messages: Messages, orders: OrdersByLine) -> None:
    """Follow orders with all clients of this process, each with the ordered calls in flight."""
    while (order := await deferToThread(orders.receive)) is not None:
        window = Window(messages, order)
        await gatherResults([Rounds(window, order.in_flight, call).done for call in calls])
        orders.report(window.sample())


def drive(setup: Setup, messages: Messages, line: Line) -> None:
    """Connect, and follow orders until there are no more."""
    given = json.loads(line.read())

    def connect(factory: ZmqFactory) -> Channel:
        size = setup.message_limit or MESSAGE_SIZE
        return Channel(factory, given["addresses"], message_size=size)

    async def main(reactor: Any) -> None:  # Any: zope's interfaces
        factory = make_factory(reactor)
        channels = [connect(factory) for _ in range(given["clients"])]
        while not all(map(is_ready, channels)):
            await deferLater(reactor, 0.01)
        line.write({"ready": True})
        calls = [caller_of(setup, messages, channel) for channel in channels]
        await follow(calls, messages, OrdersByLine(line))
        for channel in channels:
            channel.close()

    react(main)


def is_ready(channel: Channel) -> bool:
    """Whether each endpoint can be called, so that none is measured with fewer."""
    return all(each.state is ConnectivityState.READY for each in channel.endpoints)


def main(role: str, setup_as_json: str, folder: str) -> None:
    """Be the server, or a process of clients.

    :param role: which of the two.
    :param setup_as_json: the fields of a :class:`Setup`.
    :param folder: where generated modules are.
    """
    line = Line()
    sys.path.insert(0, folder)
    setup = Setup(**json.loads(setup_as_json))
    messages = Messages.load("generated.bench_pb2")
    if role == "server" and setup.workers:
        serve_by_processes(setup.workers, folder, line)
    elif role == "server":
        threading.Thread(target=tell_cpu, args=(line,), daemon=True).start()
        serve(setup, messages, line)
    else:
        drive(setup, messages, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
