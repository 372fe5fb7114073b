"""A server process that shuts down on SIGTERM; says when it listens, serves, and has stopped.

Each call takes some milliseconds, so that some always run. Arguments: where to listen; for how long
a call of ``Other`` runs, in seconds; and ``connect``, to dial out instead. The environment may have
the grace, in seconds, as ``GRACE``; and as ``FD`` the descriptor of the listening socket, which
another process takes over when this one is told to end.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import epollreactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.rpc.service import Echo, text
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Server, UnaryResult


class Leisurely(Echo):
    """Answers after a while."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        super().__init__()
        self._reactor = reactor
        self._seconds = seconds
        self._served = False

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if not self._served:
            self._served = True
            print("serving", flush=True)
        return self._after(random.uniform(0, 0.02), request.value)

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        print(f"executing {request.value}", flush=True)
        return self._after(self._seconds, request.value)

    def _after(self, seconds: float, value: str) -> Deferred[StringValue]:
        return deferLater(self._reactor, seconds, text, value)


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    reactor: Any = default_reactor()
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Leisurely(reactor, float((*sys.argv, "0")[2]))])
    grace = float(os.environ.get("GRACE", "10"))
    fd = int(os.environ["FD"]) if "FD" in os.environ else None
    end = server.stop if fd is None else server.hand_over
    reactor.addSystemEventTrigger("before", "shutdown", end, grace)
    if sys.argv[3:] == ["connect"]:
        server.connect(sys.argv[1])
        line = f"connected to {sys.argv[1]}"
    else:
        line = f"listening at {server.listen(sys.argv[1], fd=fd)}"
    # When SIGTERM is handled, too.
    reactor.callWhenRunning(print, line, flush=True)
    reactor.run()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
