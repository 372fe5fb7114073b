"""A server with Admin and an access log in a process of its own, which writes JSON lines."""

from __future__ import annotations

import sys

from tests.rpc.service import Echo
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Server
from txzmq.rpc.access_log import AccessLog
from txzmq.rpc.admin import Admin


class Output:
    """The standard output, a line at a time."""

    def write(self, line: str) -> None:
        print(line, end="", flush=True)


def main() -> None:
    factory = ZmqFactory()
    factory.registerForShutdown()
    log = AccessLog(json=Output(), metadata=["traceparent"])
    server = Server(factory, [Echo(), Admin()], observer=log)
    print(f"ready at {server.listen(sys.argv[1])}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
