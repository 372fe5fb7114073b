"""The servers of a test of mixed versions, in one process; prints where they are, as JSON.

Arguments: a file with the server's keys, the public key of the client that may connect, and a
folder for a socket.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

import txzmq
from tests.compat.relay import Relay
from tests.compat.words import messages, services
from txzmq import ZmqFactory
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Code, Context, RequestStream, RpcError, Server, ServerLimits
from txzmq.rpc.health import Health
from txzmq.rpc.reflection import Reflection

#: Any: Twisted types reactors with zope interfaces.
reactor: Any = twisted_reactor
#: Seconds that a connection to one of the servers lasts, and then has at most for its calls.
AGE, GRACE = 0.5, 10.0
#: Seconds that ``Work`` takes, and between ticks.
WORK, TICK = 0.2, 0.05


class Notes:
    """What the handlers of all servers have noted, by name."""

    def __init__(self) -> None:
        self._notes: dict[str, list[str]] = {}

    def add(self, name: str, note: str) -> None:
        self._notes.setdefault(name, []).append(note)

    def of(self, name: str) -> list[str]:
        return self._notes.get(name, [])


class Calls(services.CallsBase):  # type: ignore[misc]  # Any: which of two generated modules, see words.py
    """Calls of all kinds; what becomes of them is noted."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.waiting: dict[str, Deferred[Any]] = {}

    def say(self, request: Any, context: Context) -> Any:
        pairs = context.metadata
        context.send_initial_metadata(pairs)
        context.set_trailing_metadata(pairs)
        name = "" if context.identity is None else context.identity.name
        self._notes.add(request.text, name)
        return request

    def fail(self, request: Any, context: Context) -> Any:
        raise error_of(request.code, request.message, request.detail)

    def wait(self, request: Any, context: Context) -> Deferred[Any]:
        self.watch(request.text, context)
        deferred: Deferred[Any] = Deferred()
        self.waiting[request.text] = deferred
        return deferred

    def watch(self, name: str, context: Context) -> None:
        self._notes.add(name, "begun")
        context.cancelled.addCallback(lambda reason: self._notes.add(name, "cancelled"))

    def try_(self, request: Any, context: Context) -> Any:
        metadata = dict(context.metadata)
        attempt = str(metadata.get("grpc-previous-rpc-attempts", "0"))
        self._notes.add(request.text, attempt)
        if len(self._notes.of(request.text)) == 1:
            raise error_of(Code.UNAVAILABLE, "the first time", "")
        return request

    def work(self, request: Any, context: Context) -> Deferred[Any]:
        self._notes.add(request.text, "executed")
        return deferLater(reactor, WORK, lambda: request)

    async def count(self, request: Any, context: Context) -> AsyncIterator[Any]:
        if request.name:
            self.watch(request.name, context)
        context.send_initial_metadata({"first": "1"})
        context.set_trailing_metadata({"last-bin": b"\0\xff"})
        for number in range(request.items):
            if request.pause:
                await deferLater(reactor, request.pause, lambda: None)
            yield messages.Item(number=number, ballast=bytes(request.size))
        if request.code:
            raise error_of(request.code, "behind the items", "why")

    async def sum(self, requests: RequestStream[Any], context: Context) -> Any:
        total = 0
        async for item in requests:
            total += item.number
        context.set_trailing_metadata({"last-bin": b"\0\xff"})
        return messages.Item(number=total)

    async def mirror(self, requests: RequestStream[Any], context: Context) -> AsyncIterator[Any]:
        async for item in requests:
            yield item

    async def ticks(self, request: Any, context: Context) -> AsyncIterator[Any]:
        self.watch(request.text, context)
        number = 0
        while True:
            yield messages.Item(number=number)
            number += 1
            await deferLater(reactor, TICK, lambda: None)


def error_of(code: int, message: str, detail: str) -> RpcError:
    """An error with metadata, and with a detail if there is one."""
    details = [messages.Text(text=detail)] if detail else []
    return RpcError(Code(code), message, details=details, metadata={"who": "server"})


class Stage(services.StageBase):  # type: ignore[misc]  # as Calls
    """What the test has this process do."""

    def __init__(self, notes: Notes, calls: Calls, relays: dict[str, Relay]) -> None:
        self._notes = notes
        self._calls = calls
        self._relays = relays
        self.servers: dict[str, Server] = {}

    def notes(self, request: Any, context: Context) -> Any:
        return messages.Texts(texts=self._notes.of(request.text))

    def release(self, request: Any, context: Context) -> Any:
        self._calls.waiting.pop(request.text).callback(request)
        return request

    def stop(self, request: Any, context: Context) -> Any:
        stopped = self.servers[request.text].stop(20)
        stopped.addCallback(lambda _: self._notes.add(f"server {request.text}", "stopped"))
        return request

    def relay(self, request: Any, context: Context) -> Any:
        for relay in (self._relays["calls"], self._relays["publisher"]):
            if request.text == "cut":
                relay.cut()
            else:
                relay.hold(request.text == "hold")
        return request

    def traffic(self, request: Any, context: Context) -> Any:
        relay = self._relays[request.text]
        return messages.Passed(
            requests=relay.requests, replies=relay.replies, connections=relay.connections
        )


def main() -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    notes = Notes()
    calls = Calls(notes)
    relays = {name: Relay(reactor) for name in ("calls", "publisher", "aged")}
    stage = Stage(notes, calls, relays)
    keys, client = CurveKeyPair.load(sys.argv[1]), sys.argv[2]
    limits = ServerLimits(connection_age=AGE, connection_age_grace=GRACE)
    credentials = CurveServerCredentials(keys, {client: "alice"})
    # Reached through relays: clients are told the address of one for the publisher's.
    relayed = Server(factory, [calls])
    publisher = f"ipc://{sys.argv[3]}/publisher"
    advertised = relays["publisher"].endpoint
    relays["publisher"].to(publisher)
    relays["calls"].to(
        relayed.listen("tcp://127.0.0.1:*", publisher=publisher, advertise=advertised)
    )
    stage.servers = {
        "plain": Server(factory, [calls, stage, Health(), Reflection()]),
        "draining": Server(factory, [calls]),
        "aged": Server(factory, [calls], limits=limits),
        "secure": Server(factory, [calls], credentials=credentials),
    }
    endpoints = {name: server.listen("tcp://127.0.0.1:*") for name, server in stage.servers.items()}
    relays["aged"].to(endpoints["aged"])
    endpoints["relayed"], endpoints["aged"] = relays["calls"].endpoint, relays["aged"].endpoint
    where = {"txzmq": txzmq.__file__, "generated": services.__file__}
    print(json.dumps({"endpoints": endpoints, "where": where}), flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
