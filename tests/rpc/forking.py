"""A program that forks in the midst of its calls: ``python -m tests.rpc.forking``."""

from __future__ import annotations

import gc
import os
import traceback
import warnings

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

from tests.rpc.service import ECHO, OTHER, Waiting, text
from tests.rpc.threads import World, uses
from tests.sockets.support import error_of
from tests.support import Loop
from txzmq import ForkedError, ZmqFactory
from txzmq.rpc import Channel, ResponseStream, Server

warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)


async def call_each_other(loop: Loop) -> None:
    factory = ZmqFactory(loop.reactor)
    server = Server(factory, [Waiting()])
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    assert (await channel.unary_unary(OTHER, text("x"))).value == "other x"
    channel.close()
    await server.stop()
    factory.shutdown()


def in_child(
    world: World, call: Deferred[StringValue], stream: ResponseStream[StringValue]
) -> None:
    for use in uses(world, call, stream).values():
        with pytest.raises(ForkedError, match="make a ZmqFactory"):
            use()
    with pytest.raises(ForkedError):
        world.blocking(world.other, "x")
    failures: list[Failure] = []
    world.service.results[0].addErrback(failures.append)
    world.service.results[0].callback(text("from the child"))
    assert isinstance(error_of(failures[0]), ForkedError)
    del world
    gc.collect()
    loop = Loop(EPollReactor)
    loop.run(lambda: call_each_other(loop))
    loop.close()
    print("child done", flush=True)


def main() -> None:
    loop = Loop(EPollReactor)
    world = World(loop)

    async def running() -> None:
        calls = [world.channel.unary_unary(ECHO, text(str(i))) for i in range(100)]
        stream = world.watch()
        await loop.until(lambda: len(world.service.seen) == 101)
        child = os.fork()
        if not child:
            try:
                in_child(world, calls[0], stream)
            except BaseException:  # noqa: BLE001 - the reactor of the parent would log it and go on
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for i, result in enumerate(world.service.results):
            result.callback(text(f"answer {i}"))
        assert [(await call).value for call in calls] == [f"answer {i}" for i in range(100)]
        assert not world.service.watching.called
        world.channel.close()
        await world.server.stop()
        world.factory.shutdown()

    loop.run(running)
    loop.close()
    print("parent done", flush=True)


if __name__ == "__main__":
    main()
