"""A process with the gateways in front of a server; it prints where they listen.

It learns of the methods by reflection. Arguments: the server, where to listen for gRPC and for
HTTP, and the origin of pages that may call.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel
from txzmq.rpc.grpc_gateway import GrpcGateway
from txzmq.rpc.http_gateway import Cors, HttpGateway
from txzmq.rpc.method_sources import FirstOf, ReflectedMethods, standard_methods

#: Where nginx connects from.
_NGINX = ["127.0.0.1"]


async def start(server: str, grpc_target: str, http_target: str, origin: str) -> None:
    factory = ZmqFactory()
    factory.registerForShutdown()
    channel = Channel(factory, server, wait_for_ready=True)
    methods = FirstOf(standard_methods(), ReflectedMethods(channel))
    by_grpc = await GrpcGateway(channel, methods, trusted_proxies=_NGINX).listen(grpc_target)
    by_http = await HttpGateway(
        channel, methods, cors=Cors([origin]), trusted_proxies=_NGINX
    ).listen(http_target)
    print(f"gRPC at {by_grpc.target}, HTTP at {by_http.target}", flush=True)


def main() -> None:
    asyncioreactor.install()  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]  # Twisted's
    reactor: Any = default_reactor()  # Any: what runs and stops is not in the slice that txzmq uses

    def failed(failure: Failure) -> None:
        print(failure, flush=True)
        reactor.stop()

    Deferred.fromCoroutine(start(*sys.argv[1:])).addErrback(failed)
    reactor.run()


if __name__ == "__main__":
    main()
