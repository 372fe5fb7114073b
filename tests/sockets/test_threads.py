"""Use in another thread than the reactor's: refused before anything is touched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tests.sockets.support import Pull, Silent, Turns, bind, connect_to
from tests.support import PATIENCE, Loop
from txzmq import (
    WrongThreadError,
    ZmqConnection,
    ZmqFactory,
    ZmqMonitor,
    ZmqPubConnection,
    ZmqPushConnection,
    ZmqREQConnection,
    ZmqSubConnection,
)


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(0, 5)
    pool.start()
    yield pool
    pool.stop()


def in_thread(function: Callable[[], object]) -> BaseException | None:
    """What *function* raises in a thread of its own."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=run, name="stranger")
    thread.start()
    thread.join()
    return raised[0]


class Sockets:
    """One of each, and each use that another thread may try."""

    def __init__(self, factory: ZmqFactory) -> None:
        self.factory = factory
        self.server = Silent(factory, bind("tcp://127.0.0.1:*"))
        self.client = ZmqREQConnection(factory, connect_to(self.server))
        self.pull = Pull(factory, bind("inproc://pull"))
        self.push = ZmqPushConnection(factory)
        self.pub = ZmqPubConnection(factory, bind("inproc://pub"))
        self.sub = ZmqSubConnection(factory)
        self.socket: Any = self.pull.socket
        self.waiting = self.client.sendMsg(b"waits")
        self.waiting.addErrback(lambda _: None)

    def uses(self) -> dict[str, Callable[[], object]]:
        return {
            "a new connection": lambda: Pull(self.factory),
            "a monitor": lambda: ZmqMonitor(self.pull, lambda _: None),
            "send": lambda: self.push.send(b"x"),
            "trySend": lambda: self.push.trySend([b"x"]),
            "push": lambda: self.push.push(b"x"),
            "publish": lambda: self.pub.publish(b"x"),
            "subscribe": lambda: self.sub.subscribe(b""),
            "unsubscribe": lambda: self.sub.unsubscribe(b""),
            "sendMsg": lambda: self.client.sendMsg(b"x"),
            "cancelling a request": self.waiting.cancel,
            "reply": lambda: self.server.reply(self.server.requests[0][0], b"x"),
            "addEndpoints": lambda: self.push.addEndpoints([bind("inproc://other")]),
            "lastEndpoint": self.server.lastEndpoint,
            "scheduleRead": self.pull.scheduleRead,
            "shutdown": self.pull.shutdown,
            "shutdown of a REQ": self.client.shutdown,
            "shutdown of a REP": self.server.shutdown,
            "the raw socket": lambda: self.socket.get(zmq.EVENTS),
            "the raw socket's close": lambda: self.socket.close(),
            "factory.registerForShutdown": self.factory.registerForShutdown,
            "factory.shutdown": self.factory.shutdown,
        }


@pytest.fixture
def factory(loop: Loop) -> Iterator[ZmqFactory]:
    factory = ZmqFactory(loop.reactor)
    yield factory
    factory.shutdown()


def test_p6_every_use_in_another_thread_is_refused(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        sockets = Sockets(factory)
        await loop.until(lambda: sockets.server.requests)
        connections = set(factory.connections)
        await loop.sleep(0)
        calls = loop.reactor.getDelayedCalls()
        for name, use in sockets.uses().items():
            error = in_thread(use)
            assert isinstance(error, WrongThreadError), name
            assert "'stranger' is another: use reactor.callFromThread()" in str(error)
        assert factory.connections == connections
        assert loop.reactor.getDelayedCalls() == calls
        assert factory.trigger is None
        # All of it works still.
        sockets.push.addEndpoints([connect_to(sockets.pull)])
        sockets.push.push(b"x")
        messageId = sockets.server.requests[0][0]
        sockets.server.reply(messageId, b"answer")
        assert await sockets.waiting == [b"answer"]
        await loop.until(lambda: sockets.pull.messages)
        factory.shutdown()

    loop.run(main)


def test_libzmq_is_not_reached(one_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        sockets = Sockets(factory)
        await one_loop.until(lambda: sockets.server.requests)
        reached: list[str] = []
        reactor_thread = threading.get_ident()

        def spy(name: str) -> Callable[..., Any]:
            original = getattr(zmq.Socket, name)

            def method(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() != reactor_thread:
                    reached.append(name)
                return original(*args, **kwargs)

            return method

        with monkeypatch.context() as patch:
            for name in ("__init__", "close", "send", "set", "get", "monitor"):
                patch.setattr(zmq.Socket, name, spy(name))
            for use in sockets.uses().values():
                assert isinstance(in_thread(use), WrongThreadError)
        assert reached == []
        factory.shutdown()

    one_loop.run(main)


def test_the_reactors_own_way_for_threads_works(one_loop: Loop, pool: ThreadPool) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        pull = Pull(factory, bind("inproc://pull"))
        push = ZmqPushConnection(factory, connect_to(pull))
        await deferToThreadPool(
            one_loop.reactor, pool, one_loop.reactor.callFromThread, push.push, b"x"
        )
        await one_loop.until(lambda: pull.messages)
        factory.shutdown()

    one_loop.run(main)


def test_a_reactor_in_a_thread_of_its_own(loop: Loop) -> None:
    """As with crochet: made in the main thread before, shut down there after."""
    factory = ZmqFactory(loop.reactor)
    received = threading.Event()

    class Telling(Pull):
        def onPull(self, message: list[bytes]) -> None:
            received.set()

    pull = Telling(factory, bind("inproc://pull"))
    ZmqPushConnection(factory, connect_to(pull)).push(b"before")
    with loop.in_thread() as thread:
        assert received.wait(PATIENCE)
        with pytest.raises(WrongThreadError, match="'MainThread' is another"):
            pull.lastEndpoint()
        loop.reactor.callFromThread(loop.reactor.stop)
        thread.join(PATIENCE)
        assert pull.lastEndpoint() == "inproc://pull"
        factory.shutdown()


def test_a_stopped_reactors_thread_keeps_its_sockets(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        Pull(factory).shutdown()

    one_loop.run(main)
    assert isinstance(in_thread(factory.shutdown), WrongThreadError)
    factory.shutdown()


def test_any_thread_may_use_what_no_reactor_runs(turns: Turns) -> None:
    made: list[ZmqConnection] = []
    assert in_thread(lambda: made.append(Pull(turns.factory, bind("inproc://pull")))) is None
    made[0].shutdown()


def test_a_factory_that_is_not_used_installs_no_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    def installs() -> None:
        raise AssertionError("installs the reactor")

    monkeypatch.setattr("txzmq.factory.default_reactor", installs)
    monkeypatch.setattr("twisted.python.threadable.ioThread", None)
    ZmqFactory().shutdown()
