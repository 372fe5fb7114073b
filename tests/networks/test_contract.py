"""The contract of ``txzmq.rpc.transport``: in memory, and ZeroMQ's over tcp, ipc and inproc.

What a test here asserts of one network it asserts of all, so that what holds in memory holds with
libzmq. Where they differ, the test says so: over inproc no connection can break, and a server is
not told that a client has gone.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import zmq
from twisted.internet.error import CannotListenError

from tests.networks.support import (
    RIGS,
    Client,
    Publisher,
    Rig,
    Server,
    Subscriber,
    Told,
    ZmqRig,
    rig_of,
    sent,
)
from txzmq.rpc.transport import SendResult


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Rig]:
    tmp_path.chmod(0o700)
    with rig_of(request.param, tmp_path) as rig:
        yield rig


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def zmq_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[ZmqRig]:
    tmp_path.chmod(0o700)
    with rig_of(request.param, tmp_path) as rig:
        assert isinstance(rig, ZmqRig)
        yield rig


async def free_endpoint(rig: Rig) -> str:
    """Where nobody listens."""
    server = Server(rig, "nobody")
    server.transport.close()
    await rig.pause(0.01)  # libzmq unbinds in its own thread
    return server.transport.endpoint


async def meet(rig: Rig, client: Client, server: Server) -> bytes:
    """Have a client's message arrive; the client's routing id."""
    await rig.until(lambda: "connected" in client)
    before = len(server)
    await sent(rig, client.transport, b"meet")
    await rig.until(lambda: [event for event in server[before:] if event[-1] == b"meet"])
    peer: bytes = next(event[1] for event in server[before:] if event[-1] == b"meet")
    return peer


async def bound_again(rig: Rig, kind: type[Any], endpoint: str) -> Any:
    """A socket at an endpoint that libzmq may still be unbinding."""
    for _ in range(1_000):
        try:
            return kind(rig, endpoint=endpoint)
        except Exception:  # noqa: BLE001 - the address is in use
            await rig.pause(0.002)
    raise AssertionError(f"{endpoint} stays in use")


# -- calls -------------------------------------------------------------------------------------


def test_messages_arrive_in_order_and_the_flush_comes_after_them(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        peer = await meet(rig, client, server)
        del server[:]
        for number in range(100):
            await sent(rig, client.transport, b"%d" % number)
        await rig.until(lambda: len(server) == 100)
        assert server == [("received", peer, b"%d" % number) for number in range(100)]
        for number in range(100):
            await sent(rig, server.transport, peer, b"%d" % number)
        before = client.count("flush")  # after each time that it could not send
        client.transport.flush_soon()
        client.transport.flush_soon()
        await rig.until(lambda: ("received", b"99") in client)
        await rig.until(lambda: client.count("flush") > before)
        assert client.count("flush") == before + 1
        received = [event for event in client if event[0] == "received"]
        assert received == [("received", b"%d" % number) for number in range(100)]

    rig.run(main)


def test_connecting_is_told_once(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        await rig.until(lambda: client)
        await meet(rig, client, server)
        assert client == ["connected"]

    rig.run(main)


def test_one_connection_of_a_server_can_be_ended(rig: Rig) -> None:
    """Over inproc there is none to know."""

    async def main() -> None:
        server = Server(rig)
        one, two = (Client(rig, server.transport.endpoint) for _ in range(2))
        first, second = await meet(rig, one, server), await meet(rig, two, server)
        connection = server.transport.connection_of(first)
        assert server.transport.connection_of(b"nobody") is None
        if not rig.tells_of_loss:
            assert connection is None
            return
        assert connection is not None
        assert connection == server.transport.connection_of(first)
        assert connection != server.transport.connection_of(second)
        assert connection.is_open()
        connection.end()
        await rig.until(lambda: ("lost", first) in server)
        await rig.until(lambda: "disconnected" in one)
        assert not connection.is_open()
        assert server.transport.connection_of(first) is None
        connection.end()  # what has its descriptor now is none of its business
        await sent(rig, two.transport, b"still there")
        await rig.until(lambda: ("received", second, b"still there") in server)
        assert ("lost", second) not in server

    rig.run(main)


def test_where_nobody_listens(rig: Rig) -> None:
    async def main() -> None:
        endpoint = await free_endpoint(rig)
        client = Client(rig, endpoint)
        await rig.until(lambda: client)
        result = client.transport.send_message([b"early"])
        server = await bound_again(rig, Server, endpoint)
        assert client == ["unreachable"]
        assert result is SendResult.BLOCKED
        await rig.until(lambda: "connected" in client)
        # What was refused for want of a connection may be sent again.
        assert client == ["unreachable", "flush", "connected"]
        await meet(rig, client, server)
        assert [event[2] for event in server] == [b"meet"]

    rig.run(main)


def test_replies_reach_who_is_there(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client, other = (Client(rig, server.transport.endpoint) for _ in range(2))
        peers = [await meet(rig, each, server) for each in (client, other)]
        assert len(set(peers)) == 2
        assert server.transport.send_message([peers[1], b"reply"]) is SendResult.SENT
        assert server.transport.send_message([b"nobody", b"reply"]) is SendResult.UNREACHABLE
        await rig.until(lambda: ("received", b"reply") in other)
        assert ("received", b"reply") not in client

    rig.run(main)


def test_what_a_client_sent_before_it_closed_arrives(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client, fence = (Client(rig, server.transport.endpoint) for _ in range(2))
        peer = await meet(rig, client, server)
        await sent(rig, client.transport, b"last")
        del client[:]
        client.transport.flush_soon()
        client.transport.close()
        await rig.until(lambda: ("received", peer, b"last") in server)
        unreachable = SendResult.UNREACHABLE
        await rig.until(lambda: server.transport.send_message([peer, b"late"]) is unreachable)
        if rig.tells_of_loss:
            await rig.until(lambda: ("lost", peer) in server)
            assert server[-2:] == [("received", peer, b"last"), ("lost", peer)]
        await meet(rig, fence, server)
        assert (("lost", peer) in server) is rig.tells_of_loss
        assert server.transport.tells_of_loss is rig.tells_of_loss
        assert client == []

    rig.run(main)


def test_a_socket_that_is_closed_sends_nothing(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        peer = await meet(rig, client, server)
        for transport, message in (
            (client.transport, [b"x"]),
            (server.transport, [peer, b"x"]),
        ):
            transport.close()
            transport.close()
            transport.flush_soon()
            with pytest.raises(Exception, match=r"closed|non-socket"):
                transport.send_message(message)

    rig.run(main)


def test_a_client_is_told_that_its_server_has_closed(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        peer = await meet(rig, client, server)
        await sent(rig, server.transport, peer, b"first")
        await rig.until(lambda: ("received", b"first") in client)
        await sent(rig, server.transport, peer, b"last")
        del client[:], server[:]
        server.transport.close()
        await rig.until(lambda: client)
        blocked = SendResult.BLOCKED
        await rig.until(lambda: client.transport.send_message([b"x"]) is blocked)
        if client[0] == "disconnected":
            # libzmq drops what a socket with IMMEDIATE has not read when its connection breaks.
            assert ("received", b"last") not in client
        else:
            await rig.until(lambda: "disconnected" in client)
            assert client[:2] == [("received", b"last"), "disconnected"]
        assert server == []

    rig.run(main)


def test_a_client_connects_again(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        await meet(rig, client, server)
        endpoint = server.transport.endpoint
        server.transport.close()
        blocked = SendResult.BLOCKED
        await rig.until(lambda: client.transport.send_message([b"lost"]) is blocked)
        another = await bound_again(rig, Server, endpoint)
        await rig.until(lambda: client.count("connected") == 2)
        await meet(rig, client, another)

    rig.run(main)


def test_a_broken_connection_is_told_to_both_and_its_id_does_not_come_back(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        client = Client(rig, server.transport.endpoint)
        peer = await meet(rig, client, server)
        rig.cut(server.transport.endpoint)
        if not rig.tells_of_loss:  # there is no connection that could break
            assert await meet(rig, client, server) == peer
            return
        await rig.until(lambda: ("lost", peer) in server and client.count("connected") == 2)
        assert client == ["connected", "disconnected", "connected"]
        assert server.transport.send_message([peer, b"late"]) is SendResult.UNREACHABLE
        assert await meet(rig, client, server) != peer

    rig.run(main)


def test_an_address_is_bound_once(rig: Rig) -> None:
    async def main() -> None:
        server = Server(rig)
        publisher = Publisher(rig)
        with pytest.raises(CannotListenError, match="in use"):
            Server(rig, endpoint=server.transport.endpoint)
        with pytest.raises(CannotListenError, match="in use"):
            Publisher(rig, endpoint=publisher.transport.endpoint)

    rig.run(main)


class Worker(Told):
    def __init__(self, rig: ZmqRig, endpoint: str) -> None:
        super().__init__()
        self.transport: Any = rig.network.dial_out(endpoint, self, {"HANDSHAKE_IVL": 5_000})


def test_a_server_that_dials_out_answers_the_proxy_and_is_told_of_its_end(zmq_rig: ZmqRig) -> None:
    rig = zmq_rig

    async def main() -> None:
        proxy = rig.context.socket(zmq.DEALER)
        proxy.set(zmq.LINGER, 0)
        proxy.bind(rig.address("proxy"))
        endpoint = proxy.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        worker = Worker(rig, endpoint.rstrip(b"\0").decode())
        await rig.until(lambda: proxy.poll(0, zmq.POLLOUT))
        proxy.send_multipart([b"client", b"request"])
        await rig.until(lambda: worker)
        ((_, peer, *rest),) = worker
        assert rest == [b"client", b"request"]
        assert worker.transport.tells_of_loss is rig.tells_of_loss
        assert worker.transport.send_message([peer, *rest]) is SendResult.SENT
        await rig.until(lambda: proxy.poll(0))
        assert proxy.recv_multipart() == rest
        proxy.close()
        unreachable = SendResult.UNREACHABLE
        await rig.until(lambda: worker.transport.send_message([peer, b"x"]) is unreachable)
        if rig.tells_of_loss:
            await rig.until(lambda: "failed" in worker)
        else:
            assert "failed" not in worker
        worker.transport.close()

    rig.run(main)


# -- subscriptions -----------------------------------------------------------------------------


async def fence(rig: Rig, publisher: Publisher, subscriber: Subscriber) -> None:
    """Wait until the publisher has all that the subscriber has sent before."""
    tag = b"fence%d" % len(publisher)
    subscriber.transport.subscribe(tag)
    await rig.until(lambda: ("subscribed", tag) in publisher)
    subscriber.transport.unsubscribe(tag)
    await rig.until(lambda: ("unsubscribed", tag) in publisher)
    publisher[:] = [event for event in publisher if event[1] != tag]


async def connected(rig: Rig, publisher: Publisher, **options: int) -> Subscriber:
    subscriber = Subscriber(rig, publisher.transport.endpoint, **options)
    await rig.until(lambda: "connected" in subscriber)
    await fence(rig, publisher, subscriber)
    return subscriber


def on(*tags: bytes) -> list[tuple[str, bytes]]:
    return [("subscribed", tag) for tag in tags]


def off(*tags: bytes) -> list[tuple[str, bytes]]:
    return [("unsubscribed", tag) for tag in tags]


def test_each_subscribe_is_told_but_only_the_last_unsubscribe(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        subscriber.transport.subscribe(b"a")
        subscriber.transport.subscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher == on(b"a", b"a")
        subscriber.transport.unsubscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher == on(b"a", b"a")
        publisher.transport.publish(b"a1")
        await rig.until(lambda: ("published", b"a1") in subscriber)
        subscriber.transport.unsubscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher == [*on(b"a", b"a"), *off(b"a")]
        assert subscriber.count(("published", b"a1")) == 1

    rig.run(main)


def test_the_subscriptions_of_a_socket_that_connects_are_told_once_each(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = Subscriber(rig, publisher.transport.endpoint)
        for tag in (b"b", b"a", b"a"):
            subscriber.transport.subscribe(tag)
        await fence(rig, publisher, subscriber)
        if rig.tells_of_loss:
            assert sorted(publisher) == on(b"a", b"b")
        else:  # inproc was connected at once
            assert publisher == on(b"b", b"a", b"a")

    rig.run(main)


def test_unsubscribing_from_what_one_has_not_subscribed_to_is_not_told(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        subscriber.transport.unsubscribe(b"never")
        subscriber.transport.subscribe(b"a")
        subscriber.transport.unsubscribe(b"a")
        subscriber.transport.unsubscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher == [*on(b"a"), *off(b"a")]

    rig.run(main)


def test_a_stranger_can_unsubscribe_and_changes_nothing_for_others(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        subscriber.transport.subscribe(b"a")
        await fence(rig, publisher, subscriber)
        unsubscribe = rig.stranger(publisher.transport.endpoint)
        if unsubscribe is None:
            return
        unsubscribe(b"a")
        await rig.until(lambda: publisher == [*on(b"a"), *off(b"a")])
        publisher.transport.publish(b"a1")
        await rig.until(lambda: ("published", b"a1") in subscriber)

    rig.run(main)


def test_subscribers_are_told_apart(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        first, second = [await connected(rig, publisher) for _ in range(2)]
        first.transport.subscribe(b"a")
        second.transport.subscribe(b"a")
        await fence(rig, publisher, first)
        await fence(rig, publisher, second)
        assert publisher == on(b"a", b"a")
        first.transport.unsubscribe(b"a")
        await fence(rig, publisher, first)
        publisher.transport.publish(b"a1")
        await rig.until(lambda: ("published", b"a1") in second)
        assert ("published", b"a1") not in first
        second.transport.close()
        await rig.until(lambda: publisher == [*on(b"a", b"a"), *off(b"a", b"a")])

    rig.run(main)


def test_who_closes_unsubscribes_once_from_each(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        watcher = await connected(rig, publisher)
        for tag in (b"b", b"a", b"a"):
            subscriber.transport.subscribe(tag)
        await fence(rig, publisher, subscriber)
        del publisher[:], subscriber[:]
        subscriber.transport.close()
        await rig.until(lambda: len(publisher) == 2)
        await fence(rig, publisher, watcher)
        assert sorted(publisher) == off(b"a", b"b")
        assert subscriber == []

    rig.run(main)


def test_a_broken_connection_unsubscribes_and_the_next_one_subscribes_once_from_each(
    rig: Rig,
) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        for tag in (b"b", b"a", b"a"):
            subscriber.transport.subscribe(tag)
        await fence(rig, publisher, subscriber)
        del publisher[:], subscriber[:]
        rig.cut(publisher.transport.endpoint)
        if rig.tells_of_loss:
            await rig.until(lambda: len(publisher) == 4)
            await fence(rig, publisher, subscriber)
            assert sorted(publisher[:2]) == off(b"a", b"b")
            assert sorted(publisher[2:]) == on(b"a", b"b")
            assert subscriber == ["disconnected", "connected"]
        publisher.transport.publish(b"a1")
        await rig.until(lambda: ("published", b"a1") in subscriber)
        # Both count still, though one was told.
        subscriber.transport.unsubscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher[4:] == []
        subscriber.transport.unsubscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher[-1:] == off(b"a")

    rig.run(main)


def test_what_is_not_allowed_is_not_received_but_its_end_is_told(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        publisher.forbidden = b"a"
        subscriber = await connected(rig, publisher)
        watcher = await connected(rig, publisher)
        for tag in (b"a", b"b"):
            subscriber.transport.subscribe(tag)
        await fence(rig, publisher, subscriber)
        assert publisher == on(b"b")
        publisher.transport.publish(b"a1")
        publisher.transport.publish(b"b1")
        await rig.until(lambda: ("published", b"b1") in subscriber)
        assert ("published", b"a1") not in subscriber
        subscriber.transport.unsubscribe(b"a")
        subscriber.transport.subscribe(b"a")
        await fence(rig, publisher, subscriber)
        assert publisher == [*on(b"b"), *off(b"a")]
        subscriber.transport.close()
        await rig.until(lambda: len(publisher) == 4)
        await fence(rig, publisher, watcher)
        assert sorted(publisher[2:]) == off(b"a", b"b")

    rig.run(main)


def test_a_tag_is_a_prefix(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        subscriber.transport.subscribe(b"ab")
        subscriber.transport.subscribe(b"abc")
        await fence(rig, publisher, subscriber)
        for frame in (b"a", b"ab", b"abcd", b"b", b"ab-last"):
            publisher.transport.publish(frame)
        await rig.until(lambda: ("published", b"ab-last") in subscriber)
        published = [event[1] for event in subscriber if event[0] == "published"]
        assert published == [b"ab", b"abcd", b"ab-last"]
        subscriber.transport.subscribe(b"")
        await fence(rig, publisher, subscriber)
        publisher.transport.publish(b"anything")
        await rig.until(lambda: ("published", b"anything") in subscriber)

    rig.run(main)


def test_what_was_published_before_the_subscription_arrived_is_lost(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        publisher.transport.publish(b"a0")
        subscriber = await connected(rig, publisher)
        publisher.transport.publish(b"a1")
        subscriber.transport.subscribe(b"a")
        publisher.transport.publish(b"a2")
        await fence(rig, publisher, subscriber)
        publisher.transport.publish(b"a3")
        await rig.until(lambda: ("published", b"a3") in subscriber)
        assert [event for event in subscriber if event != "connected"] == [("published", b"a3")]

    rig.run(main)


def test_what_is_under_way_when_one_unsubscribes_is_dropped(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher)
        for tag in (b"a", b"b"):
            subscriber.transport.subscribe(tag)
        await fence(rig, publisher, subscriber)
        publisher.transport.publish(b"a1")
        subscriber.transport.unsubscribe(b"a")
        publisher.transport.publish(b"b1")
        await rig.until(lambda: ("published", b"b1") in subscriber)
        assert ("published", b"a1") not in subscriber

    rig.run(main)


def test_a_subscriber_comes_back_to_another_publisher(rig: Rig) -> None:
    async def main() -> None:
        publisher = Publisher(rig)
        endpoint = publisher.transport.endpoint
        subscriber = await connected(rig, publisher)
        subscriber.transport.subscribe(b"a")
        await fence(rig, publisher, subscriber)
        del publisher[:], subscriber[:]
        publisher.transport.close()
        another = await bound_again(rig, Publisher, endpoint)
        await rig.until(lambda: another and "connected" in subscriber)
        assert another == on(b"a")
        assert subscriber == ["disconnected", "connected"]
        assert publisher == []

    rig.run(main)


def test_subscribing_where_nobody_publishes(rig: Rig) -> None:
    async def main() -> None:
        endpoint = await free_endpoint(rig)
        subscriber = Subscriber(rig, endpoint)
        for tag in (b"b", b"a", b"a"):
            subscriber.transport.subscribe(tag)
        publisher = await bound_again(rig, Publisher, endpoint)
        await rig.until(lambda: subscriber == ["connected"])
        await fence(rig, publisher, subscriber)
        assert sorted(publisher) == on(b"a", b"b")

    rig.run(main)


def test_a_subscriber_that_is_far_ahead_loses_subscriptions(zmq_rig: ZmqRig) -> None:
    """In memory this is ``Faults.subscription_loss``."""
    rig, count = zmq_rig, 20_000

    async def main() -> None:
        publisher = Publisher(rig)
        subscriber = await connected(rig, publisher, SNDHWM=10)
        for number in range(count):
            subscriber.transport.subscribe(b"%d" % number)
        for _ in range(1_000):  # until the first fence that is not lost
            subscriber.transport.subscribe(b"fence")
            await rig.pause(0.001)
            if ("subscribed", b"fence") in publisher:
                break
        told = [tag for _, tag in publisher if tag != b"fence"]
        assert 0 < len(told) < count
        # What was lost stays lost.
        await fence(rig, publisher, subscriber)
        assert len([tag for _, tag in publisher if tag != b"fence"]) == len(told)

    rig.run(main)
