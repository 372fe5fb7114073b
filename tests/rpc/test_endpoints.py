"""The connections of a channel: their states, and how they come, go and are made anew."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.lines import CONNECTING, FAILED, READY, SHUTDOWN, Lines, Told, call, ready, result
from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.support import error_of
from txzmq.rpc import (
    Channel,
    Code,
    ConnectivityState,
    LeastLoaded,
    PickFirst,
    ResolvedAddress,
    Server,
    Unavailable,
)
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._wire.headers import ResponseHead, encode_response
from txzmq.rpc.transport import SendResult
from txzmq.testing import MemoryNetwork

# -- states ------------------------------------------------------------------------------------


def test_the_state_is_that_of_the_best_connection() -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"])
    seen: list[ConnectivityState] = []

    def watch(state: ConnectivityState) -> None:
        seen.append(state)
        if state is not SHUTDOWN:
            channel.wait_for_state_change(state).addCallback(watch)

    watch(channel.state)
    one, two = network.made
    one.handler.unreachable("refused")
    assert channel.state is CONNECTING
    two.handler.unreachable("refused")
    assert channel.state is FAILED
    one.handler.connected()
    two.handler.connected()
    two.handler.failed("it speaks HTTP")
    assert channel.state is READY
    one.handler.disconnected()
    network.advance(0.4)
    channel.close()
    assert seen == [CONNECTING, FAILED, READY, CONNECTING, SHUTDOWN]
    assert not network.open
    assert not network.clock.getDelayedCalls()


def test_a_wait_for_a_state_may_be_given_up() -> None:
    channel = Channel(Lines(), "tcp://a")
    waiting = channel.wait_for_state_change(CONNECTING)
    waiting.cancel()
    assert isinstance(result(waiting.addErrback(error_of)), CancelledError)
    assert result(channel.wait_for_state_change(READY)) is CONNECTING
    channel.close()
    assert result(channel.wait_for_state_change(CONNECTING)) is SHUTDOWN


def test_a_failed_connection_stays_failed_until_one_succeeds() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.made[0].handler.failed("it speaks HTTP")
    assert channel.state is FAILED
    network.advance(0.4)
    assert len(network.made) == 2
    assert channel.state is FAILED
    error = result(call(channel))
    assert isinstance(error, Unavailable)
    assert "tcp://a: it speaks HTTP" in error.message
    network.made[1].handler.connected()
    assert channel.state is READY
    channel.close()


# -- endpoints that come and go ----------------------------------------------------------------


def test_an_endpoint_that_is_removed_ends_its_calls_first() -> None:
    network = Lines()
    resolver = Told("tcp://a", "tcp://b")
    channel = Channel(network, resolver)
    for line in network.made:
        line.handler.connected()
    calls = [call(channel) for _ in range(4)]
    network.run()
    first, second = network.made
    resolver.tell("tcp://b", "tcp://c")
    network.run()
    assert [line.address for line in network.open] == ["tcp://a", "tcp://b", "tcp://c"]
    for _ in range(2):
        call(channel)
    network.run()
    assert (len(first.requests), len(second.requests)) == (2, 4)
    first.answer(0)
    network.run()
    assert first in network.open
    first.answer(1)
    network.run()
    assert first not in network.open
    assert sum(made.called for made in calls) == 2
    channel.close()
    assert resolver.closed
    assert not network.open


@pytest.mark.parametrize("end", ["timeout", "cancel", "loss"])
def test_a_removed_endpoint_goes_however_its_last_call_ends(end: str) -> None:
    resolver = Told("tcp://a")
    network, channel, line = ready(resolver)
    last = call(channel, timeout=1)
    network.run()
    resolver.tell("tcp://b")
    network.run()
    assert line in network.open
    if end == "timeout":
        network.advance(1.1)
    elif end == "cancel":
        last.cancel()
        network.run()
        assert line.paths == ["Echo", "Cancel"]
    else:
        line.handler.disconnected()
    assert last.called
    assert line not in network.open
    network.advance(60)
    assert [made.address for made in network.made] == ["tcp://a", "tcp://b"]
    channel.close()


def test_a_server_that_comes_after_one_that_shut_down_is_used() -> None:
    network, channel, line = ready()
    call(channel)
    network.run()
    notice = line.requests[0][0][:8] + bytes(8)
    head = encode_response(ResponseHead(Code.OK, draining=True))
    line.handler.received([notice, b"", head, b""])
    assert channel.state is CONNECTING
    line.handler.disconnected()
    network.advance(1)
    (line,) = network.open
    line.handler.connected()
    for number in range(2):
        made = call(channel)
        network.run()
        line.answer(number)
        assert result(made) == text("x")
    assert channel.state is READY
    channel.close()


def test_what_a_lost_connection_has_not_sent_goes_by_another_one() -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"], policy=PickFirst())
    first, second = network.made
    for line in network.made:
        line.handler.connected()

    def full(message: list[bytes]) -> SendResult:
        return SendResult.BLOCKED

    first.send_message = full  # type: ignore[method-assign]  # for this test only
    made = call(channel)
    network.run()
    assert second.paths == []
    first.handler.disconnected()
    network.run()
    second.answer(0)
    assert result(made) == text("x")
    channel.close()


def test_what_a_connection_has_counted_stays_when_it_and_the_channel_have_gone() -> None:
    resolver = Told("tcp://a")
    network, channel, line = ready(resolver)
    call(channel)
    network.run()
    line.handler.received([bytes(16), b"", b"", b""])
    assert channel.counters["unknown reply"] == 1
    resolver.tell("tcp://b")
    network.run()
    assert channel.counters["unknown reply"] == 1
    channel.close()
    assert channel.counters["unknown reply"] == 1


def test_an_endpoint_that_comes_back_while_it_goes_stays() -> None:
    resolver = Told("tcp://a")
    network, channel, line = ready(resolver)
    made = call(channel)
    network.run()
    resolver.tell("tcp://b")
    resolver.tell("tcp://a")
    network.run()
    line.answer(0)
    network.run()
    assert line in network.open
    assert made.called
    assert channel.state is READY
    channel.close()


def test_before_anything_is_resolved_calls_wait_and_then_learn_why_not() -> None:
    network = Lines()
    resolver = Told()
    channel = Channel(network, resolver)
    assert channel.state is CONNECTING
    hasty, patient = call(channel), call(channel, wait=True)
    assert not hasty.called
    resolver.listener.not_resolved(Unavailable("no DNS server answers"))
    assert "no DNS server answers" in result(hasty).message
    assert channel.state is FAILED
    assert not patient.called
    resolver.tell("tcp://a")
    network.made[0].handler.connected()
    network.run()
    network.made[0].answer(0)
    assert result(patient) == text("x")
    resolver.tell()
    network.run()
    assert channel.state is FAILED
    assert "knows of no server" in result(call(channel)).message
    channel.close()


def test_a_resolved_address_that_is_none_harms_no_other(logged: Any) -> None:
    network = Lines()
    resolver = Told("tcp://a")
    channel = Channel(network, resolver)
    network.made[0].handler.connected()
    resolver.tell("tcp://a", "no:address")
    assert channel.state is READY
    channel.close()


def test_a_channel_asks_for_addresses_when_a_connection_fails() -> None:
    network = Lines()
    resolver = Told("tcp://a")
    channel = Channel(network, resolver)
    network.made[0].handler.unreachable("refused")
    assert resolver.hints == 1
    channel.close()


def test_lower_priorities_are_used_when_no_better_one_is_ready() -> None:
    network = Lines()
    resolver = Told()
    channel = Channel(network, resolver)
    resolver.tell(ResolvedAddress("tcp://a", 1), ResolvedAddress("tcp://b", 2))
    one, two = network.made
    two.handler.connected()
    call(channel)
    network.run()
    one.handler.connected()
    call(channel)
    network.run()
    assert (len(one.requests), len(two.requests)) == (1, 1)
    channel.close()


def test_calls_go_to_endpoints_as_often_as_their_weights_say() -> None:
    network = Lines()
    resolver = Told()
    channel = Channel(network, resolver)
    for weights in ((3, 1), (1, 3)):  # a change of weights alone is one too
        resolver.tell(*(ResolvedAddress(f"tcp://{w}", 0, weights[w]) for w in range(2)))
        for line in network.made:
            line.requests.clear()
            if line.handler.state is not READY:  # type: ignore[attr-defined]  # a Subchannel
                line.handler.connected()
        for _ in range(40):
            call(channel)
        network.run()
        assert [len(line.requests) for line in network.made] == [10 * w for w in weights]
    channel.close()


def test_the_policy_chooses() -> None:
    network = MemoryNetwork()
    services = [Echo(), Echo()]
    addresses = [ADDRESS, "inproc://second"]
    for service, address in zip(services, addresses, strict=True):
        Server(network, [service]).listen(address)
    for policy, seen in ((PickFirst(), (10, 0)), (LeastLoaded(), None)):
        channel = Channel(network, addresses, policy=policy)
        network.run()
        for service in services:
            service.seen.clear()
        answers: list[Deferred[StringValue]] = [
            channel.unary_unary(ECHO, text("x")) for _ in range(10)
        ]
        network.run()
        assert all(answer.called for answer in answers)
        counts = tuple(len(service.seen) for service in services)
        assert counts == seen if seen else min(counts) > 1
        channel.close()
        network.run()


# -- connections that are made anew ------------------------------------------------------------


def test_n11_an_endpoint_that_speaks_garbage_is_built_anew() -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"])
    good, bad = network.made
    good.handler.connected()
    bad.handler.failed("it speaks HTTP")
    assert bad not in network.open
    for _ in range(10):
        call(channel)
    network.run()
    assert len(good.requests) == 10
    network.advance(0.4)
    assert [line.address for line in network.open] == ["tcp://a", "tcp://b"]
    network.open[1].handler.connected()
    for _ in range(10):
        call(channel)
    network.run()
    assert len(network.open[1].requests) == 5
    assert channel.counters["reconnect"] == 1
    channel.close()


def test_n15_who_accepts_and_closes_gets_fewer_and_fewer_visits() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    for _ in range(600):
        network.advance(0.1)
        for line in network.open:
            line.handler.connected()
            line.handler.disconnected()
            assert channel.state in (CONNECTING, FAILED)
    assert 5 <= len(network.made) <= 15  # in a minute
    line = network.made[-1]
    while not network.open:
        network.advance(1)
    (line,) = network.open
    line.handler.connected()
    call(channel)
    network.run()
    line.answer(0)
    line.handler.disconnected()  # after it was of use, the delays begin anew
    assert channel.state is CONNECTING
    network.advance(0.4)
    assert network.open
    channel.close()


def test_a_socket_that_cannot_be_made_is_tried_again() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.broken = True
    network.made[0].handler.disconnected()
    network.advance(3)
    assert channel.state is FAILED
    assert "no more sockets" in result(call(channel)).message
    network.broken = False
    network.advance(10)
    network.made[1].handler.connected()
    assert channel.state is READY
    channel.close()


def test_delays_grow_and_differ() -> None:
    backoff = Backoff(0.2, 20, random.Random(1))
    delays = [backoff.next() for _ in range(300)]
    assert 0.1 <= delays[0] <= 0.3
    assert all(10 <= delay <= 30 for delay in delays[12:])
    assert max(delays) - min(delays[12:]) > 15
    backoff.reset()
    assert backoff.next() <= 0.3
