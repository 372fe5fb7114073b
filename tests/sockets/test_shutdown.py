"""The end: from anywhere, twice, and without making the reactor wait."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.sockets.support import (
    Dealer,
    Echo,
    Pull,
    Silent,
    Turns,
    bind,
    connect,
    connect_to,
    raw_socket,
)
from tests.support import Logged, Loop
from txzmq import (
    ZmqConnection,
    ZmqFactory,
    ZmqMonitor,
    ZmqPubConnection,
    ZmqPushConnection,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqSubConnection,
)

#: Seconds that no shutdown with a linger of 0.1 s takes, however slow the machine. One that waits
#: takes for ever.
PROMPTLY = 2.0


@pytest.mark.parametrize(
    "cls", [Pull, Dealer, ZmqPubConnection, ZmqSubConnection, ZmqREPConnection, ZmqREQConnection]
)
def test_shutdown_twice_is_as_once(turns: Turns, cls: type[ZmqConnection]) -> None:
    connection = cls(turns.factory, bind("inproc://here"))
    ZmqConnection.shutdown(connection)
    for _ in range(2):
        connection.shutdown()
        assert connection.factory is None
        assert connection.socket is None
        assert not turns.factory.connections
        assert not turns.reactor.getReaders()
        assert not turns.scheduled()
    connection.doRead()
    connection.scheduleRead()
    assert not turns.scheduled()


@pytest.mark.parametrize("how", ["shutdown", "socket.close", "factory"])
def test_an_override_of_shutdown_is_called_once(turns: Turns, how: str) -> None:
    """It may do what can be done only once, such as cancelling a timer."""

    class Ticking(Pull):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.timer = turns.reactor.callLater(60, print)

        def shutdown(self) -> None:
            self.timer.cancel()
            super().shutdown()

    pull = Ticking(turns.factory, bind("inproc://here"))
    socket = pull.socket
    assert socket is not None
    if how == "shutdown":
        pull.shutdown()
    elif how == "socket.close":
        socket.close()
    else:
        turns.factory.shutdown()
    assert pull.factory is None
    assert socket.closed
    assert not turns.scheduled()


@pytest.mark.parametrize("what", ["connection", "factory"])
@pytest.mark.parametrize("times", [1, 2])
def test_shutdown_in_the_callback_of_a_message_in_a_burst(
    loop: Loop, factory: ZmqFactory, what: str, times: int
) -> None:
    class Fuse(Pull):
        def onPull(self, message: list[bytes]) -> None:
            super().onPull(message)
            if message == [b"500"]:
                for _ in range(times):
                    (self if what == "connection" else factory).shutdown()

    async def main() -> None:
        pull = Fuse(factory, bind("inproc://pull"))
        push = ZmqPushConnection(factory, connect("inproc://pull"))
        for i in range(1000):
            push.push(b"%d" % i)
        await loop.until(lambda: pull.factory is None)
        await loop.sleep(0)
        assert pull.messages == [[b"%d" % i] for i in range(501)], "no message after shutdown"
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize("hook", ["drained", "readyToSend"])
def test_shutdown_in_a_hook(turns: Turns, hook: str) -> None:
    dealer = Dealer(turns.factory, bind("inproc://dealer"))
    calls: list[str] = []

    def called(name: str) -> None:
        calls.append(name)
        if name == hook:
            dealer.shutdown()

    setattr(dealer, "readyToSend", lambda: called("readyToSend"))
    setattr(dealer, "drained", lambda: called("drained"))
    with pytest.raises(zmq.Again):
        dealer.sendMsg(b"nobody is there")
    turns.raw(zmq.DEALER, "inproc://dealer")
    dealer.doRead()
    turns.settle()
    assert calls == (["readyToSend"] if hook == "readyToSend" else ["readyToSend", "drained"])


def test_shutdown_in_the_callback_of_a_reply(loop: Loop, factory: ZmqFactory, address: str) -> None:
    async def main() -> None:
        server = Echo(factory, bind(address))
        client = ZmqREQConnection(factory, connect_to(server))
        answered: list[Any] = []

        def done(parts: list[bytes]) -> None:
            answered.append(parts)
            factory.shutdown()

        for i in range(100):
            client.sendMsg(b"%d" % i).addCallback(done).addErrback(lambda _: None)
        await loop.until(lambda: answered)
        await loop.sleep(0)
        assert len(answered) == 1

    loop.run(main)


def test_shutdown_in_a_callback_of_another_connection(loop: Loop, factory: ZmqFactory) -> None:
    """The reactor may have found both readable in one turn."""

    async def main() -> None:
        connections: list[Any] = []

        class Rival(Pull):
            def onPull(self, message: list[bytes]) -> None:
                for other in connections:
                    if other is not self:
                        other.shutdown()
                super().onPull(message)

        connections += [Rival(factory, bind(f"inproc://{i}")) for i in range(5)]
        await loop.sleep(0.01)
        pushes = [ZmqPushConnection(factory, connect(f"inproc://{i}")) for i in range(5)]
        for push in pushes:
            push.push(b"x")
        await loop.until(lambda: any(connection.messages for connection in connections))
        await loop.sleep(0.01)
        assert sum(len(connection.messages) for connection in connections) == 1
        factory.shutdown()

    loop.run(main)


# -- no waiting --------------------------------------------------------------------------------


def unsent(factory: ZmqFactory) -> object:
    push = ZmqPushConnection(factory, connect("tcp://127.0.0.1:1"))  # nobody listens there
    push.push(b"x" * 100_000)
    return push


def left_open(factory: ZmqFactory) -> object:
    socket = raw_socket(factory.context, zmq.PUSH, "tcp://127.0.0.1:1")
    socket.send(b"x")
    return socket


def left_open_unknown_to_the_context(factory: ZmqFactory) -> object:
    socket = zmq.Socket(factory.context, zmq.PULL)
    socket.bind("inproc://left")
    return socket


def closed_to_linger_for_ever(factory: ZmqFactory) -> object:
    with raw_socket(factory.context, zmq.PUSH, "tcp://127.0.0.1:1", LINGER=-1) as socket:
        socket.send(b"x")
    return socket


def monitors(factory: ZmqFactory) -> object:
    rep = Silent(factory, bind("tcp://127.0.0.1:*"))
    req = ZmqREQConnection(factory, connect_to(rep))
    ZmqMonitor(req, lambda _: None)
    req.sendMsg(b"x").addErrback(lambda _: None)
    own = Pull(factory, bind("tcp://127.0.0.1:*"))
    assert own.socket is not None
    return own.socket.get_monitor_socket()


@pytest.mark.parametrize(
    ("leave", "warns"),
    [
        (unsent, False),
        (left_open, False),
        (left_open_unknown_to_the_context, True),
        (closed_to_linger_for_ever, True),
        (monitors, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_factory_shutdown_takes_no_longer_than_the_linger(
    loop: Loop,
    factory: ZmqFactory,
    logged: Logged,
    leave: Callable[[ZmqFactory], Any],
    warns: bool,
) -> None:
    """In txZMQ a socket that is left open, or a monitor, makes it wait for ever."""

    async def main() -> object:
        left = leave(factory)
        await loop.sleep(0.01)
        begin = time.monotonic()
        factory.shutdown()
        factory.shutdown()
        assert time.monotonic() - begin < PROMPTLY
        assert factory.context.closed is not warns
        return left

    left = loop.run(main)
    assert len(logged.warnings()) == warns
    if leave is left_open_unknown_to_the_context:
        assert isinstance(left, zmq.Socket)
        left.close()


def test_unsent_messages_go_out_within_the_linger(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        other = ZmqFactory(loop.reactor)
        pull = Pull(other, bind("tcp://127.0.0.1:*"))
        factory.lingerPeriod = 10_000
        push = ZmqPushConnection(factory, connect_to(pull))
        for i in range(1000):
            push.push(b"%d" % i)
        factory.shutdown()  # without a turn of the reactor
        await loop.until(lambda: len(pull.messages) == 1000)
        other.shutdown()

    loop.run(main)


# -- nothing is left ---------------------------------------------------------------------------


def test_a_callback_of_shutdown_cannot_make_connections(turns: Turns) -> None:
    """Such as one that connects again when a request fails: it would be left in the reactor."""
    errors: list[int | None] = []

    def again(_: object) -> None:
        try:
            ZmqREQConnection(turns.factory)
        except zmq.ZMQError as error:
            errors.append(error.errno)

    client = ZmqREQConnection(turns.factory, bind("inproc://client"))
    server = turns.raw(zmq.DEALER, "inproc://client")
    client.sendMsg(b"x").addErrback(again)
    turns.factory.shutdown()
    assert errors == [zmq.ETERM]
    assert server.closed
    again(None)
    assert len(errors) == 2


def test_a_callback_of_shutdown_that_fails_does_not_keep_the_others(
    turns: Turns, logged: Logged
) -> None:
    called: list[str] = []

    def fail() -> None:
        called.append("first")
        raise KeyError("first")

    turns.factory.callWhenClosed(fail)
    turns.factory.callWhenClosed(lambda: called.append("second"))
    pull = Pull(turns.factory, bind("inproc://pull"))
    turns.factory.shutdown()
    assert called == ["first", "second"]
    assert pull.socket is None
    assert [type(error) for error in logged.failures()] == [KeyError]


def test_a_factory_that_registers_twice_is_shut_down_once(turns: Turns) -> None:
    turns.factory.registerForShutdown()
    trigger = turns.factory.trigger
    turns.factory.registerForShutdown()
    assert turns.factory.trigger is trigger
    turns.factory.shutdown()
    assert turns.factory.trigger is None


def test_a_connection_that_fails_to_shut_down_does_not_keep_the_others(
    turns: Turns, logged: Logged
) -> None:
    class Failing(Pull):
        def shutdown(self) -> None:
            super().shutdown()
            raise ZeroDivisionError

    for i in range(5):
        (Failing if i % 2 else Pull)(turns.factory, bind(f"inproc://{i}"))
    turns.factory.shutdown()
    assert not turns.factory.connections
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("cls", [Pull, Dealer, ZmqREPConnection, ZmqREQConnection])
def test_closed_connections_are_collected(turns: Turns, cls: type[ZmqConnection]) -> None:
    connection = cls(turns.factory, bind("inproc://here"))
    turns.settle()
    gone = weakref.ref(connection)
    connection.shutdown()
    del connection
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("how", ["socket.close", "context.destroy"])
def test_a_connection_shuts_down_when_somebody_closes_its_socket(
    loop: Loop, factory: ZmqFactory, how: str
) -> None:
    """Its descriptor is another's at once; the reactor must not take one for the other."""

    async def main() -> None:
        server = Silent(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(server))
        failed: list[object] = []
        client.sendMsg(b"x").addErrback(failed.append)
        await loop.sleep(0.01)
        if how == "context.destroy":
            factory.context.destroy(linger=0)
        else:
            for connection in (server, client):
                assert connection.socket is not None
                connection.socket.close(linger=0)
        assert not factory.connections
        assert server.factory is None
        assert len(failed) == 1
        other = ZmqFactory(loop.reactor)
        pull = Pull(other, bind("inproc://other"))
        factory.shutdown()
        push = ZmqPushConnection(other, connect("inproc://other"))
        push.push(b"x")
        await loop.until(lambda: pull.messages)
        other.shutdown()

    loop.run(main)


def test_a_process_that_starts_no_more_threads(
    one_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 says so while it ends, in what is called at exit."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    factory = ZmqFactory(one_loop.reactor)
    ZmqPubConnection(factory, bind("tcp://127.0.0.1:*"))
    monkeypatch.setattr(threading.Thread, "start", start)
    factory.shutdown()
    assert factory.context.closed
