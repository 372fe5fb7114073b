"""The demo's server: ``python -m examples.demo.server ENDPOINT...``.

Listens on each endpoint, such as ``tcp://127.0.0.1:*``, and serves until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase
from txzmq import ZmqFactory
from txzmq.rpc import Context, InvalidArgument, Server


class Greeter(GreeterBase):
    """Greets people, some of them slowly."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        left = context.time_remaining()
        time = "no deadline" if left is None else f"{left:.1f} s left"
        say(f"{context.method} for {request.name!r}, {time}")
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        if request.name == "Sloth":
            await deferLater(self._reactor, 60)
        if request.name == "Bug":
            raise ZeroDivisionError("a secret of the server")
        return HelloReply(message=f"Hello, {request.name}!")


def main(reactor: Any, *endpoints: str) -> Deferred[None]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Greeter(reactor)])
    reactor.addSystemEventTrigger("before", "shutdown", server.stop, grace=1.0)
    for endpoint in endpoints:
        say(f"listening on {server.listen(endpoint)}")
    say("ready")
    return Deferred()  # until Ctrl-C


def say(line: str) -> None:
    # Line end and all in one: the other process writes, too.
    print(f"server | {line}\n", end="", flush=True)


if __name__ == "__main__":
    react(main, sys.argv[1:])
