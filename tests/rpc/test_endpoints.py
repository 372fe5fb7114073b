"""The connections of a channel: states, changes, signs of life; with a network that is told what
to do, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from txzmq._guard import Guard
from txzmq.rpc import (
    Channel,
    Code,
    ConnectivityState,
    DeadlineExceeded,
    LeastLoaded,
    Liveness,
    PickFirst,
    ResolvedAddress,
    ResolverListener,
    ResourceExhausted,
    Server,
    Unavailable,
)
from txzmq.rpc._core.backoff import Backoff
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, decode_request, encode_response
from txzmq.rpc.transport import (
    ClientHandler,
    PublisherHandler,
    PublisherTransport,
    SendResult,
    ServerHandler,
    ServerTransport,
    SubscriberHandler,
    SubscriberTransport,
    WorkerHandler,
)
from txzmq.rpc.v1.control_pb2 import PingRequest
from txzmq.rpc.v1.control_txzmq import ControlClient
from txzmq.testing import MemoryNetwork

IDLE, CONNECTING, READY, FAILED, SHUTDOWN = (
    ConnectivityState.IDLE,
    ConnectivityState.CONNECTING,
    ConnectivityState.READY,
    ConnectivityState.TRANSIENT_FAILURE,
    ConnectivityState.SHUTDOWN,
)


class Line:
    """A connection that does what the test says; requests are noted, and answered by it."""

    def __init__(self, network: Lines, address: str, handler: ClientHandler) -> None:
        self.network = network
        self.address = address
        self.handler = handler
        self.open = True
        #: Id and header of each request.
        self.requests: list[tuple[bytes, RequestHead]] = []

    def send_message(self, message: list[bytes]) -> SendResult:
        assert self.open
        self.requests.append((message[0], decode_request(message[2])))
        return SendResult.SENT

    def flush_soon(self) -> None:
        self.network.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        if self.open:
            self.handler.flush()

    def close(self) -> None:
        self.open = False

    @property
    def paths(self) -> list[str]:
        return [head.path.rpartition("/")[2] for _, head in self.requests]

    def answer(self, index: int) -> None:
        self.handler.received([self.requests[index][0], b"", b"", text("x").SerializeToString()])


class Lines:
    """A network of such connections."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.made: list[Line] = []
        self.broken = False
        self.guard = Guard()
        self.random = random.Random(0)

    def connect(self, address: str, handler: ClientHandler, options: Mapping[str, int]) -> Line:
        if self.broken or not address:
            raise OSError("no more sockets")
        line = Line(self, address, handler)
        self.made.append(line)
        return line

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        raise NotImplementedError

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        raise NotImplementedError

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> PublisherTransport:
        raise NotImplementedError

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        raise NotImplementedError

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    @property
    def open(self) -> list[Line]:
        return [line for line in self.made if line.open]

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps, as a reactor does."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 0.01:
            self.clock.advance(0.01)

    def run(self) -> None:
        self.clock.advance(0)


class Told:
    """A resolver that tells what the test says."""

    listener: ResolverListener

    def __init__(self, *first: str) -> None:
        self._first = first
        self.hints = 0
        self.closed = False

    def start(self, clock: Any, listener: ResolverListener) -> None:
        self.listener = listener
        if self._first:
            self.tell(*self._first)

    def tell(self, *addresses: str | ResolvedAddress) -> None:
        self.listener.resolved([ResolvedAddress(a) if isinstance(a, str) else a for a in addresses])

    def resolve_now(self) -> None:
        self.hints += 1

    def close(self) -> None:
        self.closed = True


def call(channel: Channel, *, timeout: float = 3600, wait: bool = False) -> Deferred[Any]:
    deferred = channel.unary_unary(ECHO, text("x"), timeout=timeout, wait_for_ready=wait)
    return deferred.addErrback(the_error)


def the_error(failure: Any) -> Any:
    return failure.value


def result(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "it has not ended"
    return results[0]


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
    assert isinstance(result(waiting.addErrback(the_error)), CancelledError)
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
    network = Lines()
    resolver = Told("tcp://a")
    channel = Channel(network, resolver)
    (line,) = network.made
    line.handler.connected()
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


def test_an_endpoint_that_comes_back_while_it_goes_stays() -> None:
    network = Lines()
    resolver = Told("tcp://a")
    channel = Channel(network, resolver)
    (line,) = network.made
    line.handler.connected()
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
    resolver.tell("tcp://a", "")
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


# -- signs of life -----------------------------------------------------------------------------


def test_n7_a_silent_server_is_pinged_and_given_up() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    network.advance(100)
    assert not line.paths, "an idle connection carries nothing"
    made = call(channel)
    network.advance(9.9)
    assert line.paths == ["Echo"]
    network.advance(3)
    assert line.paths == ["Echo", "Ping"]
    assert not made.called
    network.advance(10)
    error = result(made)
    assert isinstance(error, Unavailable)
    assert error.message == (
        "the server at tcp://a stopped answering: nothing was received for 20 s; "
        "the call may have been executed"
    )
    assert line not in network.open
    assert channel.state is FAILED
    channel.close()
    assert not network.clock.getDelayedCalls()


def test_n8_a_server_that_was_given_up_gets_calls_when_it_has_answered_a_ping() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.made[0].handler.connected()
    call(channel)
    network.advance(23)
    waiting = call(channel, wait=True)
    (line,) = network.open
    line.handler.connected()
    assert line.paths == ["Ping"]
    assert channel.state is FAILED
    network.advance(5.1)
    assert line not in network.open
    network.advance(1)
    (line,) = network.open
    line.handler.connected()
    line.answer(0)
    network.run()
    assert channel.state is READY
    assert line.paths == ["Ping", "Echo"]
    line.answer(1)
    assert waiting.called
    assert channel.counters["stopped answering"] == 2
    channel.close()


def test_a_server_that_answers_pings_may_take_its_time() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    made = call(channel)
    answered = 1
    for _ in range(60):
        network.advance(1)
        if len(line.paths) > answered:
            line.answer(-1)
            answered += 1
    assert 4 <= line.paths.count("Ping") <= 6
    assert not made.called
    line.answer(0)
    assert result(made) == text("x")
    pings = len(line.paths)
    network.advance(60)
    assert len(line.paths) == pings
    channel.close()
    assert not network.clock.getDelayedCalls()


def test_a_blocked_reactor_of_our_own_is_no_fault_of_the_servers(logged: Any) -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    made = call(channel)
    network.run()
    network.clock.advance(60)
    assert line in network.open
    assert not made.called
    assert any("blocked" in event.get("log_format", "") for event in logged)
    channel.close()


def test_an_endpoint_that_lets_calls_run_out_of_time_is_probed() -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"])
    good, bad = network.made
    for line in network.made:
        line.handler.connected()
    ends: list[Any] = []
    for _ in range(10):
        call(channel, timeout=0.5).addBoth(ends.append)
        network.run()
        while len(good.paths) > sum(end == text("x") for end in ends):
            good.answer(len(good.paths) - 1)
        network.advance(0.6)
    assert sum(isinstance(end, DeadlineExceeded) for end in ends) == 5
    assert bad.paths == ["Echo"] * 5 + ["Ping"]
    for _ in range(4):
        call(channel)
    network.run()
    assert bad.paths[-1] == "Ping"
    bad.answer(5)
    for _ in range(4):
        call(channel)
    network.run()
    assert bad.paths[-2:] == ["Echo", "Echo"]
    assert channel.counters["suspected"] == 1
    channel.close()


def test_an_endpoint_that_does_not_answer_the_probe_is_given_up() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a", liveness=Liveness(suspect_after=2, probe_timeout=1))
    (line,) = network.made
    line.handler.connected()
    for _ in range(2):
        call(channel, timeout=0.5)
    long = call(channel)
    network.advance(0.6)
    assert line.paths[-1] == "Ping"
    assert channel.state is CONNECTING
    network.advance(1.1)
    assert "a ping was not answered for 1 s" in result(long).message
    assert line not in network.open
    channel.close()


def test_a_server_answers_pings_and_refuses_those_that_come_too_soon() -> None:
    network = MemoryNetwork()
    server = Server(network, [Echo()])
    server.listen(ADDRESS)
    channels = [Channel(network, ADDRESS) for _ in range(2)]
    first, second = (ControlClient(channel) for channel in channels)
    network.result(first.ping(PingRequest()))
    network.advance(4.9)
    with pytest.raises(ResourceExhausted, match="every 5 s"):
        network.result(first.ping(PingRequest()))
    network.result(second.ping(PingRequest()))
    network.advance(0.2)
    network.result(first.ping(PingRequest()))
    assert server.counters["ping too soon"] == 1
    for channel in channels:
        channel.close()
    network.run()


def test_pings_may_be_turned_off() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a", liveness=Liveness(ping_interval=None))
    (line,) = network.made
    line.handler.connected()
    call(channel)
    network.advance(100)
    assert line.paths == ["Echo"]
    channel.close()
    assert not network.clock.getDelayedCalls()


@pytest.mark.parametrize(
    "settings",
    [
        {"ping_interval": 0},
        {"ping_interval": 30},
        {"suspect_after": 0},
        {"probe_timeout": 0},
        {"first_backoff": 0},
        {"max_backoff": 0.1},
    ],
)
def test_what_cannot_be_a_liveness(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Liveness(**settings)


# -- a server that shuts down ------------------------------------------------------------------


def drain(line: Line, index: int | None = None, *, refuse: bool = False) -> None:
    """The server says that it shuts down: in the reply to a request, or else in a notice."""
    id_ = line.requests[0][0][:8] + bytes(8) if index is None else line.requests[index][0]
    head = ResponseHead(draining=True)
    if refuse:
        head = ResponseHead(Code.UNAVAILABLE, "not executed", not_executed=True, draining=True)
    line.handler.received([id_, b"", encode_response(head), text("x").SerializeToString()])


def test_a_server_that_shuts_down_gets_no_calls_until_it_is_there_again() -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"], policy=PickFirst())
    one, two = network.made
    one.handler.connected()
    two.handler.connected()
    runs, ends = call(channel), call(channel)
    network.run()
    waits = call(channel)  # not sent before the notice comes
    drain(one)
    network.run()
    assert (one.paths, two.paths) == (["Echo", "Echo"], ["Echo"])
    two.answer(0)
    assert result(waits) == text("x")
    drain(one, 1)
    assert result(ends) == text("x")
    network.run()
    assert one.paths == ["Echo", "Echo"], "a call runs"
    one.answer(0)
    assert result(runs) == text("x")
    network.run()
    assert one.paths[2:] == ["Leave"]
    drain(one)  # a duplicate
    network.run()
    assert one.paths[2:] == ["Leave"]
    one.handler.disconnected()
    two.handler.disconnected()
    network.advance(0.5)
    again = network.open[0]
    again.handler.connected()
    call(channel)
    network.run()
    assert again.paths == ["Echo"]
    channel.close()


def test_what_a_server_refuses_waits_for_the_next_if_there_is_no_other() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    calls = [call(channel, wait=wait) for wait in (False, True)]
    network.run()
    for index in range(2):
        drain(line, index, refuse=True)
    network.run()
    assert line.paths[2:] == ["Leave"]
    assert channel.state is CONNECTING
    line.handler.disconnected()
    network.advance(0.5)
    (again,) = network.open
    again.handler.unreachable("nobody listens")
    assert isinstance(result(calls[0]), Unavailable)
    again.handler.connected()
    assert again.paths == ["Echo"]
    again.answer(0)
    assert result(calls[1]) == text("x")
    channel.close()


def test_a_server_that_is_probed_may_say_that_it_shuts_down() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a", liveness=Liveness(suspect_after=1, probe_timeout=1))
    (line,) = network.made
    line.handler.connected()
    call(channel, timeout=0.1)
    network.advance(0.2)
    assert line.paths == ["Echo", "Ping"]
    waits = call(channel)
    drain(line, 1)
    network.advance(2)
    assert line.paths == ["Echo", "Ping", "Leave"], "it lives, but is sent nothing more"
    assert line in network.open
    line.handler.disconnected()
    network.advance(0.5)
    network.open[0].handler.connected()
    assert network.open[0].paths == ["Echo"]
    network.open[0].answer(0)
    assert result(waits) == text("x")
    channel.close()


def test_a_server_that_stops_answering_while_it_shuts_down_is_given_up() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    runs = call(channel)
    network.run()
    drain(line)
    network.advance(25)
    assert line.paths == ["Echo", "Ping"]
    assert "nothing was received" in result(runs).message
    channel.close()


def test_an_endpoint_that_is_resolved_no_more_may_shut_down() -> None:
    network = Lines()
    told = Told("tcp://a")
    channel = Channel(network, told)
    (line,) = network.made
    line.handler.connected()
    runs = call(channel)
    network.run()
    told.tell("tcp://b")
    drain(line)
    network.run()
    assert line in network.open
    line.answer(0)
    assert result(runs) == text("x")
    network.run()
    assert line.paths == ["Echo", "Leave"]
    assert line not in network.open
    channel.close()


@pytest.mark.parametrize("refuse", [True, False])
def test_a_channel_may_be_closed_when_it_learns_that_a_server_shuts_down(refuse: bool) -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    calls = [call(channel, wait=True) for _ in range(2)]
    network.run()
    channel.wait_for_state_change(READY).addCallback(lambda _: channel.close())
    drain(line, 0, refuse=refuse)
    assert isinstance(result(calls[1]), CancelledError)
    # Its reply has come before.
    assert isinstance(result(calls[0]), CancelledError if refuse else StringValue)
    network.run()
    assert not network.clock.getDelayedCalls()


def test_a_call_may_be_cancelled_when_its_reply_tells_that_a_server_shuts_down() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    (line,) = network.made
    line.handler.connected()
    ended = call(channel)
    network.run()
    channel.wait_for_state_change(READY).addCallback(lambda _: ended.cancel())
    drain(line, 0)
    assert isinstance(result(ended), CancelledError)
    channel.close()
