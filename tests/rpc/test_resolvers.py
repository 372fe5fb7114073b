"""When a name is looked up, what becomes of the answer; in virtual time, with a fake of the DNS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DNSServerError

from tests.support import Logged
from txzmq.rpc import DnsResolver, ResolvedAddress, Resolver, StaticResolver, Unavailable

names: Any = dns  # twisted.names is untyped in parts

timed_out: Any = partial(DNSQueryTimeoutError, 1)  # Any: as above

Result = Sequence[Any] | Exception | None


class FakeDns:
    """Answers what the test has set, at once; what is set to None when the test says so."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, int], Result] = {}
        self.additional: list[Any] = []
        self.asked: list[tuple[str, int]] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    def lookupAddress(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.A)

    def lookupIPV6Address(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.AAAA)

    def lookupService(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.SRV)

    def _answer(self, name: str, kind: int) -> Deferred[Any]:
        self.asked.append((name, kind))
        result = self.zone.get((name, kind), DNSNameError(name))
        if result is None:
            waiting: Deferred[Any] = Deferred(self._cancel)
            self.waiting.append(waiting)
            return waiting
        if isinstance(result, Exception):
            return fail(result)
        return succeed((result, [], self.additional))

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    def set_ips(self, name: str, *ips: str, ttl: int = 60) -> None:
        """The addresses of a name, which may be a list of none."""
        self.zone[name, dns.A] = [a(name, ip, ttl) for ip in ips if ":" not in ip]
        self.zone[name, dns.AAAA] = [a(name, ip, ttl) for ip in ips if ":" in ip]

    def set_services(self, name: str, *services: tuple[str, int, int, int], ttl: int = 60) -> None:
        """Host, port, priority, weight."""
        self.zone[name, dns.SRV] = [
            names.RRHeader(
                name.encode(), dns.SRV, dns.IN, ttl, names.Record_SRV(priority, weight, port, host)
            )
            for host, port, priority, weight in services
        ]


def a(name: str, ip: str, ttl: int) -> Any:
    kind, payload = (dns.AAAA, names.Record_AAAA(ip)) if ":" in ip else (dns.A, names.Record_A(ip))
    return names.RRHeader(name.encode(), kind, dns.IN, ttl, payload)


class Noted:
    """What a resolver told."""

    def __init__(self) -> None:
        self.told: list[list[ResolvedAddress]] = []
        self.errors: list[str] = []
        self.then: Callable[[], object] = lambda: None

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        self.told.append(list(addresses))
        self.then()

    def not_resolved(self, error: Unavailable) -> None:
        self.errors.append(error.message)
        self.then()

    @property
    def addresses(self) -> list[str]:
        """Those told last."""
        return [address.address for address in self.told[-1]]


class World:
    """A resolver with its surroundings."""

    def __init__(self, target: str = "dns:///h:80", **options: Any) -> None:
        self.clock: Any = Clock()  # Any: its calls are typed with a zope interface
        self.dns = FakeDns()
        self.noted = Noted()
        self.resolver = DnsResolver(target, client=self.dns, **options)

    def start(self) -> None:
        self.resolver.start(self.clock, self.noted)

    def next_question_in(self) -> float:
        (call,) = self.clock.getDelayedCalls()
        return float(call.getTime() - self.clock.seconds())

    def rounds(self) -> int:
        return sum(kind == dns.A for _, kind in self.dns.asked)

    def end(self) -> None:
        self.resolver.close()
        assert self.clock.getDelayedCalls() == []


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


# -- SRV -------------------------------------------------------------------------------------------

SRV = "_rpc._tcp.example.org"


@pytest.fixture
def srv() -> Iterator[World]:
    world = World(f"dns+srv:{SRV}")
    yield world
    world.end()


def test_srv_records_have_ports_priorities_and_weights(srv: World) -> None:
    srv.dns.set_services(SRV, ("b", 2, 20, 5), ("a", 1, 10, 1), ("b", 3, 10, 9), ttl=100)
    srv.dns.set_ips("a", "192.0.2.1", "::1", ttl=200)
    srv.dns.set_ips("b", "192.0.2.2", ttl=90)
    srv.start()
    assert srv.noted.told == [
        [
            ResolvedAddress("tcp://192.0.2.2:3", 10, 9),
            ResolvedAddress("tcp://192.0.2.1:1", 10, 1),
            ResolvedAddress("tcp://[::1]:1", 10, 1),
            ResolvedAddress("tcp://192.0.2.2:2", 20, 5),
        ]
    ]
    assert len(srv.dns.asked) == 5  # each host once
    assert 90 <= srv.next_question_in() <= 99


def test_an_address_told_twice_counts_where_it_is_best(srv: World) -> None:
    srv.dns.set_services(SRV, ("a", 1, 20, 9), ("b", 1, 10, 1), ("a", 1, 10, 2))
    srv.dns.set_ips("a", "192.0.2.1")
    srv.dns.set_ips("b", "192.0.2.1")
    srv.start()
    assert srv.noted.told == [[ResolvedAddress("tcp://192.0.2.1:1", 10, 2)]]


def test_addresses_that_come_along_are_not_asked_for(srv: World) -> None:
    srv.dns.set_services(SRV, ("A.example.org", 1, 0, 0))
    srv.dns.additional = [a("a.example.org", "192.0.2.1", 40), a("other", "192.0.2.2", 1)]
    srv.start()
    assert srv.noted.told == [[ResolvedAddress("tcp://192.0.2.1:1", 0, 0)]]
    assert srv.dns.asked == [(SRV, dns.SRV)]
    assert 40 <= srv.next_question_in() <= 44


@pytest.mark.parametrize("services", [[], [("", 0, 0, 0)], [("", 80, 0, 0)], [("a", 0, 0, 0)]])
def test_a_service_that_is_decidedly_not_there(
    srv: World, services: list[tuple[str, int, int, int]]
) -> None:
    srv.dns.set_services(SRV, *services)
    srv.dns.set_ips("a", "192.0.2.1")
    srv.start()
    assert srv.noted.errors == [f"dns+srv:{SRV} cannot be resolved: {SRV} has no SRV record"]


def test_srv_errors_say_what_was_missing(srv: World) -> None:
    srv.start()
    srv.dns.set_services(SRV, ("a", 1, 0, 0))
    srv.clock.advance(2)
    srv.dns.zone["a", dns.A] = srv.dns.zone["a", dns.AAAA] = timed_out()
    srv.clock.advance(2)
    srv.dns.zone[SRV, dns.SRV] = ConnectionRefusedError("nothing listens there")
    srv.clock.advance(4)
    assert [
        error.removeprefix(f"dns+srv:{SRV} cannot be resolved: ") for error in srv.noted.errors
    ] == [
        f"{SRV} does not exist",
        f"no host of {SRV} has an A or AAAA record",
        "no DNS server answers",
        "no DNS server can be reached (nothing listens there)",
    ]


def test_a_host_that_cannot_be_asked_keeps_its_addresses(srv: World) -> None:
    srv.dns.set_services(SRV, ("a", 1, 0, 0), ("b", 1, 0, 0))
    srv.dns.set_ips("a", "192.0.2.1")
    srv.dns.set_ips("b", "192.0.2.2")
    srv.start()
    srv.dns.zone["a", dns.A] = srv.dns.zone["a", dns.AAAA] = DNSServerError(None)
    srv.dns.set_ips("b", "192.0.2.3")
    srv.clock.advance(70)
    assert srv.noted.addresses == ["tcp://192.0.2.1:1", "tcp://192.0.2.3:1"]


def test_many_hosts_are_asked_some_at_a_time(srv: World) -> None:
    hosts = [f"h{i}" for i in range(50)]
    srv.dns.set_services(SRV, *((host, 1, 0, 0) for host in hosts))
    for host in hosts:
        srv.dns.zone[host, dns.A] = None
    srv.start()
    assert len(srv.dns.waiting) == 16
    for i in range(50):
        srv.dns.waiting[i].callback(([a("x", f"192.0.2.{i}", 60)], [], []))
    assert len(srv.noted.addresses) == 50


def test_many_hosts_that_do_not_answer_are_given_up_together(srv: World) -> None:
    srv.dns.set_services(SRV, *((f"h{i}", 1, 0, 0) for i in range(50)))
    for i in range(50):
        srv.dns.zone[f"h{i}", dns.A] = None
    srv.start()
    srv.clock.advance(30)
    assert srv.dns.cancelled == 16
    assert srv.noted.errors == [f"dns+srv:{SRV} cannot be resolved: no DNS server answers"]


def test_closing_while_many_hosts_are_asked() -> None:
    world = World(f"dns+srv:{SRV}")
    world.dns.set_services(SRV, *((f"h{i}", 1, 0, 0) for i in range(50)))
    for i in range(50):
        world.dns.zone[f"h{i}", dns.A] = None
    world.start()
    world.end()
    assert world.dns.cancelled == len(world.dns.waiting) == 16


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 3),
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        min_size=1,
    ),
    st.randoms(),
)
def test_the_order_of_records_does_not_matter(
    services: list[tuple[str, int, int, int]], random: Any
) -> None:
    world = World(f"dns+srv:{SRV}")
    for host, ips in {"a": ["192.0.2.1"], "b": ["192.0.2.1", "::1"], "c": ["192.0.2.3"]}.items():
        world.dns.set_ips(host, *ips)
    world.dns.set_services(SRV, *services)
    world.start()
    (told,) = world.noted.told
    assert len({address.address for address in told}) == len(told)
    assert [t.priority for t in told] == sorted(t.priority for t in told)
    random.shuffle(services)
    world.dns.set_services(SRV, *services)
    world.clock.advance(70)
    assert world.rounds() > 1
    assert len(world.noted.told) == 1
    world.end()


def test_a_cancelled_question_of_the_client_is_a_failure_like_any(world: World) -> None:
    world.dns.zone["h", dns.A] = world.dns.zone["h", dns.AAAA] = CancelledError()
    world.start()
    assert len(world.noted.errors) == 1
