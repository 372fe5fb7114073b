"""A client process of the field tests: makes calls that are never answered, and says so.

Arguments: the server's endpoint, and how many calls.
"""

from __future__ import annotations

import sys

from twisted.internet import epollreactor

from tests.field.network import QuickNetwork
from tests.rpc.service import ECHO, OTHER, text
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    channel = Channel(QuickNetwork(factory), sys.argv[1])
    for number in range(int(sys.argv[2])):
        channel.unary_unary(OTHER, text(str(number)), timeout=3600)
    echoed = channel.unary_unary(ECHO, text("x"))
    echoed.addCallback(lambda _: print("the calls are with the server", flush=True))
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
