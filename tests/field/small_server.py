"""A server process with few descriptors. Arguments: where to listen, and how many it may have.

Prints its endpoint, and how many events its monitor had when it ended.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

from twisted.internet import epollreactor

from tests.rpc.service import Echo
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.monitor import SocketEvent
from txzmq.req_rep import ZmqREPConnection
from txzmq.rpc import Server, SocketOptions

_OPTIONS = SocketOptions(handshake_timeout=60)


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    reactor: Any = default_reactor()
    events = 0
    # Where all of them arrive, those that nobody asked for, too.
    got_event: Any = ZmqREPConnection._gotEvent  # pyright: ignore[reportPrivateUsage]

    def count(self: ZmqREPConnection, event: SocketEvent) -> None:
        nonlocal events
        events += 1
        got_event(self, event)

    ZmqREPConnection._gotEvent = count  # type: ignore[method-assign]  # in this process only
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Echo()], socket_options=_OPTIONS)
    endpoint = server.listen(sys.argv[1])
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(f"listening at {endpoint}", flush=True)
    reactor.run()
    print(f"{events} events", flush=True)


if __name__ == "__main__":
    main()
