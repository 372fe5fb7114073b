"""A program of asyncio's: ``python -m tests.rpc.aio_program MODE [uvloop]``.

It serves itself. Modes are ``result``, ``fail``, ``wait`` (for a signal), ``stubborn`` (it does not
heed the first one) and ``stop`` (which stops the reactor).
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.service import text
from tests.rpc.tasks import SAY, Saying
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Server, aio


async def handler(request: StringValue, context: Context) -> StringValue:
    await asyncio.sleep(0)
    return text(f"said {request.value}")


async def main() -> str:
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Saying(handler)], handlers="asyncio")
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))

    async def say(value: str) -> None:
        print((await channel.unary_unary(SAY, text(value))).value)

    async def left_over() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await say("by what is left")

    left = asyncio.create_task(left_over())
    await say("x")
    try:
        await end(sys.argv[1])
    finally:
        await say("at the end")
    assert not left.done()
    return "the result"


async def end(mode: str) -> None:
    if mode == "result":
        return
    if mode == "fail":
        raise ZeroDivisionError
    if mode == "stop":
        reactor: Any = sys.modules["twisted.internet.reactor"]
        reactor.stop()
    print("waits")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled")
        if mode == "stubborn":
            await asyncio.Event().wait()
        raise


if __name__ == "__main__":
    if "uvloop" in sys.argv:
        uvloop: Any = importlib.import_module("uvloop")
        print(aio.run(main, loop_factory=uvloop.new_event_loop))
    else:
        print(aio.run(main))
    try:
        aio.run(main)
    except RuntimeError as error:
        print(error)
