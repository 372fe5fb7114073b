"""Signs of life of a channel's servers: pings, probes, and when a server is given up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rpc.lines import CONNECTING, FAILED, READY, Lines, call, ready, result
from tests.rpc.service import ADDRESS, Echo, text
from txzmq.rpc import Channel, DeadlineExceeded, Liveness, ResourceExhausted, Server, Unavailable
from txzmq.rpc.v1.control_pb2 import PingRequest
from txzmq.rpc.v1.control_txzmq import ControlClient
from txzmq.testing import MemoryNetwork


def test_n7_a_silent_server_is_pinged_and_given_up() -> None:
    network, channel, line = ready()
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


def test_a_server_is_silent_from_its_last_message_on() -> None:
    network, channel, line = ready()
    for _ in range(2):
        call(channel)
    network.advance(2.4)
    line.answer(0)
    network.advance(19.9)
    assert line in network.open
    network.advance(3)
    assert line not in network.open
    channel.close()


def test_a_server_is_silent_from_the_time_on_when_a_call_waits_for_it() -> None:
    network, channel, line = ready()
    call(channel)
    network.run()
    line.answer(0)
    network.advance(60)
    call(channel)
    network.advance(19.9)
    assert line in network.open
    network.advance(0.2)
    assert line not in network.open
    channel.close()


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
    network, channel, line = ready()
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
    network, channel, line = ready()
    made = call(channel)
    network.run()
    network.clock.advance(60)
    assert line in network.open
    assert not made.called
    assert any("blocked" in event.get("log_format", "") for event in logged)
    # What is read now was sent long ago; from now on the server has all its time.
    network.advance(19.9)
    assert line in network.open
    network.advance(0.2)
    assert line not in network.open
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
    network, channel, line = ready(liveness=Liveness(suspect_after=2, probe_timeout=1))
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


def test_a_probe_ends_with_its_connection() -> None:
    network, channel, line = ready(liveness=Liveness(suspect_after=1, probe_timeout=5))
    call(channel, timeout=0.5)
    network.advance(0.6)
    assert line.paths[-1] == "Ping"
    line.handler.disconnected()
    network.advance(10)
    (line,) = network.open
    line.handler.connected()
    line.answer(0)  # a new one asks again, and is answered
    network.advance(10)
    assert channel.state is READY
    assert network.open == [line]
    assert channel.counters["stopped answering"] == 0
    channel.close()


def test_calls_that_ran_out_of_time_count_against_their_connection_only() -> None:
    network, channel, line = ready(liveness=Liveness(suspect_after=2))
    call(channel, timeout=0.5)
    network.advance(0.6)
    line.handler.disconnected()
    network.advance(1)
    (line,) = network.open
    line.handler.connected()
    call(channel, timeout=0.5)
    network.advance(0.6)
    assert line.paths == ["Echo"]
    call(channel, timeout=0.5)
    network.advance(0.6)
    assert line.paths == ["Echo", "Echo", "Ping"]
    channel.close()


def test_a_channel_that_closes_while_it_probes_leaves_nothing() -> None:
    network, channel, line = ready(liveness=Liveness(suspect_after=1))
    call(channel, timeout=0.5)
    network.advance(0.6)
    assert line.paths[-1] == "Ping"
    channel.close()
    assert not network.clock.getDelayedCalls()


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
    network, channel, line = ready(liveness=Liveness(ping_interval=None))
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
