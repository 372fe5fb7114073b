"""A server process that streams: counts from 0 to below the request.

It prints its endpoint, and how each stream ends. Argument: where to listen.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import epollreactor

from tests.rpc.service import text
from tests.rpc.streaming import Streaming
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Server


async def count(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Count, and tell how it ends."""
    end = "cancelled"
    try:
        for number in range(int(request.value)):
            yield text(str(number))
        end = "done"
    finally:
        print(end, flush=True)


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Streaming(count)])
    print(f"listening at {server.listen(sys.argv[1])}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
