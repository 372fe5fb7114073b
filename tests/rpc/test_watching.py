"""What observers are told, what is counted and what is logged; in virtual time."""

from __future__ import annotations

import re

import pytest
from twisted.logger import LogLevel

from tests.programs import ROOT
from tests.rpc.lines import CONNECTING, FAILED, IDLE, READY, SHUTDOWN, Lines, Told
from tests.rpc.service import ECHO, Waiting, text
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    ClientLoss,
    ConnectivityState,
    Count,
    EndpointChange,
    EndpointStatus,
    Liveness,
    Observer,
    Server,
    Watched,
)
from txzmq.rpc._core.notifier import Notifier
from txzmq.testing import MemoryNetwork, assert_all_given_back

ONE, TWO = "tcp://one:1", "tcp://two:2"


class Noting(Observer):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.sources: list[Watched] = []
        self.ended: list[Watched] = []
        self.endpoints: list[EndpointChange] = []
        self.states: list[tuple[ConnectivityState, ConnectivityState]] = []
        self.losses: list[ClientLoss] = []

    def started(self, source: Watched) -> None:
        self.sources.append(source)

    def stopped(self, source: Watched) -> None:
        self.ended.append(source)

    def channel_changed(
        self, source: Watched, previous: ConnectivityState, state: ConnectivityState
    ) -> None:
        assert source in self.sources
        self.states.append((previous, state))

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        assert source in self.sources
        self.endpoints.append(change)

    def client_lost(self, source: Watched, loss: ClientLoss) -> None:
        assert source in self.sources
        self.losses.append(loss)

    def of(self, address: str) -> list[tuple[ConnectivityState, ConnectivityState, str]]:
        """The changes of one endpoint."""
        return [(c.previous, c.state, c.reason) for c in self.endpoints if c.address == address]


def lines_of(logged: Logged) -> list[str]:
    """What was logged, of this package's loggers, as text."""
    return [
        event["log_format"].format(**event)
        for event in logged
        if event["log_namespace"] == "txzmq.rpc._core.notifier"
    ]


def test_an_observer_is_told_of_each_change_of_an_endpoint_and_of_the_channel() -> None:
    network, noting = Lines(), Noting()
    channel = Channel(network, [ONE, TWO], observer=noting)
    assert noting.sources == [channel]
    one, two = network.made
    one.handler.connected()
    two.handler.unreachable("connecting failed")
    assert channel.endpoints == [
        EndpointStatus(address=ONE, state=READY, reason="", load=0),
        EndpointStatus(address=TWO, state=FAILED, reason=f"{TWO}: connecting failed", load=0),
    ]
    one.handler.disconnected()
    channel.close()
    assert noting.of(ONE) == [
        (CONNECTING, READY, ""),
        (READY, CONNECTING, f"the connection to {ONE} was lost"),
        (CONNECTING, SHUTDOWN, f"the connection to {ONE} was lost"),
    ]
    assert noting.of(TWO) == [
        (CONNECTING, FAILED, f"{TWO}: connecting failed"),
        (FAILED, SHUTDOWN, f"{TWO}: connecting failed"),
    ]
    assert noting.states == [(CONNECTING, READY), (READY, CONNECTING), (CONNECTING, SHUTDOWN)]
    assert noting.ended == [channel]
    assert not network.clock.getDelayedCalls()


def test_endpoints_that_come_and_go_are_told() -> None:
    network, noting, told = Lines(), Noting(), Told(ONE)
    channel = Channel(network, told, observer=noting)
    network.made[0].handler.connected()
    call = channel.unary_unary(ECHO, text("x"))
    network.run()
    assert [status.load for status in channel.endpoints] == [1]
    told.tell(TWO)
    assert noting.of(TWO) == [(IDLE, CONNECTING, "")]
    assert [status.address for status in channel.endpoints] == [TWO]
    network.made[0].answer(0)
    network.run()
    assert call.called
    assert noting.of(ONE) == [(CONNECTING, READY, ""), (READY, SHUTDOWN, "")]
    channel.close()


def test_an_observer_that_raises_is_logged_and_changes_nothing(logged: Logged) -> None:
    class Broken(Observer):
        def started(self, source: Watched) -> None:
            raise LookupError("started")

        def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
            raise LookupError("endpoint")

        def channel_changed(
            self, source: Watched, previous: ConnectivityState, state: ConnectivityState
        ) -> None:
            raise LookupError("channel")

        def stopped(self, source: Watched) -> None:
            raise LookupError("stopped")

    network = Lines()
    channel = Channel(network, ONE, observer=Broken())
    network.made[0].handler.connected()
    call = channel.unary_unary(ECHO, text("x"))
    network.run()
    network.made[0].answer(0)
    assert call.called
    channel.close()
    assert [str(failure) for failure in logged.failures()] == [
        "started",
        *("endpoint", "channel"),
        *("endpoint", "channel"),
        "stopped",
    ]


@pytest.mark.parametrize("when", list(ConnectivityState))
@pytest.mark.parametrize("of", ["endpoint", "channel"])
def test_an_observer_may_close_the_channel_whatever_it_is_told(
    of: str, when: ConnectivityState
) -> None:
    class Closing(Observer):
        def channel_changed(
            self, source: Watched, previous: ConnectivityState, state: ConnectivityState
        ) -> None:
            if of == "channel" and state is when:
                assert isinstance(source, Channel)
                source.close()

        def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
            if of == "endpoint" and change.state is when and told.moves:
                assert isinstance(source, Channel)
                source.close()

    class Moving(Told):
        moves = False

    network, told = Lines(), Moving(ONE, TWO)
    channel = Channel(network, told, observer=Closing(), liveness=Liveness(suspect_after=1))
    ends: list[object] = []

    def step(number: int) -> None:
        match number:
            case 0:
                for line in network.open:
                    line.handler.connected()
            case 1:
                call = channel.unary_unary(ECHO, text("x"), timeout=0.1)
                call.addBoth(ends.append)
                network.advance(0.5)  # suspected
            case 2:
                told.moves = True
                told.tell("tcp://three:3", TWO, "tcp://four:4")
            case 3:
                for line in network.open[:1]:
                    line.handler.unreachable("no")
            case _:
                for line in network.open[:1]:
                    line.handler.disconnected()

    for number in range(5):
        if channel.state is not SHUTDOWN:
            step(number)
    channel.close()
    assert not network.open
    assert not network.clock.getDelayedCalls()
    assert len(ends) == 1 or not told.moves
    assert_all_given_back(channel)


def test_closing_a_channel_when_its_endpoint_is_suspected_leaves_no_timer() -> None:
    network = Lines()
    channel = Channel(network, ONE, liveness=Liveness(suspect_after=1))
    network.made[0].handler.connected()
    channel.wait_for_state_change(READY).addCallback(lambda _: channel.close())
    call = channel.unary_unary(ECHO, text("x"), timeout=0.1)
    call.addErrback(lambda _: None)
    network.advance(0.5)
    assert channel.state is SHUTDOWN
    assert not network.clock.getDelayedCalls()


def test_drops_retries_and_reconnects_have_names_of_their_own() -> None:
    network = Lines()
    channel = Channel(network, ONE)
    line = network.made[0]
    line.handler.connected()
    late = channel.unary_unary(ECHO, text("x"), timeout=0.1)
    late.addErrback(lambda _: None)
    channel.unary_unary(ECHO, text("x"))
    network.run()
    network.advance(1)
    line.answer(0)  # late
    line.answer(1)
    line.answer(1)  # twice
    line.handler.received([b"i" * 16, b"", b"", b""])
    line.handler.received([b"i"])
    line.handler.disconnected()
    network.advance(1)
    assert channel.counters == {
        Count.LATE_REPLY: 1,
        Count.DUPLICATE_REPLY: 1,
        Count.UNKNOWN_REPLY: 1,
        Count.MALFORMED: 1,
        Count.RECONNECT: 1,
    }
    channel.close()
    assert channel.counters["late reply"] == 1  # a name in text is the same


# -- the log -----------------------------------------------------------------------------------


def test_a_change_is_logged_once(logged: Logged) -> None:
    network = Lines()
    channel = Channel(network, ONE)
    line = network.made[0]
    for _ in range(10):
        line.handler.unreachable("connecting failed")
    line.handler.connected()
    channel.close()
    assert lines_of(logged) == [
        f"{ONE} is TRANSIENT_FAILURE ({ONE}: connecting failed)",
        f"{ONE} is READY",
    ]
    levels = [e["log_level"] for e in logged if e["log_namespace"] == "txzmq.rpc._core.notifier"]
    assert levels == [LogLevel.warn, LogLevel.info]


def test_an_endpoint_that_goes_up_and_down_logs_little_and_at_last_the_truth(
    logged: Logged,
) -> None:
    network = Lines()
    channel = Channel(network, [ONE, TWO])
    one, two = network.made
    for _ in range(500):
        one.handler.connected()
        one.handler.unreachable("no")
        network.advance(0.1)
    two.handler.connected()
    lines = lines_of(logged)
    mine = [line for line in lines if line.startswith(ONE)]
    assert len(mine) == 5  # 4 at once, and one in 50 s
    assert mine[-1].endswith("changes that were not logged")
    assert f"{TWO} is READY" in lines  # has a share of its own
    network.advance(60)
    lines = lines_of(logged)
    assert lines[-1].startswith(f"{ONE} is TRANSIENT_FAILURE")
    assert len([line for line in lines if line.startswith(ONE)]) == 6
    network.advance(600)
    assert lines_of(logged) == lines
    channel.close()
    assert not network.clock.getDelayedCalls()


def test_a_flood_of_dropped_messages_logs_little(logged: Logged) -> None:
    network = Lines()
    channel = Channel(network, ONE)
    handler = network.made[0].handler
    handler.connected()
    for _ in range(1000):
        handler.received([b"i" * 16, b"", b"", b""])
    assert channel.counters == {Count.UNKNOWN_REPLY: 1000}
    told = f"dropped: unknown reply ({ONE})"
    assert lines_of(logged)[1:] == [told] * 4
    network.advance(31)
    handler.received([b"i" * 16, b"", b"", b""])
    assert lines_of(logged)[5:] == [f"{told}, and 996 more since the last such line"]
    channel.close()


def test_late_replies_are_not_logged(logged: Logged) -> None:
    watch = Notifier(Lines().clock, None)
    watch.counted(Count.LATE_REPLY)
    watch.counted(Count.RETRY)
    assert lines_of(logged) == []


# -- servers -----------------------------------------------------------------------------------


def test_a_server_tells_of_clients_that_go_and_of_its_end(logged: Logged) -> None:
    service, noting = Waiting(), Noting()
    network = MemoryNetwork()
    server = Server(network, [service], observer=noting)
    assert noting.sources == [server]
    channel = Channel(network, server.listen("inproc://watched"))
    for _ in range(3):
        channel.unary_unary(ECHO, text("x")).addErrback(lambda _: None)
    network.run()
    channel.close()
    network.advance(1)
    assert [loss.calls for loss in noting.losses] == [3]
    stopped = server.stop(0)
    network.advance(1)
    assert stopped.called
    assert noting.ended == [server]


def test_every_name_that_is_counted_is_a_count() -> None:
    calls = (
        r"""(?:\._?count\(|_drop\(|\.dropped\[)(?:"([a-z][^"]*)"(?: if .* else "(\w+)")?)[\])]"""
    )
    names: set[str] = set()
    for path in (ROOT / "txzmq/rpc").rglob("*.py"):
        for names_found in re.findall(calls, path.read_text(encoding="utf-8")):
            names.update(filter(None, names_found))
    assert names == set(Count)
