"""A program that forks while it has sockets: what the child may do, and how the parent fares.

``python -m tests.sockets.forking WHEN HOW``; WHEN is ``before`` the reactor runs or ``running``,
HOW is ``fork`` (whose child ends as any program) or ``multiprocessing`` (whose child is cut off).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from tests.sockets.support import Echo, Pull, bind, connect_to
from tests.sockets.test_threads import Sockets
from tests.support import Loop
from txzmq import ForkedError, ZmqFactory, ZmqREQConnection

# That libzmq has threads is the point of this.
warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)


def fork(function: Callable[[], None]) -> None:
    """Run *function* in a child; outside of the reactor, it ends by way of all finalizers."""
    child = os.fork()
    if not child:
        try:
            function()
        except BaseException:  # noqa: BLE001 - the reactor of the parent would log it and go on
            traceback.print_exc()
            os._exit(1)
        if isinstance(function, InChild) and function.in_reactor:
            os._exit(0)
        sys.exit()
    status = os.waitpid(child, 0)[1]
    assert status == 0, status


def fork_by_multiprocessing(function: Callable[[], None]) -> None:
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode


FORKS = {"fork": fork, "multiprocessing": fork_by_multiprocessing}


class InChild:
    """What the child does: try everything, forget it, and go on with a factory of its own."""

    def __init__(self, sockets: Sockets, unused: ZmqFactory, *, in_reactor: bool) -> None:
        self.in_reactor = in_reactor
        self.sockets = sockets
        self.unused = unused

    def __call__(self) -> None:
        for name, use in self.sockets.uses().items():
            if name == "scheduleRead" or (name == "reply" and not self.sockets.server.requests):
                continue  # there is nothing to do, and nothing is done
            with pytest.raises(ForkedError, match="make a ZmqFactory"):
                use()
        self.sockets.pull.doRead()  # as a reactor does that goes on in the child
        self.sockets.server.connectionLost(None)  # type: ignore[arg-type]  # unused
        del self.sockets
        gc.collect()
        for factory in (ZmqFactory(), self.unused):
            loop = Loop(EPollReactor)
            factory.reactor = loop.reactor
            loop.run(lambda factory=factory: self.use(factory))  # type: ignore[misc]  # B023's cure
            loop.close()
        print("child done", flush=True)

    async def use(self, factory: ZmqFactory) -> None:
        server = Echo(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(server))
        assert await client.sendMsg(b"of the child") == [b"of the child"]
        factory.shutdown()


def main(when: str, how: str) -> None:
    loop = Loop(EPollReactor)
    factory, unused = ZmqFactory(loop.reactor), ZmqFactory(loop.reactor)
    do_fork = FORKS[how]
    before: list[Sockets] = []
    if when == "before":
        in_child = InChild(Sockets(factory), unused, in_reactor=False)
        factory.registerForShutdown()
        do_fork(in_child)
        before.append(in_child.sockets)

    async def running() -> None:
        mine = before[0] if before else Sockets(factory)
        echo = Echo(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(echo))
        await loop.until(lambda: mine.server.requests)
        under_way: list[Deferred[list[bytes]]] = []
        for i in range(1000):
            under_way.append(client.sendMsg(b"%d" % i))
            if i == 500 and when == "running":
                do_fork(InChild(mine, unused, in_reactor=True))
        assert [await deferred for deferred in under_way] == [[b"%d" % i] for i in range(1000)]
        pull: Any = Pull(factory, bind("inproc://after"))
        mine.push.addEndpoints([connect_to(pull)])
        mine.push.push(b"x")
        await loop.until(lambda: pull.messages)
        factory.shutdown()
        unused.shutdown()

    loop.run(running)
    loop.close()
    print("parent done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
