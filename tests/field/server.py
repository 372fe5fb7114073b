"""A server process of the field tests: ``Echo`` answers at once, ``Other`` never does.

It prints its endpoint, each call of ``Other`` as it begins, and each that ends. Arguments: where to
listen; and ``--defaults``, for a keepalive that is not quick.
"""

from __future__ import annotations

import sys

from twisted.internet import epollreactor

from tests.field.network import QuickNetwork
from tests.rpc.echo_server import Slow
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Server


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    network = factory if "--defaults" in sys.argv else QuickNetwork(factory)
    server = Server(network, [Slow()])
    endpoint = server.listen(sys.argv[1], insecure=True)
    print(f"listening at {endpoint}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
