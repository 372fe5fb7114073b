"""PUB and SUB over PGM, which sends each message to all at once; needs a libzmq that has it.

``make test-multicast`` runs these on one.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

import pytest
import zmq

from tests.programs import ROOT, running
from tests.sockets.support import Sub, bind, connect
from tests.support import Loop
from txzmq import ZmqFactory, ZmqPubConnection

pytestmark = pytest.mark.skipif(not zmq.has("pgm"), reason="this libzmq was built without PGM")

# Groups of the range that stays within a site (RFC 2365). Each test has its own, and so has each
# run: what another still sends must not be heard.
_groups = (f"239.192.{random.randrange(256)}.{host}" for host in itertools.count(1))


class FastPub(ZmqPubConnection):
    """Publishes as fast as the loopback interface can; 100 kbit/s is the default."""

    multicastRate = 100_000


class FastSub(Sub):
    """Receives that fast."""

    multicastRate = 100_000


@pytest.fixture
def group() -> str:
    """An address of a multicast group of the test's own, on the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"epgm://127.0.0.1;{next(_groups)}:{port}"


async def meet(loop: Loop, publishers: list[FastPub], subscribers: list[FastSub]) -> None:
    """Wait until each subscriber hears each publisher; nobody is told who listens."""
    for number, publisher in enumerate(publishers):
        hello = (b"%d" % number, b"hello")
        while not all(hello in subscriber.messages for subscriber in subscribers):
            publisher.publish(*hello)
            await loop.sleep(0.005)


def heard(subscriber: FastSub) -> list[tuple[bytes, bytes]]:
    """What came besides the greetings."""
    return [(tag, message) for message, tag in subscriber.messages if tag != b"hello"]


def test_subscribers_get_the_tags_they_asked_for(
    loop: Loop, factory: ZmqFactory, group: str
) -> None:
    async def main() -> None:
        # To libzmq, bind and connect are the same here.
        subscribers = [FastSub(factory, bind(group)), FastSub(factory, connect(group))]
        publisher = FastPub(factory, connect(group))
        for subscriber in subscribers:
            subscriber.subscribe("hello")
            subscriber.subscribe("tag")
        await meet(loop, [publisher], subscribers)
        publisher.publish("xyz", "different-tag")
        publisher.publish(b"abcd", b"tag1")
        publisher.publish("efgh\0i", "tag2")
        for subscriber in subscribers:
            await loop.until(lambda: len(heard(subscriber)) == 2)  # noqa: B023 - awaited at once
            assert heard(subscriber) == [(b"tag1", b"abcd"), (b"tag2", b"efgh\0i")]
        factory.shutdown()

    loop.run(main)


def test_messages_of_many_datagrams_arrive_whole_and_in_order(
    loop: Loop, factory: ZmqFactory, group: str
) -> None:
    sent = [os.urandom(size) for size in (0, 1, 1400, 1500, 20_000, 300_000, 2)]

    async def main() -> None:
        subscriber = FastSub(factory, connect(group))
        subscriber.subscribe("")
        publisher = FastPub(factory, connect(group))
        await meet(loop, [publisher], [subscriber])
        for message in sent:
            publisher.publish(message, "data")
        await loop.until(lambda: len(heard(subscriber)) == len(sent))
        assert heard(subscriber) == [(b"data", message) for message in sent]
        factory.shutdown()

    loop.run(main)


def test_publishers_of_one_group_do_not_mix_their_messages(
    loop: Loop, factory: ZmqFactory, group: str
) -> None:
    """It is why tag and message are one frame."""
    count = 200

    async def main() -> None:
        subscriber = FastSub(factory, connect(group))
        subscriber.subscribe("")
        others = [ZmqFactory(loop.reactor) for _ in range(3)]
        publishers = [FastPub(other, connect(group)) for other in others]
        await meet(loop, publishers, [subscriber])
        for i in range(count):
            for number, publisher in enumerate(publishers):
                publisher.publish(b"%d of %d" % (i, number), b"%d" % number)
        await loop.until(lambda: len(heard(subscriber)) == count * len(publishers))
        for number in range(len(publishers)):
            mine = [message for tag, message in heard(subscriber) if tag == b"%d" % number]
            assert mine == [b"%d of %d" % (i, number) for i in range(count)]
        for each in (factory, *others):
            each.shutdown()

    loop.run(main)


def test_the_rate_is_the_connections(one_loop: Loop, group: str) -> None:
    factory = ZmqFactory(one_loop.reactor)
    for cls, rate in ((ZmqPubConnection, 100), (FastPub, 100_000)):
        connection = cls(factory, connect(group))
        assert connection.socket is not None
        assert connection.socket.get(zmq.RATE) == rate
    factory.shutdown()


def test_the_example_talks_between_two_processes(group: str) -> None:
    script = ROOT / "examples" / "pub_sub.py"
    options = [f"--endpoint={group}", "--interval=0.05"]
    with (
        running(script, *options, "--method=connect", "--mode=subscriber") as subscriber,
        running(script, *options, "--method=bind", "--mode=publisher") as publisher,
    ):
        publisher.expect("publishing: .+")
        subscriber.expect(r"message received: time: .+ \d\d:\d\d:\d\d \d+")
        for program in (subscriber, publisher):
            assert program.interrupt() == 0
