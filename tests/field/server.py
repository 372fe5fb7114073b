"""A server process of the field tests: ``Echo`` answers at once, ``Other`` never does.

It prints its endpoint, each call of ``Other`` as it begins, and each that ends. ``Echo`` of ``block
3`` blocks the reactor for 3 s. Arguments: where to listen;
``--defaults``, for a keepalive that is not quick; ``--descriptors=64`` for no more than those;
``--tell``, to print each call of ``Echo`` and answer it 50 ms later; ``--log`` to print the log.
"""

from __future__ import annotations

import resource
import sys
import time

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import epollreactor
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner, textFileLogObserver

from tests.field.network import QuickNetwork
from tests.rpc.echo_server import Slow
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Server, UnaryResult


class Blocking(Slow):
    tells = "--tell" in sys.argv

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if self.tells:
            print(f"echo {request.value}", flush=True)
            return deferLater(default_reactor(), 0.05, lambda: request)  # type: ignore[arg-type]  # an interface of zope
        word, _, seconds = request.value.partition(" ")
        if word == "block":
            print(f"blocked for {seconds}", flush=True)
            time.sleep(float(seconds))  # what is tested: a reactor that stands still
        return request


def main() -> None:
    for argument in sys.argv[2:]:
        if argument.startswith("--descriptors="):
            limit = int(argument.partition("=")[2])
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if "--log" in sys.argv:
        globalLogBeginner.beginLoggingTo(
            [textFileLogObserver(sys.stdout)],  # type: ignore[list-item]  # an interface of zope
            redirectStandardIO=False,
        )
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    network = factory if "--defaults" in sys.argv else QuickNetwork(factory)
    server = Server(network, [Blocking()])
    print(f"listening at {server.listen(sys.argv[1], insecure=True)}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
