"""The ticker's server: ``python -m examples.ticker.server ENDPOINT PRICES_PER_SECOND``."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from examples.ticker.service import Ticker
from txzmq import ZmqFactory
from txzmq.rpc import Server


def main(reactor: Any, endpoint: str, rate: str) -> Deferred[None]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Ticker(reactor, float(rate))])
    reactor.addSystemEventTrigger("before", "shutdown", server.stop, grace=0)
    print(f"listening on {server.listen(endpoint)}", flush=True)
    return Deferred()  # until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
