"""The demo's client: ``python -m examples.demo.client ENDPOINT...``.

Calls the server at each endpoint, then shows how calls fail.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from twisted.internet.task import react

from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, RpcError


async def main(reactor: Any, *endpoints: str) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()

    for endpoint in endpoints:
        title(f"a call over {endpoint}")
        greeter = GreeterClient(Channel(factory, endpoint))
        await show(greeter, "Ada")
        await show(greeter, "Grace")

    greeter = GreeterClient(Channel(factory, endpoints[0]))
    title("a request that the server refuses")
    await show(greeter, "")
    title("a handler with a bug: the server logs it, the client is told an id to look for")
    await show(greeter, "Bug")
    title("a call that takes longer than its timeout of half a second")
    await show(greeter, "Sloth", timeout=0.5)

    title("a server that is not there")
    with tempfile.TemporaryDirectory() as folder:
        await show(GreeterClient(Channel(factory, f"ipc://{folder}/nobody")), "anybody", timeout=2)


async def show(greeter: GreeterClient, name: str, timeout: float = 5.0) -> None:
    """Make one call, and say how it ended and how long it took."""
    start = time.perf_counter()
    try:
        reply = await greeter.say_hello(HelloRequest(name=name), timeout=timeout)
        outcome = repr(reply.message)
    except RpcError as error:
        outcome = str(error)
    milliseconds = (time.perf_counter() - start) * 1000
    say(f"  say_hello({name!r}) -> {outcome}  ({milliseconds:.1f} ms)")


def title(text: str) -> None:
    print(flush=True)
    say(text)


def say(line: str) -> None:
    # Line end and all in one: the other process writes, too.
    print(f"client | {line}\n", end="", flush=True)


if __name__ == "__main__":
    react(main, sys.argv[1:])
