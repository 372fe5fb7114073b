"""A server process for tests: prints its endpoint, and each request that it executes."""

from __future__ import annotations

import sys
from typing import ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import epollreactor
from twisted.internet.defer import Deferred

from tests.rpc.service import ECHO, OTHER, Echo
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Server, Service, UnaryResult


class Slow(Echo):
    """``Echo`` answers at once; ``Other`` never does. Nothing streams, which would take a port."""

    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO, OTHER))

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        print(f"executing {request.value}", flush=True)
        context.cancelled.addCallback(self.told, request.value)
        return Deferred()

    def told(self, reason: str, value: str) -> None:
        print(f"{value}: {reason}", flush=True)


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Slow()])
    print(f"listening at {server.listen(sys.argv[1])}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
