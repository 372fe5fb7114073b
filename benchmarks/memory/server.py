"""The server process of the memory benchmark: prints its endpoint."""

from __future__ import annotations

import sys

from benchmarks.memory.service import Worker, prepare, say
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Server, ServerLimits

_MANY = 1_000_000


def main() -> None:
    """Serve until killed."""
    prepare(trace="--trace" in sys.argv)
    factory = ZmqFactory()
    factory.registerForShutdown()
    limits = ServerLimits(running=_MANY, running_per_peer=_MANY)
    server = Server(factory, [Worker()], limits=limits)
    say(server.listen("tcp://127.0.0.1:*"))
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
