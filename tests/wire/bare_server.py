"""A server process for clients that are not txzmq's: prints its endpoint and what handlers see."""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from contextlib import suppress
from typing import Any, ClassVar, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet import epollreactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogBeginner, textFileLogObserver

from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, Method, NotFound, Server, Service, UnaryResult

METHODS = {
    name: Method(f"/test.Bare/{name.capitalize()}", name, StringValue, StringValue)
    for name in ("echo", "fail", "wait", "persist", "tell")
}


class Bare:
    """What a test of the protocol needs of a server."""

    __txzmq_service__: ClassVar[Service] = Service("test.Bare", tuple(METHODS.values()))

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.counted_before: Counter[str] = Counter()
        self.server: Server | None = None
        #: Handlers that go on when they are cancelled, and how many there were at one time.
        self.persistent: set[Deferred[None]] = set()
        self.most_persistent = 0

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        """Give back what came, metadata too, and say how much time is left."""
        self.executed[request.value] += 1
        context.send_initial_metadata([("first", "1"), *context.metadata])
        context.set_trailing_metadata({"left": str(context.time_remaining())})
        return request

    def fail(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        """Raise an error of the protocol, or an exception of the handler's own."""
        if request.value == "crash":
            raise RuntimeError("secret")
        detail = AnyMessage()
        detail.Pack(request)
        raise NotFound("no such thing", details=[detail], metadata={"k-bin": b"\xff"}.items())

    def wait(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        """Never answer."""
        self.executed[request.value] += 1
        print(f"executing {request.value}", flush=True)
        context.cancelled.addCallback(self.ended, request.value)
        return Deferred()

    async def persist(self, request: StringValue, context: Context) -> StringValue:
        """Go on when cancelled, until ``tell`` is asked to let go."""
        self.executed[request.value] += 1
        end: Deferred[None] = Deferred()
        self.persistent.add(end)
        self.most_persistent = max(self.most_persistent, len(self.persistent))
        while end in self.persistent:
            step: Deferred[None] = Deferred()
            end.chainDeferred(step)
            with suppress(CancelledError):
                await step
        return request

    def let_go(self) -> None:
        while self.persistent:
            self.persistent.pop().callback(None)

    def ended(self, reason: str, value: str) -> None:
        print(f"{value}: {reason}", flush=True)

    def tell(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        """What has been counted since the last request that says ``anew``, as JSON."""
        assert self.server is not None
        if request.value == "anew":
            self.executed.clear()
            self.counted_before = self.server.counters
            self.most_persistent = 0
        if request.value == "let go":
            self.let_go()
        gc.collect()
        told = {
            "blocks": sys.getallocatedblocks() if hasattr(sys, "getallocatedblocks") else 0,
            "most": self.most_persistent,
            "counters": self.server.counters - self.counted_before,
            "executed": self.executed,
            "running": self.server.running,
            "queued": self.server.queued,
        }
        return StringValue(value=json.dumps(told))


def main() -> None:
    log = cast(Any, textFileLogObserver(sys.stdout))  # implements a zope interface, says Twisted
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory()
    factory.registerForShutdown()
    service = Bare()
    server = service.server = Server(factory, [service])
    print(f"listening at {server.listen(sys.argv[1])}", flush=True)
    reactor = default_reactor()
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
