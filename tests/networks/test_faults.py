"""What a network in memory does to messages, by seed and by script."""

from __future__ import annotations

import pytest

from tests.networks.support import Told
from txzmq.rpc.transport import SendResult
from txzmq.testing import Carried, Faults, MemoryNetwork, MessageKind, Script

ADDRESS = "inproc://x"


class Pair:
    """A publisher and a subscriber, or a server and a client, that are connected."""

    def __init__(self, faults: Faults | None = None, script: Script | None = None) -> None:
        self.network = network = MemoryNetwork(faults, script=script)
        self.publisher, self.subscriber = Told(), Told()
        self.server, self.client = Told(), Told()
        self.publisher.transport = network.publish(f"{ADDRESS}.streams", self.publisher, {})
        self.subscriber.transport = network.subscribe(f"{ADDRESS}.streams", self.subscriber, {})
        self.server.transport = network.listen(ADDRESS, self.server, {})
        self.client.transport = network.connect(ADDRESS, self.client, {})
        network.run()

    def subscribe(self, tag: bytes = b"a") -> None:
        self.subscriber.transport.subscribe(tag)
        self.network.run()

    def meet(self) -> bytes:
        self.client.transport.send_message([b"meet"])
        self.network.run()
        peer: bytes = self.server[-1][1]
        self.server.clear()
        return peer


def test_a_subscription_may_be_lost() -> None:
    pair = Pair(Faults(subscription_loss=1, loss=0))
    pair.subscribe()
    assert pair.publisher == []
    pair.publisher.transport.publish(b"a1")
    pair.network.run()
    assert pair.subscriber == ["connected"]


def test_an_unsubscription_may_be_lost_and_the_end_of_the_connection_is_not() -> None:
    script = Script({1: "lost"})
    pair = Pair(script=script)
    pair.subscribe()
    pair.subscriber.transport.unsubscribe(b"a")
    pair.network.run()
    assert pair.publisher == [("subscribed", b"a")]
    pair.network.cut(f"{ADDRESS}.streams")
    assert pair.publisher == [("subscribed", b"a"), ("unsubscribed", b"a")]


def test_a_subscription_may_come_twice() -> None:
    pair = Pair(Faults(subscription_duplication=1))
    pair.subscribe()
    assert pair.publisher == [("subscribed", b"a")] * 2


def test_a_subscription_may_take_its_time() -> None:
    pair = Pair(Faults(subscription_delay=5, seed=1))
    pair.subscribe()
    assert pair.publisher == []
    pair.network.advance(5)
    assert pair.publisher == [("subscribed", b"a")]


def test_a_subscription_of_a_connection_that_broke_does_not_arrive() -> None:
    pair = Pair(Faults(subscription_delay=5, seed=1))
    pair.subscribe()
    pair.network.cut(f"{ADDRESS}.streams")
    pair.network.advance(0.2)  # connected again
    pair.subscriber.transport.unsubscribe(b"a")
    pair.network.advance(10)
    assert pair.publisher.count(("subscribed", b"a")) == 1


def test_other_messages_are_spared_by_the_faults_of_subscriptions() -> None:
    pair = Pair(Faults(subscription_loss=1, subscription_duplication=1, subscription_delay=9))
    pair.client.transport.send_message([b"x"])
    pair.network.run()
    assert len(pair.server) == 1


def test_strangers_unsubscribe() -> None:
    pair = Pair(Faults(strangers=1))
    pair.subscribe()
    pair.network.advance(0.1)
    assert pair.publisher == [("subscribed", b"a"), ("unsubscribed", b"a")]
    pair.publisher.transport.publish(b"a1")
    pair.network.run()
    assert ("published", b"a1") in pair.subscriber


def test_a_loss_may_not_be_reported() -> None:
    pair = Pair(Faults(unreported_loss=1))
    peer = pair.meet()
    pair.network.cut(ADDRESS)
    pair.network.advance(100)
    assert pair.server == []
    assert pair.client == ["connected", "disconnected", "connected"]
    assert pair.server.transport.send_message([peer, b"x"]) is SendResult.UNREACHABLE


def test_a_loss_may_be_reported_late() -> None:
    pair = Pair(Faults(late_loss=5, seed=1))
    peer = pair.meet()
    pair.client.transport.close()
    pair.network.run()
    assert pair.server == []
    assert pair.server.transport.send_message([peer, b"x"]) is SendResult.SENT
    pair.network.advance(5)
    assert pair.server == [("lost", peer)]
    assert pair.server.transport.send_message([peer, b"x"]) is SendResult.UNREACHABLE


@pytest.mark.parametrize("loses", [0, 1])
def test_what_was_sent_before_a_socket_closed_may_be_lost(loses: int) -> None:
    pair = Pair(Faults(loss_at_close=loses))
    pair.subscribe()
    peer = pair.meet()
    pair.server.transport.send_message([peer, b"last"])
    pair.publisher.transport.publish(b"a1")
    pair.server.transport.close()
    pair.publisher.transport.close()
    pair.network.run()
    assert (("received", b"last") not in pair.client) is bool(loses)
    assert (("published", b"a1") not in pair.subscriber) is bool(loses)


def test_the_same_seed_does_the_same() -> None:
    faults = Faults(seed=3, subscription_loss=0.5, subscription_duplication=0.5, strangers=0.5)
    runs: list[list[object]] = []
    for _ in range(2):
        pair = Pair(faults)
        for number in range(30):
            pair.subscribe(b"%d" % number)
        pair.network.advance(1)
        runs.append(list(pair.publisher))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 5


def test_a_script_has_every_message() -> None:
    script = Script()
    pair = Pair(script=script)
    peer = pair.meet()
    pair.server.transport.send_message([peer, b"reply"])
    pair.subscribe()
    pair.publisher.transport.publish(b"a1")
    pair.subscriber.transport.unsubscribe(b"a")
    pair.network.run()
    assert script.carried == [
        Carried(MessageKind.REQUEST, (b"meet",)),
        Carried(MessageKind.REPLY, (b"reply",)),
        Carried(MessageKind.SUBSCRIPTION, (b"a",)),
        Carried(MessageKind.PUBLICATION, (b"a1",)),
        Carried(MessageKind.UNSUBSCRIPTION, (b"a",)),
    ]


def test_a_script_loses_doubles_and_delays_what_it_says() -> None:
    script = Script({0: "lost", 1: "doubled", 2: "late"}, late=3)
    pair = Pair(script=script)
    for number in range(4):
        pair.client.transport.send_message([b"%d" % number])
    pair.network.run()
    assert [event[2] for event in pair.server] == [b"1", b"1", b"3"]
    pair.network.advance(3)
    assert [event[2] for event in pair.server] == [b"1", b"1", b"3", b"2"]


def test_a_script_can_be_added_to_for_what_is_to_come() -> None:
    script = Script()
    pair = Pair(script=script)
    pair.meet()
    script.fault_at(1, "lost")
    pair.client.transport.send_message([b"x"])
    pair.network.run()
    assert pair.server == []
    with pytest.raises(ValueError, match="message 1 was sent already"):
        script.fault_at(1, "lost")
