"""The reader: no message is missed, nobody starves, nothing ends it, and it rests when idle."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq
from twisted.internet.interfaces import IFileDescriptor, ILoggingContext, IReadDescriptor
from zope.interface.verify import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    verifyObject,  # pyright: ignore[reportUnknownVariableType]
)

from tests.sockets.support import (
    Dealer,
    Echo,
    Pull,
    Sub,
    Turns,
    address_of,
    bind,
    connect,
    connect_to,
    count_reads,
    events_of,
    has_message,
    raw_socket,
)
from tests.support import Logged, Loop
from txzmq import (
    ZmqConnection,
    ZmqFactory,
    ZmqMonitor,
    ZmqPubConnection,
    ZmqPullConnection,
    ZmqPushConnection,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqRouterConnection,
    ZmqXPubConnection,
)

Raw = Callable[..., zmq.Socket[bytes]]
PullT = TypeVar("PullT", bound=Pull)


# -- the lost edge -----------------------------------------------------------------------------


def touch_by_recv(dealer: Any) -> None:
    dealer.messages.append(tuple(dealer.socket.recv_multipart(zmq.NOBLOCK)))


def touch_by_recv_into(dealer: Any) -> None:
    buffer = bytearray(7)
    dealer.socket.recv_into(buffer, flags=zmq.NOBLOCK)
    dealer.messages.append((bytes(buffer),))


def touch_by_disconnect(dealer: Any) -> None:
    dealer.socket.connect("inproc://elsewhere")
    events_of(dealer.socket)
    dealer.socket.disconnect("inproc://elsewhere")


def touch_by_get_monitor_socket(dealer: Any) -> None:
    monitor = dealer.socket.get_monitor_socket()
    dealer.socket.disable_monitor()
    monitor.close()


def touch_by_unbind(dealer: Any) -> None:
    dealer.socket.bind("inproc://elsewhere")
    events_of(dealer.socket)
    dealer.socket.unbind("inproc://elsewhere")


TOUCHES: dict[str, Callable[[Any], object]] = {
    "send": lambda dealer: dealer.send(b"x"),
    "send parts": lambda dealer: dealer.send([b"x", b"y"]),
    "trySend": lambda dealer: dealer.trySend([b"x"]),
    "addEndpoints": lambda dealer: dealer.addEndpoints([connect("inproc://elsewhere")]),
    "socket.send": lambda dealer: dealer.socket.send(b"x"),
    "socket.send_multipart": lambda dealer: dealer.socket.send_multipart([b"x", b"y"]),
    "socket.recv": touch_by_recv,
    "socket.recv_into": touch_by_recv_into,
    "socket.get": lambda dealer: dealer.socket.get(zmq.EVENTS),
    "socket.getsockopt": lambda dealer: dealer.socket.getsockopt(zmq.EVENTS),
    "socket.events": lambda dealer: dealer.socket.EVENTS,
    "socket.set": lambda dealer: dealer.socket.set(zmq.LINGER, 0),
    "socket.setsockopt": lambda dealer: dealer.socket.setsockopt(zmq.LINGER, 0),
    "socket.linger": lambda dealer: setattr(dealer.socket, "linger", 0),
    "socket.bind": lambda dealer: dealer.socket.bind("inproc://elsewhere"),
    "socket.connect": lambda dealer: dealer.socket.connect("inproc://elsewhere"),
    "socket.disconnect": touch_by_disconnect,
    "socket.unbind": touch_by_unbind,
    "socket.poll": lambda dealer: dealer.socket.poll(0),
    "a monitor": lambda dealer: ZmqMonitor(dealer, lambda _: None),
    "socket.get_monitor_socket": touch_by_get_monitor_socket,
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_a_message_arrives_whose_signal_a_touch_consumed(
    loop: Loop, factory: ZmqFactory, touch: Callable[[Any], object]
) -> None:
    async def main() -> None:
        dealer = Dealer(factory, bind("inproc://dealer"))
        other = raw_socket(factory.context, zmq.DEALER, "inproc://dealer")
        await loop.sleep(0)  # past the reading that each connection begins with
        await loop.sleep(0)
        for i in range(3):
            other.send(b"message")
            assert has_message(dealer.socket), i
        touch(dealer)
        await loop.until(lambda: len(dealer.messages) == 3)
        assert dealer.messages == [(b"message",)] * 3
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize("name", ["subscribe", "unsubscribe", "socket.subscribe"])
def test_a_message_arrives_whose_signal_a_subscription_consumed(
    loop: Loop, factory: ZmqFactory, name: str
) -> None:
    async def main() -> None:
        subscriber: Any = Sub(factory, bind("inproc://sub"))
        subscriber.subscribe("a")
        publisher = raw_socket(factory.context, zmq.PUB, "inproc://sub")
        await loop.until(lambda: not subscriber._nextTurn.is_due)
        publisher.send(b"a\0message")
        assert has_message(subscriber.socket)
        method = subscriber.socket.subscribe if "." in name else getattr(subscriber, name)
        method(b"b")
        await loop.until(lambda: subscriber.messages)
        factory.shutdown()

    loop.run(main)


def test_a_message_arrives_that_came_while_a_blocked_connection_looked_for_room(
    turns: Turns,
) -> None:
    """Asking a DEALER for room consumes the signal of a message too."""

    class Late(Dealer):
        highWaterMark = 1

        def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
            try:
                return super()._receive(socket)
            except zmq.Again:
                if not self.messages:
                    other.send(b"now")  # after recv has said EAGAIN, before get(EVENTS)
                raise

    dealer = Late(turns.factory, bind("inproc://dealer"))
    other = turns.raw(zmq.DEALER, "inproc://dealer", RCVHWM=1)
    for _ in range(2):  # as many as fit
        dealer.send(b"x")
    with pytest.raises(zmq.Again):
        dealer.send(b"x")
    dealer.doRead()  # a scheduled read asks for the events first
    turns.settle()
    assert dealer.messages == [(b"now",)]


# -- the end of a turn -------------------------------------------------------------------------


def test_a_turn_ends_after_the_first_message_and_after_the_last(turns: Turns) -> None:
    """What answers a lone message need not wait; what answers many goes together."""
    happened: list[bytes] = []

    class Answering(Dealer):
        def messageReceived(self, message: list[bytes]) -> None:
            happened.append(message[0])
            self.scheduleTurnEnd()

        def turnEnded(self) -> None:
            happened.append(b"end")
            if happened.count(b"end") == 1:
                self.send(b"answer")
                other.send(b"after the answer")

    dealer = Answering(turns.factory, bind("inproc://dealer"))
    other = turns.raw(zmq.DEALER, "inproc://dealer")
    turns.settle()
    for number in range(3):
        other.send(b"%d" % number)
    turns.settle()
    assert not happened
    dealer.doRead()
    turns.settle()
    assert happened == [b"0", b"end", b"1", b"2", b"after the answer", b"end"]
    assert not events_of(dealer.socket) & zmq.POLLIN


def test_a_turn_that_ends_badly_ends_no_reading(turns: Turns, logged: Logged) -> None:
    class Failing(Dealer):
        readTimeBudget = 60.0  # to log the first failure may take longer than the usual one

        def messageReceived(self, message: list[bytes]) -> None:
            super().messageReceived(message)
            self.scheduleTurnEnd()

        def turnEnded(self) -> None:
            raise RuntimeError("boom")

    dealer = Failing(turns.factory, bind("inproc://dealer"))
    other = turns.raw(zmq.DEALER, "inproc://dealer")
    turns.settle()
    other.send(b"1")
    other.send(b"2")
    dealer.doRead()
    assert dealer.messages == [(b"1",), (b"2",)]
    assert [str(error) for error in logged.failures()] == ["boom", "boom"]


# -- a busy socket -----------------------------------------------------------------------------


def flooded(turns: Turns, cls: type[PullT], count: int = 1000) -> PullT:
    """A PULL connection for which *count* messages wait."""
    pull = cls(turns.factory, bind("inproc://pull"))
    turns.settle()
    with turns.raw(zmq.PUSH, "inproc://pull", SNDHWM=0) as push:
        for i in range(count):
            push.send(b"%d" % i)
    return pull


def test_one_turn_reads_no_more_than_the_budget_of_messages(turns: Turns) -> None:
    class Modest(Pull):
        readMessageBudget = 10
        readTimeBudget = 1e9

    pull = flooded(turns, Modest)
    pull.doRead()
    for turn in range(1, 101):
        assert len(pull.messages) == 10 * turn
        turns.turn()
    turns.turn()
    assert not turns.scheduled()
    assert pull.messages == [[b"%d" % i] for i in range(1000)]


def test_one_turn_takes_no_more_than_the_budget_of_time(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("txzmq.connection.time.monotonic", lambda: now[0])

    class Slow(Pull):
        readMessageBudget = 1_000_000
        readTimeBudget = 0.01

        def onPull(self, message: list[bytes]) -> None:
            super().onPull(message)
            now[0] += 0.004

    pull = flooded(turns, Slow)
    pull.doRead()
    assert len(pull.messages) == 3
    turns.turn()
    assert len(pull.messages) == 6
    turns.settle()
    assert len(pull.messages) == 1000


def test_l1_a_flood_lets_timers_and_other_sockets_have_their_turns(
    loop: Loop, factory: ZmqFactory
) -> None:
    class Modest(Pull):
        readMessageBudget = 50
        readTimeBudget = 1e9

    async def main() -> None:
        busy = Modest(factory, bind("inproc://busy"))
        quiet = Pull(factory, bind("inproc://quiet"))
        flood = raw_socket(factory.context, zmq.PUSH, "inproc://busy", SNDHWM=0)
        one = ZmqPushConnection(factory, connect("inproc://quiet"))
        for _ in range(10_000):
            flood.send(b"x")
        one.push(b"!")
        ticks = 0
        quiet_came_after = -1
        while len(busy.messages) < 10_000:
            await loop.sleep(0)
            ticks += 1
            if quiet.messages and quiet_came_after < 0:
                quiet_came_after = len(busy.messages)
        assert ticks >= 10_000 / 50 - 1
        assert 0 <= quiet_came_after <= 500
        factory.shutdown()

    loop.run(main)


# -- exceptions --------------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("an error in __str__")

    __repr__ = __str__


class UnprintablePull(Pull):
    def __repr__(self) -> str:
        raise RuntimeError("an error in __repr__")


@pytest.mark.parametrize("cls", [Pull, UnprintablePull])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit, Unprintable]
)
def test_an_exception_in_a_callback_is_logged_and_reading_goes_on(
    loop: Loop, factory: ZmqFactory, logged: Logged, error: type[BaseException], cls: type[Pull]
) -> None:
    async def main() -> None:
        pull: Any = cls(factory, bind("inproc://pull"))
        seen: list[bytes] = []

        def onPull(message: list[bytes]) -> None:
            seen.append(message[0])
            if message == [b"bad"]:
                raise error

        pull.onPull = onPull
        push = raw_socket(factory.context, zmq.PUSH, "inproc://pull")
        for data in (b"1", b"bad", b"2"):
            push.send(data)
        await loop.until(lambda: len(seen) == 3)
        push.send(b"3")  # the reactor still calls the reader
        await loop.until(lambda: len(seen) == 4)
        assert [type(failure) for failure in logged.failures()] == [error]
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("hook", ["drained", "readyToSend"])
def test_an_exception_in_a_hook_is_logged_and_reading_goes_on(
    turns: Turns, logged: Logged, error: type[BaseException], hook: str
) -> None:
    push: Any = ZmqPushConnection(turns.factory, bind("inproc://push"))
    turns.settle()
    with pytest.raises(zmq.Again):
        push.push(b"nobody is there")

    def fail() -> None:
        raise error

    # What a user assigns may have no name.
    setattr(push, hook, functools.partial(fail))
    pull = turns.raw(zmq.PULL, "inproc://push")
    push.doRead()
    turns.settle()
    assert error in [type(failure) for failure in logged.failures()]
    push.push(b"works")
    assert pull.recv() == b"works"
    delattr(push, hook)
    turns.settle()


@pytest.mark.parametrize("error", [zmq.ZMQError(zmq.EFSM), zmq.ZMQError(zmq.EINVAL), MemoryError()])
def test_a_failing_recv_leaves_the_reader_alive_and_at_rest(
    turns: Turns, logged: Logged, error: Exception
) -> None:
    class Failing(Pull):
        failures = 3

        def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
            if self.failures:
                self.failures -= 1
                raise error
            return super()._receive(socket)

    pull = flooded(turns, Failing, 0)
    turns.settle()
    pull.doRead()  # the first one: nothing waits, so it is not tried again
    assert pull.failures == 2
    assert not turns.scheduled()
    push = turns.raw(zmq.PUSH, "inproc://pull")
    push.send(b"message")
    pull.doRead()
    turns.settle()
    assert pull.failures == 1
    if getattr(error, "errno", 0) == zmq.EFSM:
        pull.doRead()  # until the socket has been sent with, say: no use trying by itself
        pull.doRead()
    else:
        assert turns.scheduled(), "it is tried again, but not at once"
        turns.reactor.pump([1, 1])
    assert pull.messages == [[b"message"]]
    assert all(failure is error for failure in logged.failures())


def test_an_exception_in_shutdown_does_not_come_out_of_the_reader(
    turns: Turns, logged: Logged
) -> None:
    class Gone(Pull):
        def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
            raise zmq.ZMQError(zmq.ETERM)

        def shutdown(self) -> None:
            super().shutdown()
            raise ZeroDivisionError

    pull = Gone(turns.factory, bind("inproc://pull"))
    pull.doRead()
    assert not turns.factory.connections
    assert [type(failure) for failure in logged.failures()] == [ZeroDivisionError]


@pytest.mark.parametrize("errno", [zmq.ETERM, zmq.ENOTSOCK])
def test_a_connection_whose_socket_is_gone_shuts_down(turns: Turns, errno: int) -> None:
    class Gone(Pull):
        def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
            raise zmq.ZMQError(errno)

    pull = Gone(turns.factory, bind("inproc://pull"))
    pull.doRead()
    assert pull.factory is None
    assert not turns.factory.connections


def test_connections_shut_down_when_somebody_ends_the_context(
    loop: Loop, factory: ZmqFactory
) -> None:
    async def main() -> None:
        Echo(factory, bind("tcp://127.0.0.1:*"))
        Pull(factory, bind("inproc://pull"))
        ZmqPushConnection(factory, connect("inproc://pull"))
        await loop.sleep(0.01)
        ending = threading.Thread(target=factory.context.term)
        ending.start()
        await loop.until(lambda: not factory.connections)
        await loop.until(lambda: not ending.is_alive())
        ending.join()
        factory.shutdown()

    loop.run(main)


# -- before the subclass is ready --------------------------------------------------------------


def test_no_callback_comes_before_the_constructor_has_returned(
    loop: Loop, factory: ZmqFactory
) -> None:
    class Early(ZmqPullConnection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.messages: list[list[bytes]] = []

        def onPull(self, message: list[bytes]) -> None:
            self.messages.append(message)  # an AttributeError in txZMQ

    async def main() -> None:
        push = raw_socket(factory.context, zmq.PUSH, "inproc://pull")  # before it is bound
        push.send(b"was there first")
        pull = Early(factory, bind("inproc://pull"))
        assert not pull.messages
        await loop.until(lambda: pull.messages)
        factory.shutdown()

    loop.run(main)


# -- at rest -----------------------------------------------------------------------------------


class RawRep(ZmqConnection):
    """A REP socket that has not answered cannot receive: EFSM."""

    socketType = zmq.REP

    def messageReceived(self, message: list[bytes]) -> None:
        pass


async def nothing_to_do(loop: Loop, *connections: ZmqConnection) -> None:
    """Check that *connections* read no more than once in a while when nothing happens."""
    await loop.sleep(0.05)
    counters = [count_reads(connection) for connection in connections]
    await loop.sleep(0.1)
    for connection, (count,) in zip(connections, counters, strict=True):
        assert count <= 5, connection  # spinning would be thousands


@pytest.mark.parametrize("transport", ["tcp", "inproc"])
def test_idle_connections_do_not_spin_after_traffic(
    loop: Loop, factory: ZmqFactory, transport: str
) -> None:
    def at(name: str) -> str:
        return "tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://{name}"

    async def main() -> None:
        rep = Echo(factory, bind(at("rep")))
        req = ZmqREQConnection(factory, connect_to(rep))
        pull = Pull(factory, bind(at("pull")))
        push = ZmqPushConnection(factory, connect_to(pull))
        publisher = ZmqPubConnection(factory, bind(at("pub")))
        xpublisher = ZmqXPubConnection(factory, bind(at("xpub")))
        subscriber = Sub(factory, connect_to(publisher))
        subscriber.addEndpoints([connect_to(xpublisher)])
        subscriber.subscribe("")
        for i in range(100):
            push.push(b"x")
            assert await req.sendMsg(b"%d" % i) == [b"%d" % i]
        while {data for data, _ in subscriber.messages} != {b"pub", b"xpub"}:
            publisher.publish(b"pub")
            xpublisher.publish(b"xpub")
            await loop.sleep(0.001)
        connections = list(factory.connections)
        assert len(connections) == 7
        await nothing_to_do(loop, *connections)
        factory.shutdown()

    loop.run(main)


def test_a_socket_in_the_wrong_state_does_not_spin(
    loop: Loop, factory: ZmqFactory, raw: Raw
) -> None:
    async def main() -> None:
        rep = RawRep(factory, bind("tcp://127.0.0.1:*"))
        for _ in range(3):
            raw(zmq.REQ, address_of(rep)).send(b"request")
            await loop.sleep(0.02)
        await nothing_to_do(loop, rep)
        factory.shutdown()

    loop.run(main)


def test_a_socket_that_cannot_receive_does_not_spin(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        push = ZmqPushConnection(factory, bind("tcp://127.0.0.1:*"))
        pull = Pull(factory, connect_to(push))
        await loop.sleep(0.02)
        push.push(b"x")
        await loop.until(lambda: pull.messages)
        pull.shutdown()
        await nothing_to_do(loop, push)
        assert push.socket is not None
        socket = push.socket
        await loop.until(lambda: not socket.poll(0, zmq.POLLOUT))  # the peer's end is seen
        with pytest.raises(zmq.Again):
            push.push(b"nobody is there")
        await nothing_to_do(loop, push)
        factory.shutdown()

    loop.run(main)


# -- Twisted's interfaces ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [ZmqPubConnection, Pull, ZmqREPConnection, ZmqREQConnection, ZmqRouterConnection]
)
def test_connections_provide_twisteds_interfaces(turns: Turns, cls: type[ZmqConnection]) -> None:
    connection = cls(turns.factory)
    for interface in (IReadDescriptor, IFileDescriptor, ILoggingContext):
        assert verifyObject(interface, connection)
    assert connection.logPrefix() == "ZMQ"
    assert connection.fileno() == connection.fd >= 0
    connection.shutdown()
    assert connection.fileno() == -1


def test_connection_lost_leaves_the_reactor(turns: Turns) -> None:
    pull: Any = Pull(turns.factory, bind("inproc://pull"))
    assert pull in turns.reactor.getReaders()
    pull.connectionLost(None)
    assert pull not in turns.reactor.getReaders()
    pull.shutdown()
    pull.connectionLost(None)


def test_reading_within_a_callback_is_left_to_the_reader(turns: Turns, tmp_path: Path) -> None:
    class Greedy(Pull):
        depth = 0

        def onPull(self, message: list[bytes]) -> None:
            self.depth += 1
            assert self.depth == 1
            self.doRead()
            self.scheduleRead()
            super().onPull(message)
            self.depth -= 1

    pull = flooded(turns, Greedy, 100)
    pull.doRead()
    turns.settle()
    assert len(pull.messages) == 100
