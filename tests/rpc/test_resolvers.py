"""When a name is looked up, what becomes of the answer; in virtual time, with a fake of the DNS."""

from __future__ import annotations

import copy
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSServerError

from tests.rpc.fake_dns import FakeDns, Noted, World, a, names, timed_out
from tests.support import Logged, Loop
from txzmq.rpc import DnsResolver, ResolvedAddress, Resolver, StaticResolver
from txzmq.rpc._net.dns import SystemDns


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.end()


def test_addresses_are_told_when_they_change_and_only_then(world: World) -> None:
    world.dns.set_ips("h", "192.0.2.1")
    world.start()
    assert world.noted.addresses == ["tcp://192.0.2.1:80"]
    world.clock.advance(70)
    assert world.rounds() == 2
    assert len(world.noted.told) == 1
    world.dns.set_ips("h", "192.0.2.2", "192.0.2.1")
    world.clock.advance(70)
    assert world.noted.addresses == ["tcp://192.0.2.1:80", "tcp://192.0.2.2:80"]
    world.dns.set_ips("h", "192.0.2.1", "192.0.2.2")  # another order is no change
    world.clock.advance(70)
    assert world.rounds() == 4
    assert len(world.noted.told) == 2


def test_both_families_each_once_ipv4_first(world: World) -> None:
    world.dns.set_ips("h", "::1", "192.0.2.10", "2001:DB8:0::1", "192.0.2.9", "192.0.2.10")
    world.start()
    assert world.noted.addresses == [
        "tcp://192.0.2.9:80",
        "tcp://192.0.2.10:80",
        "tcp://[::1]:80",
        "tcp://[2001:db8::1]:80",
    ]
    assert world.noted.told[0][0] == ResolvedAddress("tcp://192.0.2.9:80", 0, 1)


@pytest.mark.parametrize(
    ("ttl", "interval"), [(0, 30), (29, 30), (100, 100), (300, 300), (86_400, 300)]
)
def test_the_time_to_live_says_when_within_a_floor_and_a_ceiling(
    world: World, ttl: int, interval: float
) -> None:
    world.dns.set_ips("h", "192.0.2.1", ttl=ttl)
    world.start()
    assert interval <= world.next_question_in() <= interval * 1.1


def test_the_shortest_time_to_live_counts_an_aliass_too(world: World) -> None:
    alias = names.RRHeader(b"h", dns.CNAME, dns.IN, 50, names.Record_CNAME(b"g"))
    world.dns.zone["h", dns.A] = [alias, a("g", "192.0.2.1", 200)]
    world.start()
    assert 50 <= world.next_question_in() <= 55


def test_clients_drift_apart() -> None:
    intervals = set[float]()
    for _ in range(20):
        world = World()
        world.dns.set_ips("h", "192.0.2.1", ttl=100)
        world.start()
        intervals.add(world.next_question_in())
        world.end()
    assert len(intervals) > 10
    assert max(intervals) - min(intervals) > 2


def test_resolve_now_is_heard_once_the_minimum_is_over(world: World) -> None:
    world.dns.set_ips("h", "192.0.2.1", ttl=300)
    world.start()
    for _ in range(10):
        world.resolver.resolve_now()
    world.clock.advance(29.9)
    assert world.rounds() == 1
    world.clock.advance(0.2)
    assert world.rounds() == 2
    world.clock.advance(100)
    world.dns.set_ips("h", "192.0.2.2", ttl=300)
    world.resolver.resolve_now()
    world.resolver.resolve_now()
    world.clock.advance(0)  # at once, for the last answer is old; but not within the call
    assert world.rounds() == 3
    assert world.noted.addresses == ["tcp://192.0.2.2:80"]


def test_resolve_now_does_not_put_off_what_comes_sooner() -> None:
    world = World(min_interval=5)
    world.dns.set_ips("h", "192.0.2.1", ttl=5)
    world.start()
    soon = world.next_question_in()
    world.resolver.resolve_now()
    assert world.next_question_in() <= soon
    world.end()


def test_resolve_now_goes_by_the_clock_and_not_by_what_its_timers_say() -> None:
    """A reactor's timers tell the time of day, and the clock that is used is another."""

    class Monotonic:
        def __init__(self, clock: Clock) -> None:
            self.callLater: Any = clock.callLater
            self._clock = clock

        def seconds(self) -> float:
            return self._clock.seconds() - 1e9

    world = World(min_interval=60)
    world.dns.set_ips("h", "192.0.2.1", ttl=60)
    world.resolver.start(Monotonic(world.clock), world.noted)
    soon = world.next_question_in()
    world.clock.advance(1)
    world.resolver._not_before += 1000  # pyright: ignore[reportPrivateUsage]  # any later time
    world.resolver.resolve_now()
    assert world.next_question_in() == soon - 1
    world.end()


def test_resolve_now_while_a_question_is_open_asks_no_second(world: World) -> None:
    world.dns.zone["h", dns.A] = None
    world.start()
    world.resolver.resolve_now()
    assert world.rounds() == 1
    world.dns.waiting[0].callback(([a("h", "192.0.2.1", 60)], [], []))
    assert world.noted.addresses == ["tcp://192.0.2.1:80"]


def test_failures_are_told_until_there_was_an_answer_with_backoff(world: World) -> None:
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = timed_out()
    world.start()
    wait = 1.0
    for attempt in range(1, 16):
        assert len(world.noted.errors) == attempt
        assert wait * 0.8 <= world.next_question_in() <= wait * 1.2
        world.resolver.resolve_now()  # does not break into the backoff
        assert world.next_question_in() >= wait * 0.8
        world.clock.advance(world.next_question_in())
        wait = min(wait * 1.6, 120)
    assert set(world.noted.errors) == {"dns:///h:80 cannot be resolved: no DNS server answers"}
    world.dns.set_ips("h", "192.0.2.1")
    world.clock.advance(150)
    assert world.noted.addresses == ["tcp://192.0.2.1:80"]
    world.dns.zone["h", dns.A] = DNSServerError(None)
    world.clock.advance(70)
    assert world.next_question_in() >= 0.8 or world.noted.told  # a new failure begins anew


def test_the_last_good_answer_stays_and_its_loss_is_logged_once(
    world: World, logged: Logged
) -> None:
    world.dns.set_ips("h", "192.0.2.1")
    world.start()
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = DNSServerError(None)
    world.clock.advance(70)
    assert 0.8 <= world.next_question_in() <= 1.2
    for _ in range(5):
        world.clock.advance(world.next_question_in())
    assert len(world.noted.told) == 1
    assert world.noted.errors == []
    (warning,) = logged.warnings()
    assert "the DNS server refuses or fails (DNSServerError)" in warning["error"]
    world.dns.set_ips("h", "192.0.2.1")
    world.clock.advance(20)
    assert len(world.noted.told) == 1
    assert "can be resolved again" in logged[-1]["log_format"]
    assert 60 <= world.next_question_in() <= 66


def test_a_family_that_fails_keeps_its_addresses_and_is_asked_soon(world: World) -> None:
    world.dns.set_ips("h", "192.0.2.1", "::1", ttl=300)
    world.start()
    world.dns.set_ips("h", "192.0.2.2", ttl=300)
    world.dns.zone["h", dns.AAAA] = DNSServerError(None)
    world.clock.advance(330)
    assert world.noted.addresses == ["tcp://192.0.2.2:80", "tcp://[::1]:80"]
    assert 30 <= world.next_question_in() <= 33
    world.dns.set_ips("h", "192.0.2.2", ttl=300)
    world.clock.advance(33)
    assert world.noted.addresses == ["tcp://192.0.2.2:80"]


def test_a_family_that_fails_from_the_start_does_not_hold_up_the_other(world: World) -> None:
    world.dns.set_ips("h", "192.0.2.1")
    world.dns.zone["h", dns.AAAA] = timed_out()
    world.start()
    assert world.noted.addresses == ["tcp://192.0.2.1:80"]


@pytest.mark.parametrize("gone", ["no such name", "no records"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_name_without_records(gone: str, trusted: bool, logged: Logged) -> None:
    world = World(trust_empty=trusted)

    def remove() -> None:
        world.dns.zone.clear()
        if gone == "no records":
            world.dns.set_ips("h")

    remove()
    world.start()
    assert world.noted.errors == [
        "dns:///h:80 cannot be resolved: h has no A or AAAA record"
    ]  # nobody has seen it alive: an error, trusted or not
    world.dns.set_ips("h", "192.0.2.1")
    world.clock.advance(2)
    remove()
    world.clock.advance(70)
    assert world.noted.told[1:] == ([[]] if trusted else [])
    assert len(logged.warnings()) == (0 if trusted else 1)
    world.dns.set_ips("h", "192.0.2.2")
    world.clock.advance(2)
    assert world.noted.addresses == ["tcp://192.0.2.2:80"]
    assert len(world.noted.errors) == 1
    world.end()


def test_a_client_that_never_answers_is_given_up(world: World) -> None:
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = None
    world.start()
    world.clock.advance(29)
    assert world.noted.errors == []
    world.clock.advance(1)
    assert world.noted.errors == ["dns:///h:80 cannot be resolved: no DNS server answers"]
    assert world.dns.cancelled == 2


def test_closing_ends_questions_and_timers() -> None:
    world = World()
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = None
    world.start()
    world.end()
    world.end()
    assert world.dns.cancelled == 2
    world.resolver.resolve_now()
    world.clock.advance(1000)
    assert world.noted.told == []
    assert world.noted.errors == []


@pytest.mark.parametrize("answers", [True, False])
def test_the_listener_may_close(answers: bool) -> None:
    world = World()
    if answers:
        world.dns.set_ips("h", "192.0.2.1")
    world.noted.then = world.resolver.close
    world.start()
    world.end()
    assert world.rounds() == 1


def test_a_bug_of_the_listener_is_logged_and_ends_nothing(world: World, logged: Logged) -> None:
    world.dns.set_ips("h", "192.0.2.1")
    world.noted.then = lambda: 1 / 0
    world.start()
    assert [type(failure) for failure in logged.failures()] == [ZeroDivisionError]
    world.clock.advance(70)
    assert world.rounds() == 2


@pytest.mark.parametrize(
    "resolver",
    [StaticResolver("tcp://127.0.0.1:1"), DnsResolver("dns:127.0.0.1:80", client=FakeDns())],
    ids=["static", "dns"],
)
def test_a_resolver_serves_one_channel(resolver: Resolver) -> None:
    resolver.start(Clock(), Noted())
    with pytest.raises(RuntimeError, match="one channel"):
        resolver.start(Clock(), Noted())


def test_static_addresses_are_told_at_once_in_their_order() -> None:
    resolver, noted, clock = StaticResolver(["ipc:///b", "ipc:///a", "ipc:///b"]), Noted(), Clock()
    resolver.start(clock, noted)
    resolver.resolve_now()
    assert noted.told == [[ResolvedAddress("ipc:///b"), ResolvedAddress("ipc:///a")]]
    resolver.close()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("target", "address"),
    [("dns:127.0.0.1:80", "tcp://127.0.0.1:80"), ("dns:///[::1]:80", "tcp://[::1]:80")],
)
def test_a_number_is_not_looked_up(target: str, address: str) -> None:
    world = World(target)
    world.start()
    assert world.noted.addresses == [address]
    world.resolver.resolve_now()
    assert world.dns.asked == []
    world.end()


@pytest.mark.parametrize("intervals", [(0, 10), (-1, 10), (20, 10), (float("nan"), 10)])
def test_intervals_that_are_none(intervals: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="min_interval"):
        DnsResolver("dns:h:80", min_interval=intervals[0], max_interval=intervals[1])


def test_a_cancelled_question_of_the_client_is_a_failure_like_any(world: World) -> None:
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = CancelledError()
    world.start()
    assert len(world.noted.errors) == 1


# -- addresses ----------------------------------------------------------------------------------


def test_an_address_is_a_tuple() -> None:
    address = ResolvedAddress("tcp://h:1", weight=5)
    assert address == ("tcp://h:1", 0, 5)
    assert repr(address) == "ResolvedAddress(address='tcp://h:1', priority=0, weight=5)"
    copies = [pickle.loads(pickle.dumps(address)), copy.deepcopy(address), address._replace()]
    for same in copies:
        assert same == address
        assert type(same) is ResolvedAddress


# -- the log ------------------------------------------------------------------------------------


def test_a_query_logs_no_protocol_that_starts_and_stops(one_loop: Loop, logged: Logged) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port: int = closed.getsockname()[1]

    async def ask() -> None:
        with pytest.raises(ConnectionRefusedError):
            await SystemDns(one_loop.reactor, ("127.0.0.1", port)).lookupAddress("h.test")

    one_loop.run(ask)
    lines = [event["log_text"] for event in logged if "log_text" in event]
    assert not [line for line in lines if "protocol" in line]
