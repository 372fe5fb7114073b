"""What a channel does with an endpoint whose server shuts down."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError

from tests.rpc.lines import CONNECTING, READY, Line, Lines, Told, call, ready, result
from tests.rpc.service import text
from txzmq.rpc import Channel, Code, Liveness, PickFirst, Unavailable
from txzmq.rpc._wire.headers import ResponseHead, encode_response


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
    network, channel, line = ready()
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
    error = result(calls[0])
    assert isinstance(error, Unavailable)
    assert "tcp://a: the server is shutting down, and none has taken its place (nobody" in str(
        error
    )
    again.handler.connected()
    assert again.paths == ["Echo"]
    again.answer(0)
    assert result(calls[1]) == text("x")
    channel.close()


def test_a_call_whose_time_is_up_while_a_server_shuts_down_says_that_it_does() -> None:
    network, channel, line = ready()
    runs = call(channel)
    network.run()
    drain(line)
    late = call(channel, timeout=1)
    network.advance(1.1)
    assert "was not executed (tcp://a: the server is shutting down)" in result(late).message
    line.handler.disconnected()
    assert "lost, as the server is shutting down; the call may" in result(runs).message
    network.advance(0.5)
    network.open[0].handler.failed("it speaks HTTP")
    assert "the server is shutting down, and none" in result(call(channel)).message
    network.advance(1)
    network.open[0].handler.connected()
    network.open[0].handler.disconnected()
    network.advance(1)
    network.open[0].handler.unreachable("nobody listens")
    assert "(tcp://a: nobody listens)" in result(call(channel)).message
    channel.close()


def test_a_server_that_is_probed_may_say_that_it_shuts_down() -> None:
    network, channel, line = ready(liveness=Liveness(suspect_after=1, probe_timeout=1))
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
    network, channel, line = ready()
    runs = call(channel)
    network.run()
    drain(line)
    network.advance(25)
    assert line.paths == ["Echo", "Ping"]
    assert "nothing was received" in result(runs).message
    channel.close()


def test_an_endpoint_that_is_resolved_no_more_may_shut_down() -> None:
    told = Told("tcp://a")
    network, channel, line = ready(told)
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
    network, channel, line = ready()
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
    network, channel, line = ready()
    ended = call(channel)
    network.run()
    channel.wait_for_state_change(READY).addCallback(lambda _: ended.cancel())
    drain(line, 0)
    assert isinstance(result(ended), CancelledError)
    channel.close()
