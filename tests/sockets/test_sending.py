"""Sending: whole or not at all, never waiting, and going on when there is room again."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.programs import PATIENCE, ROOT
from tests.sockets.support import (
    Dealer,
    Pull,
    Turns,
    address_of,
    bind,
    connect,
    connect_to,
    count_reads,
    has_message,
    raw_socket,
)
from tests.support import Loop
from txzmq import (
    ZmqConnection,
    ZmqDealerConnection,
    ZmqFactory,
    ZmqPushConnection,
    ZmqREQConnection,
    ZmqXPubConnection,
)
from txzmq._backend import SHARES_MEMORY
from txzmq.connection import SendResult

Raw = Callable[..., zmq.Socket[bytes]]


class Queueing(ZmqConnection):
    """Sends what it can, and the rest when there is room."""

    highWaterMark = 1

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue: deque[list[bytes]] = deque()
        self.attempts = 0

    def enqueue(self, message: list[bytes]) -> None:
        self.queue.append(message)
        self.readyToSend()

    def readyToSend(self) -> None:
        self.attempts += 1
        while self.queue:
            try:
                self.send(self.queue[0])
            except zmq.Again:
                return
            self.queue.popleft()

    def messageReceived(self, message: list[bytes]) -> None:
        pass


class QueueingPush(Queueing):
    socketType = zmq.PUSH


class QueueingDealer(Queueing):
    socketType = zmq.DEALER


class QueueingRouter(Queueing):
    socketType = zmq.ROUTER
    socketOptions = {"ROUTER_MANDATORY": 1}  # noqa: RUF012 - an option as users write it


class SmallPull(Pull):
    highWaterMark = 1


class SmallDealer(Dealer):
    highWaterMark = 1


def fill(connection: ZmqConnection, message: list[bytes]) -> int:
    """Send *message* until the high-water mark; how often that worked."""
    for sent in range(100):
        try:
            connection.send(message)
        except zmq.Again:
            return sent
    raise AssertionError("no high-water mark")


# -- all or nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [3, None, object()])
def test_nothing_of_a_message_is_sent_that_has_a_bad_part(turns: Turns, bad: Any) -> None:
    """In txZMQ the parts before it are, and the next message is taken for the rest."""
    push = ZmqPushConnection(turns.factory, bind("inproc://push"))
    pull = turns.raw(zmq.PULL, "inproc://push")
    with pytest.raises(TypeError):
        push.push([b"first", bad])
    with pytest.raises(TypeError):
        push.push(bad)
    push.push([b"whole", b"message"])
    assert pull.recv_multipart() == [b"whole", b"message"]


def test_a_message_has_parts(turns: Turns) -> None:
    push = ZmqPushConnection(turns.factory, bind("inproc://push"))
    with pytest.raises(ValueError, match="at least one part"):
        push.push([])


def test_a_message_may_come_from_any_iterable(turns: Turns) -> None:
    push: Any = ZmqPushConnection(turns.factory, bind("inproc://push"))
    pull = turns.raw(zmq.PULL, "inproc://push")
    push.push(("tuple", b"of parts"))
    push.push(part for part in ("generator", bytearray(b"of parts")))
    assert pull.recv_multipart() == [b"tuple", b"of parts"]
    assert pull.recv_multipart() == [b"generator", b"of parts"]


@pytest.mark.parametrize("cls", [ZmqPushConnection, ZmqDealerConnection, ZmqREQConnection])
def test_without_a_peer_nothing_is_sent_or_kept(turns: Turns, cls: type[ZmqConnection]) -> None:
    connection = cls(turns.factory, bind("inproc://here"))
    with pytest.raises(zmq.Again):
        connection.send([b"one", b"two", b"three"])
    if isinstance(connection, ZmqREQConnection):
        with pytest.raises(zmq.Again):
            connection.sendMsg(b"question", timeout=1)
    kind = zmq.PULL if cls is ZmqPushConnection else zmq.DEALER
    peer = turns.raw(kind, "inproc://here")
    connection.send([b"four", b"five"])
    assert peer.recv_multipart() == [b"four", b"five"]
    assert not has_message(peer)
    turns.settle()
    assert not turns.scheduled(), "a request that was not sent has left its timer"


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_at_the_high_water_mark_messages_are_refused_whole(turns: Turns, parts: int) -> None:
    push = QueueingPush(turns.factory, bind("inproc://push"))
    pull = turns.raw(zmq.PULL, "inproc://push", RCVHWM=1)
    message = [b"%d" % i for i in range(parts)]
    sent = fill(push, message)
    assert sent >= 1
    for _ in range(sent):
        assert pull.recv_multipart() == message
    assert not has_message(pull)
    push.send([b"next", b"message"])
    assert pull.recv_multipart() == [b"next", b"message"]


def test_a_peer_that_goes_in_between_takes_no_part_of_the_next_message(
    loop: Loop, factory: ZmqFactory, raw: Raw
) -> None:
    """Peers come and go while messages of many parts are sent: each one that arrives is whole."""

    async def main() -> None:
        push = ZmqPushConnection(factory, bind("tcp://127.0.0.1:*"))
        message = [b"%d" % i for i in range(50)]
        for _ in range(10):
            pull = raw(zmq.PULL, address_of(push))
            while not has_message(pull):  # what goes to the one before is lost
                push.trySend(message)
                await loop.sleep(0)
            while has_message(pull):
                assert pull.recv_multipart() == message
            pull.close(linger=0)
            for _ in range(20):
                push.trySend(message)
        factory.shutdown()

    loop.run(main)


def test_try_send_says_what_became_of_the_message(turns: Turns) -> None:
    router = QueueingRouter(turns.factory, bind("inproc://router"))
    router.socket.set(zmq.SNDHWM, 1)  # type: ignore[union-attr]  # it is open
    assert router.trySend([b"stranger", b"x"]) is SendResult.UNREACHABLE
    dealer = turns.raw(zmq.DEALER, "inproc://router", ROUTING_ID=b"d", RCVHWM=1)
    turns.settle()  # a ROUTER knows its peers when it has read
    results = [router.trySend([b"d", b"x"]) for _ in range(4)]
    assert results[0] is SendResult.SENT
    assert results[-1] is SendResult.BLOCKED
    while has_message(dealer):
        assert dealer.recv() == b"x"
    router.shutdown()
    with pytest.raises(zmq.ZMQError) as caught:
        router.trySend([b"d", b"x"])
    assert caught.value.errno == zmq.ENOTSOCK


def test_sending_on_a_closed_connection_is_an_error(turns: Turns) -> None:
    push = ZmqPushConnection(turns.factory)
    push.shutdown()
    with pytest.raises(zmq.ZMQError) as caught:
        push.push(b"x")
    assert caught.value.errno == zmq.ENOTSOCK


# -- going on ----------------------------------------------------------------------------------


def test_sending_goes_on_when_the_peer_drains(
    loop: Loop, factory: ZmqFactory, address: str
) -> None:
    count = 500

    async def main() -> None:
        pull = SmallPull(factory, bind(address))
        push = QueueingPush(factory, connect_to(pull))
        dealer = SmallDealer(factory, bind("inproc://dealer"))
        other = QueueingDealer(factory, connect("inproc://dealer"))
        for i in range(count):
            push.enqueue([b"%d" % i, b"part"])
            other.enqueue([b"%d" % i, b"part"])
        await loop.until(lambda: len(pull.messages) == len(dealer.messages) == count)
        assert pull.messages == [[b"%d" % i, b"part"] for i in range(count)]
        assert dealer.messages == [(b"%d" % i, b"part") for i in range(count)]
        factory.shutdown()

    loop.run(main)


def test_sending_through_a_router_goes_on_when_the_peer_drains(
    loop: Loop, factory: ZmqFactory, address: str
) -> None:
    count = 500

    async def main() -> None:
        router = QueueingRouter(factory, bind(address))
        dealer = SmallDealer(factory, connect_to(router), "dealer")
        dealer.sendMsg(b"hello")
        await loop.until(lambda: router.trySend([b"dealer", b"first"]) is SendResult.SENT)
        for i in range(count):
            router.enqueue([b"dealer", b"%d" % i])
        await loop.until(lambda: len(dealer.messages) == count + 1)
        assert dealer.messages == [(b"first",), *((b"%d" % i,) for i in range(count))]
        factory.shutdown()

    loop.run(main)


def test_ten_thousand_messages_pass_a_high_water_mark_of_one_both_ways(one_loop: Loop) -> None:
    """Whoever misses one signal stalls here: libzmq tells once that there is room again."""
    count = 10_000
    factory = ZmqFactory(one_loop.reactor)

    class Pong(QueueingDealer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.got = 0

        def messageReceived(self, message: list[bytes]) -> None:
            assert message == [b"%d" % self.got]
            self.got += 1

    async def main() -> None:
        a = Pong(factory, bind("tcp://127.0.0.1:*"))
        b = Pong(factory, connect_to(a))
        await one_loop.until(lambda: a.trySend([b"0"]) is SendResult.SENT)
        b.enqueue([b"0"])
        for i in range(1, count):
            a.enqueue([b"%d" % i])
            b.enqueue([b"%d" % i])
        await one_loop.until(lambda: a.got == b.got == count)
        factory.shutdown()

    one_loop.run(main)


def test_a_router_with_one_slow_peer_serves_the_other_and_does_not_spin(
    loop: Loop, factory: ZmqFactory
) -> None:
    """A ROUTER says that it can send when it can to anybody."""

    async def main() -> None:
        router = QueueingRouter(factory, bind("inproc://router"))
        slow = raw_socket(
            factory.context, zmq.DEALER, "inproc://router", ROUTING_ID=b"slow", RCVHWM=1
        )
        raw_quick = raw_socket(
            factory.context, zmq.DEALER, "inproc://router", ROUTING_ID=b"quick", RCVHWM=0
        )
        await loop.until(lambda: router.trySend([b"quick", b"x"]) is SendResult.SENT)
        for i in range(10):
            router.enqueue([b"slow", b"%d" % i])
        await loop.sleep(0.05)
        assert router.queue, "the slow peer takes no more"
        reads, attempts = count_reads(router), router.attempts
        await loop.sleep(0.1)
        assert reads[0] <= 50, "spinning would be thousands"
        assert router.attempts - attempts <= 50
        got: list[bytes] = []
        while len(got) < 10:
            if has_message(slow):
                got.append(slow.recv())
            await loop.sleep(0)
        assert got == [b"%d" % i for i in range(10)]
        assert raw_quick.recv() == b"x"
        factory.shutdown()

    loop.run(main)


def test_a_publisher_that_must_not_drop_does_not_spin_on_a_slow_subscriber(
    loop: Loop, factory: ZmqFactory
) -> None:
    class Careful(ZmqXPubConnection):
        highWaterMark = 1
        socketOptions = {"XPUB_NODROP": 1}  # noqa: RUF012 - an option as users write it

        def readyToSend(self) -> None:
            try:
                while True:
                    self.publish(b"x")
            except zmq.Again:
                pass

    async def main() -> None:
        publisher = Careful(factory, bind("inproc://xpub"))
        slow = raw_socket(factory.context, zmq.SUB, "inproc://xpub", SUBSCRIBE=b"", RCVHWM=1)
        await loop.sleep(0.01)
        publisher.readyToSend()
        await loop.sleep(0.05)
        reads = count_reads(publisher)
        await loop.sleep(0.1)
        assert reads[0] <= 50, "spinning would be thousands"
        for _ in range(100):
            await loop.until(lambda: has_message(slow))
            assert slow.recv() == b"\0x"
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize("size", [262_143, 262_144, 3_000_000])
def test_large_parts_go_without_a_copy(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    copies: list[bool] = []
    send = zmq.Socket[bytes].send

    def spy(
        socket: zmq.Socket[bytes], data: bytes, flags: int, copy: bool = True
    ) -> zmq.MessageTracker | None:
        copies.append(copy)
        return send(socket, data, flags, copy)

    monkeypatch.setattr("txzmq.connection.send", spy)
    push = ZmqPushConnection(turns.factory, bind("inproc://large"))
    pull = turns.raw(zmq.PULL, "inproc://large")
    turns.settle()
    part = bytes(range(256)) * (size // 256 + 1)
    push.send([b"small", part[:size], b"small"])
    assert pull.recv_multipart() == [b"small", part[:size], b"small"]
    assert copies == [True, size < 262_144 or not SHARES_MEMORY, True]


def test_a_peer_that_goes_in_mid_message_does_not_cost_the_next_message(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a last part, libzmq would drop the next message with the rest of this one."""
    sent: list[tuple[bytes, int]] = []
    gone = [True]

    def send(socket: object, part: bytes, flags: int, **_: object) -> None:
        sent.append((part, flags & zmq.SNDMORE))
        if part == b"second" and gone:
            gone.clear()
            raise zmq.Again

    def no_events(*_: object) -> int:
        return 0

    push = ZmqPushConnection(turns.factory, bind("inproc://gone"))
    monkeypatch.setattr("txzmq.connection.send", send)
    monkeypatch.setattr("txzmq.connection._get", no_events)  # there is no room yet
    with pytest.raises(zmq.Again):
        push.send([b"first", b"second", b"third"])
    assert sent == [(b"first", zmq.SNDMORE), (b"second", zmq.SNDMORE), (b"", 0)]


def test_what_a_socket_cannot_do_is_an_error_and_no_result(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://pull"))
    with pytest.raises(zmq.ZMQError) as raised:
        pull.trySend([b"x"])
    assert raised.value.errno == zmq.ENOTSUP


# PyPy's collector moves what libzmq reads.
ANOTHER_INTERPRETER = """
import sys
import zmq
import zmq.utils.garbage

sys.implementation.name = "another"
import txzmq.connection
from twisted.internet import reactor

send, copies = txzmq.connection.send, []

def spy(*args, copy=True, **kwargs):
    copies.append((copy, *kwargs))
    return send(*args, **{} if copy else {"copy": False}, **kwargs)

txzmq.connection.send = spy
factory = txzmq.ZmqFactory(reactor)
push = txzmq.ZmqPushConnection(factory, txzmq.ZmqEndpoint("bind", "inproc://large"))
pull = factory.context.socket(zmq.PULL)
pull.connect("inproc://large")
push.send([b"small", bytes(100_000)])
push.trySend([bytes(3_000_000)])
pull.close()
factory.shutdown()
print(*copies, zmq.utils.garbage.gc.thread)
"""


def test_only_cpython_shares_its_memory_with_libzmq() -> None:
    command = [sys.executable, "-c", ANOTHER_INTERPRETER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("(True,) (True,) (True,) None\n", "")
