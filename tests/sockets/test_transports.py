"""Every kind of socket over every transport, on every reactor."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone

from tests.sockets.support import Echo, Pull, bind, connect_to
from tests.support import Loop
from txzmq import (
    ZmqDealerConnection,
    ZmqEndpoint,
    ZmqFactory,
    ZmqPubConnection,
    ZmqPushConnection,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqRequestTimeoutError,
    ZmqRouterConnection,
    ZmqSubConnection,
    ZmqXPubConnection,
    ZmqXSubConnection,
)


def test_push_pull_keeps_order_and_parts(loop: Loop, factory: ZmqFactory, address: str) -> None:
    sent = [[b"%d" % i, b"", b"x" * (i % 7)] for i in range(3000)]
    sent.append([b"0" * 1_000_000, b"1" * 100_000])

    async def main() -> None:
        pull = Pull(factory, bind(address))
        push = ZmqPushConnection(factory, connect_to(pull))
        for message in sent:
            push.push(message)
        await loop.until(lambda: len(pull.messages) == len(sent))
        assert pull.messages == sent
        factory.shutdown()

    loop.run(main)


def test_text_is_sent_as_utf_8(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        pull = Pull(factory, bind("inproc://a"))
        push = ZmqPushConnection(factory, connect_to(pull))
        push.push("grüß")
        push.push(["a", b"b", bytearray(b"c"), memoryview(b"d")])
        await loop.until(lambda: len(pull.messages) == 2)
        assert pull.messages == [["grüß".encode()], [b"a", b"b", b"c", b"d"]]
        factory.shutdown()

    loop.run(main)


def test_one_connection_has_many_endpoints(loop: Loop, factory: ZmqFactory, tmp_path: Path) -> None:
    async def main() -> None:
        pull = Pull(factory, bind("tcp://127.0.0.1:*"))
        over_tcp = ZmqPushConnection(factory, connect_to(pull))
        pull.addEndpoints([bind(f"ipc://{tmp_path}/s"), bind("inproc://s")])
        over_ipc = ZmqPushConnection(factory)
        over_ipc.addEndpoints([ZmqEndpoint("connect", f"ipc://{tmp_path}/s")])
        over_inproc = ZmqPushConnection(factory, ZmqEndpoint("connect", "inproc://s"))
        for push, data in ((over_tcp, "1"), (over_ipc, "2"), (over_inproc, "3")):
            push.push(data)
        await loop.until(lambda: len(pull.messages) == 3)
        assert sorted(pull.messages) == [[b"1"], [b"2"], [b"3"]]
        assert len(pull.endpoints) == 3
        factory.shutdown()

    loop.run(main)


def test_subscribers_get_the_tags_they_asked_for(
    loop: Loop, factory: ZmqFactory, address: str
) -> None:
    async def main() -> None:
        publisher = ZmqPubConnection(factory, bind(address))
        subscriber = ZmqSubConnection(factory, connect_to(publisher))
        got: list[tuple[bytes, bytes]] = []

        def gotMessage(message: bytes, tag: bytes) -> None:
            got.append((tag, message))

        # As the examples of txZMQ do it.
        setattr(subscriber, "gotMessage", gotMessage)
        subscriber.subscribe("tag")
        subscriber.subscribe(b"sync")
        while not got:  # until the subscription has arrived
            publisher.publish("", "sync")
            await loop.sleep(0.001)
        subscriber.unsubscribe("sync")
        publisher.publish("xyz", "different-tag")
        publisher.publish(b"abcd", b"tag1")
        publisher.publish("efgh\0i", "tag2")
        publisher.send([b"tag3", b"two parts"])
        await loop.until(lambda: got[-1][0] == b"tag3")
        assert [item for item in got if item[0] != b"sync"] == [
            (b"tag1", b"abcd"),
            (b"tag2", b"efgh\0i"),
            (b"tag3", b"two parts"),
        ]
        factory.shutdown()

    loop.run(main)


def test_xpub_sees_subscriptions_of_xsub(loop: Loop, factory: ZmqFactory, address: str) -> None:
    class XPub(ZmqXPubConnection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.events: list[tuple[str, bytes]] = []

        def gotSubscription(self, tag: bytes) -> None:
            self.events.append(("+", tag))
            self.publish(b"first", tag)

        def gotUnsubscription(self, tag: bytes) -> None:
            self.events.append(("-", tag))

        def gotMessage(self, message: list[bytes]) -> None:
            self.events.append(("upstream", b"|".join(message)))

    async def main() -> None:
        publisher = XPub(factory, bind(address))
        subscriber = ZmqXSubConnection(factory, connect_to(publisher))
        got: list[tuple[bytes, bytes]] = []

        def gotMessage(message: bytes, tag: bytes) -> None:
            got.append((tag, message))

        setattr(subscriber, "gotMessage", gotMessage)
        subscriber.subscribe("a")
        # Nothing is lost to a slow joiner: the publisher saw the subscription first.
        await loop.until(lambda: got)
        assert got == [(b"a", b"first")]
        subscriber.send(b"hello")
        subscriber.unsubscribe("a")
        await loop.until(lambda: len(publisher.events) == 3)
        assert publisher.events == [("+", b"a"), ("upstream", b"hello"), ("-", b"a")]
        factory.shutdown()

    loop.run(main)


def test_requests_are_answered_in_any_order(loop: Loop, factory: ZmqFactory, address: str) -> None:
    class Reversing(ZmqREPConnection):
        """Answers each ten requests last first."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.waiting: list[tuple[bytes, tuple[bytes, ...]]] = []

        def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
            self.waiting.append((messageId, messageParts))
            if len(self.waiting) == 10:
                while self.waiting:
                    self.reply(self.waiting[-1][0], *self.waiting[-1][1])
                    self.waiting.pop()

    async def main() -> None:
        server = Reversing(factory, bind(address))
        client = ZmqREQConnection(factory, connect_to(server))
        deferreds = [client.sendMsg(b"%d" % i, b"", b"part") for i in range(1000)]
        for i, deferred in enumerate(deferreds):
            assert await deferred == [b"%d" % i, b"", b"part"]
        factory.shutdown()

    loop.run(main)


def test_requests_time_out_and_can_be_cancelled(loop: Loop, factory: ZmqFactory) -> None:
    class Silent(ZmqREPConnection):
        def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
            pass

    async def main() -> None:
        server = Silent(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(server))
        client.defaultRequestTimeout = 0.02
        with pytest.raises(ZmqRequestTimeoutError):
            await client.sendMsg(b"a", timeout=0.01)
        with pytest.raises(ZmqRequestTimeoutError):
            await client.sendMsg(b"b")
        cancelled = client.sendMsg(b"c", timeout=60)
        cancelled.cancel()
        with pytest.raises(CancelledError):
            await cancelled
        factory.shutdown()

    loop.run(main)


def test_shutdown_ends_requests_that_wait(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        server = Echo(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(server))
        waiting = client.sendMsg(b"a", timeout=60)
        client.shutdown()
        with pytest.raises(ConnectionDone):
            await waiting
        factory.shutdown()

    loop.run(main)


def test_router_and_dealer(loop: Loop, factory: ZmqFactory, address: str) -> None:
    class Router(ZmqRouterConnection):
        def gotMessage(self, senderId: bytes, *message: bytes) -> None:
            assert senderId == b"dealer"
            if message == (b"request",):
                self.sendMsg(senderId, b"reply")
                self.sendMultipart(senderId, [b"two", b"parts"])

    async def main() -> None:
        router = Router(factory, bind(address), identity=b"router")
        dealer = ZmqDealerConnection(factory, connect_to(router), identity="dealer")
        got: list[tuple[bytes, ...]] = []

        def gotMessage(*parts: bytes) -> None:
            got.append(parts)

        setattr(dealer, "gotMessage", gotMessage)
        for _ in range(1000):
            dealer.sendMsg("request")
        await loop.until(lambda: len(got) == 2000)
        assert got == [(b"reply",), (b"two", b"parts")] * 1000
        factory.shutdown()

    loop.run(main)


def test_both_sides_talk_in_bursts(loop: Loop, factory: ZmqFactory, address: str) -> None:
    """Replies arrive while requests are sent: no signal is lost on either side.

    txZMQ stalls here when a send consumes the signal of a message that has just arrived.
    """

    async def main() -> None:
        server = Echo(factory, bind(address))
        client = ZmqREQConnection(factory, connect_to(server))
        done: Deferred[None] = Deferred()
        numbers = itertools.count()
        answered = itertools.count(1)

        def again(_: object) -> None:
            if next(answered) == 5000:
                done.callback(None)
            elif next(numbers) < 4950:
                client.sendMsg(b"x").addCallback(again)

        for _ in range(50):
            client.sendMsg(b"x").addCallback(again)
        await done
        factory.shutdown()

    loop.run(main)


def test_plain_req_sockets_are_answered(loop: Loop, factory: ZmqFactory) -> None:
    """A plain REQ socket sends no request id; txZMQ answers it, so this does."""

    async def main() -> None:
        server = Echo(factory, bind("tcp://127.0.0.1:*"))
        address = connect_to(server).address
        answers: list[bytes] = []

        def ask() -> None:
            with zmq.Context() as context, context.socket(zmq.REQ) as socket:
                socket.connect(address)
                for i in range(3):
                    socket.send(b"%d" % i)
                    answers.append(socket.recv())

        thread = threading.Thread(target=ask)
        thread.start()
        await loop.until(lambda: not thread.is_alive())
        thread.join()
        assert answers == [b"0", b"1", b"2"]
        factory.shutdown()

    loop.run(main)


def test_the_reactor_shuts_the_factory_down(loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        factory.registerForShutdown()
        Pull(factory, bind("tcp://127.0.0.1:*"))

    loop.run(main)  # which checks that nothing is left in the reactor
    assert factory.context.closed
    assert not factory.connections
