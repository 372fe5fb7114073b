"""The server that is attacked: ``python -m tests.attack.server JSON``, in a process of its own.

It says where it listens, then its log. ``Echo.Other`` answers with what is known of it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, cast

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import ILogObserver, globalLogBeginner, textFileLogObserver

from tests.rpc.service import Echo, text
from tests.rpc.streaming import Streaming
from txzmq import ZmqFactory
from txzmq.auth import CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import Context, Server, SocketOptions


class Facts(Echo):
    """Echoes; ``Other`` tells what has reached it, and what waits."""

    def __init__(self, factory: Any) -> None:
        """:param factory: Any, as its parts are looked at."""
        super().__init__()
        self._factory = factory

    def note(self, request: StringValue, context: Context) -> None:
        self.seen.append(request.value[:40])

    def other(self, request: StringValue, context: Context) -> StringValue:
        facts = {
            "unhealthy": [value for value in self.seen if value != "healthy"],
            "decisions": len(self._factory._authenticator._waiting),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
        self.seen.clear()
        return text(json.dumps(facts))


def main(given: dict[str, Any]) -> None:
    reactor: Any = EPollReactor()  # type: ignore[no-untyped-call]  # Twisted's
    to_parent = cast(ILogObserver, textFileLogObserver(sys.stdout))  # a zope interface
    globalLogBeginner.beginLoggingTo([to_parent], redirectStandardIO=False)
    factory = ZmqFactory(reactor)
    names: dict[str, str] = given["clients"]

    def hangs(key: str, address: str) -> Identity | Deferred[Identity | None]:
        """Knows its clients at once, and never decides about anybody else."""
        return Identity(names[key]) if key in names else Deferred()

    credentials = CurveServerCredentials(
        CurveKeyPair(given["secret"]), hangs if given["hangs"] else names, policy_timeout=1
    )
    server = Server(
        factory,
        [Facts(factory), Streaming()],
        credentials=credentials,
        socket_options=SocketOptions(handshake_timeout=given["handshake"]),
    )
    endpoint = server.listen("tcp://127.0.0.1:*")
    inner: Any = server  # there is no other place to look
    print("listening", endpoint, inner._listeners[0].publisher.endpoint, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
