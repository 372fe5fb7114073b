"""Connections of clients that do not want to be told that they are to connect anew."""

from __future__ import annotations

from collections import Counter
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.auth.support import ALICE, BOB
from tests.rpc.service import ECHO, Echo, text
from tests.rpc.trusted import Raw, Trusted, failure
from tests.support import Loop
from txzmq._ids import new_epoch, request_id
from txzmq.auth import ClientKeys, Identity
from txzmq.rpc import Count, ServerLimits, Unauthenticated
from txzmq.rpc._server.ages import ConnectionAges, KeyCheck, PeerAge
from txzmq.rpc._wire.headers import RequestHead, encode_request


class Silent:
    """A listener whose clients cannot be told, as they speak as proxies do."""

    def tell_to_reconnect(self, peer: bytes) -> bool:
        return False

    def grace_is_over(self, peer: bytes) -> None:
        raise AssertionError("nobody was told")


class Connection:
    def __init__(self) -> None:
        #: One for each time.
        self.ended: list[str] = []

    def is_open(self) -> bool:
        return not self.ended

    def end(self) -> None:
        self.ended.append("ended")


class Ages:
    """Ages of ten seconds, give or take one; the test says who has which key."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[Identity | None]] = []
        self.counts: Counter[str] = Counter()
        self.ages = ConnectionAges(
            self.clock, Random(1), 10.0, 5.0, self._count, KeyCheck(self._look_again, 2.0)
        )
        self.connection = Connection()

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def _look_again(self, key: str) -> Deferred[Identity | None]:
        assert key == "key"
        self.asked.append(Deferred())
        return self.asked[-1]

    def begin(self, *, let_in: bool = True) -> PeerAge:
        if let_in:
            self.ages.looked_at("key")
        return self.ages.begin(Silent(), b"peer", self.connection, "key")


def test_the_key_of_who_cannot_be_told_is_looked_at_again_and_again() -> None:
    ages = Ages()
    ages.begin()
    for number in range(1, 6):
        ages.clock.advance(11.1)
        assert len(ages.asked) == number
        ages.asked[-1].callback(Identity("alice"))
    ages.clock.advance(11.1)
    assert not ages.connection.ended
    ages.asked[-1].callback(None)
    ages.clock.advance(1.1)  # in which its calls may be answered
    assert ages.connection.ended == ["ended"]
    assert not ages.clock.getDelayedCalls()


def test_who_decides_late_or_not_at_all_lets_nobody_stay() -> None:
    for answer in (None, ZeroDivisionError()):
        ages = Ages()
        ages.begin()
        ages.clock.advance(11.1)
        if answer is not None:
            ages.asked[-1].errback(answer)
        ages.clock.advance(2.1)
        assert ages.connection.ended == ["ended"]
        if answer is None:
            ages.asked[-1].callback(Identity("alice"))
        assert not ages.clock.getDelayedCalls()


def test_an_answer_for_who_has_gone_and_one_after_the_end_change_nothing() -> None:
    ages = Ages()
    age = ages.begin()
    ages.clock.advance(11.1)
    age.stop()
    ages.asked[-1].callback(None)
    other = Ages()
    other.begin()
    other.clock.advance(11.1)
    other.ages.close()
    other.asked[-1].callback(Identity("alice"))
    for each in (ages, other):
        each.clock.advance(30)
        assert not each.connection.ended
        assert not each.clock.getDelayedCalls()


def test_who_was_connected_for_long_and_said_nothing_is_looked_at_when_it_does() -> None:
    ages = Ages()
    ages.ages.looked_at("key")
    ages.clock.advance(9)
    ages.begin(let_in=False)
    assert not ages.asked
    ages.clock.advance(1)
    ages.begin(let_in=False)
    assert len(ages.asked) == 1
    ages.asked[0].callback(Identity("alice"))
    ages.begin(let_in=False)
    assert len(ages.asked) == 1


def test_who_lies_about_being_a_proxy_can_do_nothing_without_the_key(one_loop: Loop) -> None:
    """Its calls are refused from then on, and its connection is ended."""
    names = {ALICE.public_key: "alice", BOB.public_key: "bob"}
    asked: list[str] = []

    def clients(key: str, address: str) -> Identity | None:
        asked.append(names.get(key, "nobody"))
        return Identity(names[key]) if key in names else None

    echo = Echo()
    world = Trusted(
        one_loop, [echo], clients=ClientKeys(clients), limits=ServerLimits(connection_age=0.2)
    )

    async def main() -> None:
        raw = Raw(world, ALICE)
        await raw.ready()
        epoch = new_epoch()
        for number in range(1, 1_000):
            header = encode_request(RequestHead(ECHO.path, None, ()))
            id_ = request_id(epoch, number)
            body = text("x").SerializeToString()
            raw.client.transport.send_message([b"behind", id_, b"", header, body])
            await one_loop.sleep(0.02)
            if number == 20:
                names.pop(ALICE.public_key)
            if "disconnected" in raw.client.events:
                break
        assert "disconnected" in raw.client.events
        assert world.server.counters[Count.UNAUTHENTICATED] > 0
        seen = len(echo.seen)
        call = world.channel(ALICE).unary_unary(ECHO, text("x"), timeout=5)
        assert type(await failure(call)) is Unauthenticated
        assert (await world.channel(BOB).unary_unary(ECHO, text("y"), timeout=5)).value == "y"
        assert echo.seen[seen:] == ["y"]
        raw.close()

    world.run(main)
    assert asked.count("alice") > 1
