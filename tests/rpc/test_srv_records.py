"""Services that are looked up by SRV records; in virtual time, with a fake of the DNS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.names import dns
from twisted.names.error import DNSServerError

from tests.rpc.fake_dns import World, a, timed_out
from txzmq.rpc import ResolvedAddress

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
