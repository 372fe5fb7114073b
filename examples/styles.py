"""One client method in every style: ``python -m examples.styles``, after ``make demo``.

Callbacks, inlineCallbacks, coroutines, asyncio code and threads call one server, all in one
process. Only asyncio needs the asyncio reactor; the others run on any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextvars import copy_context
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase, GreeterClient
from txzmq import ZmqFactory
from txzmq.rpc import Blocking, Channel, Context, DeadlineExceeded, InvalidArgument, Server


class Greeter(GreeterBase):
    def say_hello(
        self, request: HelloRequest, context: Context
    ) -> HelloReply | Deferred[HelloReply]:
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        if request.name == "Sloth":
            context.cancelled.addCallback(lambda _: print("  nobody waits: the handler ends"))
            return Deferred()  # never
        return HelloReply(message=f"Hello, {request.name}!")


def with_callbacks(client: GreeterClient) -> Deferred[None]:
    def greeted(reply: HelloReply) -> None:
        print(" ", reply.message)

    def refused(failure: Failure) -> None:
        failure.trap(InvalidArgument)  # type: ignore[no-untyped-call]  # Twisted's
        print("  refused:", failure.getErrorMessage())

    deferred = client.say_hello(HelloRequest(name=""), timeout=1.5)
    return deferred.addCallbacks(greeted, refused)


@inlineCallbacks
def with_inline_callbacks(client: GreeterClient) -> Generator[Deferred[Any], Any, None]:
    reply: HelloReply = yield client.say_hello(HelloRequest(name="Ada"), timeout=1.5)
    print(" ", reply.message)


async def with_coroutines(client: GreeterClient) -> None:
    reply = await client.say_hello(HelloRequest(name="Grace"), timeout=1.5)
    print(" ", reply.message)


async def with_asyncio(client: GreeterClient) -> None:
    names = ["Edsger", "Barbara"]
    calls = [client.say_hello(HelloRequest(name=name)) for name in names]
    for reply in await asyncio.gather(*calls):
        print(" ", reply.message)
    try:
        async with asyncio.timeout(0.1):  # ends the call, and the server's handler with it
            await client.say_hello(HelloRequest(name="Sloth"))
    except TimeoutError:
        print("  too late")


def with_threads(blocking: Blocking, client: GreeterClient) -> None:
    reply = blocking(client.say_hello, HelloRequest(name="Alan"), timeout=1.5)
    print(" ", reply.message)
    try:
        blocking(client.say_hello, HelloRequest(name="Sloth"), timeout=0.1)
    except DeadlineExceeded as error:
        print("  too late:", error.message)


async def main(reactor: Any) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Greeter()])
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    client = GreeterClient(channel)

    print("callbacks")
    await with_callbacks(client)
    print("inlineCallbacks")
    await with_inline_callbacks(client)
    print("coroutines")
    await with_coroutines(client)
    print("asyncio")
    task = asyncio.create_task(with_asyncio(client))
    await Deferred[None].fromFuture(task)
    print("threads")
    # By way of copy_context(), the thread inherits what contextvars say here. In a handler, that
    # is the call that it serves, with its deadline.
    await deferToThread(copy_context().run, with_threads, Blocking(channel), client)


if __name__ == "__main__":
    asyncioreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    react(main)
