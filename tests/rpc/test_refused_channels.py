"""Channels whose servers do not let them in, in virtual time: at once told, and rarely tried."""

from __future__ import annotations

import pytest

from tests.rpc.lines import CONNECTING, FAILED, READY, Lines, call, result
from tests.rpc.service import text
from txzmq.rpc import Channel, Unauthenticated, Unavailable

WHY = "the server does not know this client's key"


def test_calls_are_told_in_the_moment_of_the_refusal() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    waits, patient = call(channel), call(channel, wait=True)
    network.made[0].handler.refused(WHY, is_last=True)
    assert network.clock.seconds() == 0
    error = result(waits)
    assert type(error) is Unauthenticated
    assert error.message == (
        f"no server lets this client in, the call was not sent (tcp://a: {WHY})"
    )
    assert channel.state is FAILED
    assert type(result(call(channel))) is Unauthenticated
    assert not patient.called
    channel.close()


def test_the_refusal_is_the_reason_while_the_next_attempt_is_made() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.made[0].handler.refused(WHY, is_last=True)
    network.advance(5)
    assert len(network.made) > 1
    network.made[-1].handler.accepted("it has accepted the connection")
    error = result(call(channel))
    assert type(error) is Unauthenticated
    assert error.message.endswith(f"(tcp://a: {WHY})")
    channel.close()


def test_attempts_become_rare() -> None:
    """Libzmq alone would try five times a second."""
    network = Lines()
    channel = Channel(network, "tcp://a")
    refused = 0
    while network.clock.seconds() < 600:
        for line in network.open:
            line.handler.refused(WHY, is_last=True)
            refused += 1
        network.advance(0.1)
    assert 10 <= refused <= 40
    assert channel.counters["refused"] == refused
    channel.close()


def test_another_key_is_tried_at_once_and_who_waits_goes_on_waiting() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    waits = call(channel)
    network.made[0].handler.refused("its key may be another", is_last=False)
    assert channel.state is CONNECTING
    network.run()
    assert network.clock.seconds() == 0
    line = network.made[1]
    line.handler.connected()
    network.run()
    assert channel.state is READY
    line.answer(0)
    assert result(waits) == text("x")
    channel.close()


@pytest.mark.parametrize("order", [1, -1])
def test_where_one_server_refuses_and_another_is_not_there_none_can_be_reached(order: int) -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"])
    waits = call(channel)
    one, two = network.made[::order]
    one.handler.refused(WHY, is_last=True)
    two.handler.unreachable("nobody listens")
    error = result(waits)
    assert type(error) is Unavailable
    assert WHY in error.message
    channel.close()


def test_a_refusal_is_forgotten_when_nobody_listens_any_more() -> None:
    network = Lines()
    channel = Channel(network, "tcp://a")
    network.made[0].handler.refused(WHY, is_last=True)
    network.advance(5)
    network.made[-1].handler.unreachable("nobody listens")
    assert type(result(call(channel))) is Unavailable
    channel.close()
