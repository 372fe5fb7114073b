"""A program that makes, drops and forgets everything, with the garbage collector always at work.

``python -X dev -m tests.rpc.churn``. What is left in reactors, and any warning, ends it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from typing import Any

import zmq
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.testing import MemoryReactorClock

from tests.rpc.service import ECHO, OTHER, Waiting, text
from tests.sockets.support import Silent, bind, connect_to
from tests.support import Loop
from txzmq import ZmqFactory, ZmqMonitor, ZmqREQConnection, ZmqSubConnection
from txzmq.rpc import Blocking, Channel, Server


async def calls(loop: Loop, factory: ZmqFactory, *, close: bool) -> None:
    server = Server(factory, [Waiting()])
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    Channel(factory, "tcp://127.0.0.1:1")  # forgotten at once; nobody listens there
    Server(factory, [Waiting()]).listen("tcp://127.0.0.1:*")
    waiting = [channel.unary_unary(ECHO, text("x")) for _ in range(5)]
    for deferred in waiting:
        deferred.addErrback(lambda _: None)
    assert (await channel.unary_unary(OTHER, text("x"))).value == "other x"
    waiting.pop().cancel()
    if close:
        channel.close()
        await server.stop(0)


async def sockets(loop: Loop, factory: ZmqFactory, *, close: bool) -> None:
    server = Silent(factory, bind("tcp://127.0.0.1:*"))
    client = ZmqREQConnection(factory, connect_to(server))
    ZmqMonitor(client, lambda _: None)
    ZmqSubConnection(factory, bind("tcp://127.0.0.1:*")).subscribe(b"")
    client.sendMsg(b"x").addErrback(lambda _: None)
    await loop.until(lambda: server.requests)
    if close:
        client.shutdown()
        server.shutdown()


async def main(loop: Loop) -> None:
    """Two factories at a time, on one reactor; what is forgotten goes with its factory."""
    for i in range(10):
        factory, other = ZmqFactory(loop.reactor), ZmqFactory(loop.reactor)
        await calls(loop, factory, close=bool(i % 2))
        await sockets(loop, other, close=bool(i % 2))
        factory.shutdown()
        other.shutdown()
        ZmqFactory(loop.reactor)  # never used


#: PyPy calls a finalizer only once nothing else that has one refers to its object: each collection
#: gets a layer further.
COLLECTIONS = 1 if sys.implementation.name == "cpython" else 10


def forget() -> None:
    """Forget a factory with all that is open on it, reactor and all."""
    reactor: Any = MemoryReactorClock()  # type: ignore[no-untyped-call]  # Twisted's
    factory = ZmqFactory(reactor)
    server = Server(factory, [Waiting()])
    Blocking(Channel(factory, server.listen("tcp://127.0.0.1:*")))
    silent = Silent(factory, bind("tcp://127.0.0.1:*"))
    client = ZmqREQConnection(factory, connect_to(silent))
    ZmqMonitor(client, lambda _: None)
    client.sendMsg(b"x")
    factory.context.socket(zmq.PULL).close()


def forget_many(times: int) -> None:
    for _ in range(times):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            forget()
            for _ in range(COLLECTIONS):
                gc.collect()
        messages = [str(warning.message) for warning in told]
        assert messages == ["a ZmqFactory was not shut down"], messages


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    chooses = hasattr(gc, "set_threshold")  # PyPy chooses itself when to collect
    if chooses:
        gc.set_threshold(1)
    loop = Loop(EPollReactor)
    loop.run(lambda: main(loop))
    loop.close()
    gc.collect()
    print("nothing is left", flush=True)
    if chooses:
        gc.set_threshold(700)
    forget_many(3)
    before = descriptors()
    thread = threading.Thread(target=forget_many, args=[10])  # which is no reactor's
    thread.start()
    thread.join()
    forget_many(10)
    end = threading.Event()
    for _ in range(1000):  # libzmq closes in the background
        if descriptors() <= before or end.wait(0.01):
            break
    assert descriptors() <= before, (before, descriptors())
    print("what was forgotten is gone", flush=True)
    sys.exit()
