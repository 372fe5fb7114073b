"""What a channel does with a connection that its server wants to be made anew."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.lines import CONNECTING, READY, Line, Lines, Told, call, result
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COUNT, Endless, Reader, StreamWorld
from txzmq.rpc import Channel, Count, RpcError, Unauthenticated, Unavailable
from txzmq.rpc._wire.headers import ResponseHead, encode_response


class Renewed:
    """A channel whose only server has told it to connect anew, with a call on its way."""

    def __init__(self) -> None:
        self.network = Lines()
        self.channel = Channel(self.network, "tcp://127.0.0.1:1")
        self.old.handler.connected()
        self.runs = self.call()
        age(self.old)
        self.network.run()

    @property
    def old(self) -> Line:
        return self.network.made[0]

    @property
    def new(self) -> Line:
        return self.network.made[1]

    def call(self) -> Deferred[Any]:
        made = call(self.channel)
        self.network.run()
        return made


def age(line: Line) -> None:
    """The server says that a connection has lasted long enough."""
    header = encode_response(ResponseHead(draining=True, reconnect=True))
    line.handler.received([line.requests[0][0][:8] + bytes(8), b"", header, b""])


def fails(made: Deferred[Any], kind: type[RpcError], words: str) -> None:
    error = result(made)
    assert isinstance(error, kind)
    assert words in error.message


def test_the_old_one_is_used_until_the_new_one_is_ready() -> None:
    world = Renewed()
    world.call()
    assert (world.old.paths, world.new.paths) == (["Echo", "Echo"], [])
    age(world.old)  # a duplicate
    world.network.run()
    assert len(world.network.made) == 2
    world.new.handler.connected()
    world.call()
    assert (world.old.paths, world.new.paths) == (["Echo", "Echo"], ["Echo"])
    assert world.channel.state is READY
    world.old.answer(0)
    world.network.run()
    assert result(world.runs) == text("x")
    assert world.network.open == [world.old, world.new]
    world.old.answer(1)
    world.network.run()
    assert world.network.open == [world.new]
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 1
    assert [status.load for status in world.channel.endpoints] == [1]
    world.channel.close()


def test_calls_that_were_not_sent_go_by_the_new_one() -> None:
    world = Renewed()
    waits = call(world.channel)  # until the end of the turn
    world.new.handler.connected()
    world.network.run()
    assert (world.old.paths, world.new.paths) == (["Echo"], ["Echo"])
    world.new.answer(0)
    assert result(waits) == text("x")
    world.channel.close()


@pytest.mark.parametrize("status", ["ZAP status 500", "does not know this client's key"])
def test_who_is_not_let_in_again_uses_the_old_one_as_long_as_the_server_does(status: str) -> None:
    """The server may not be able to decide just now, or another one may be behind the address."""
    world = Renewed()
    world.new.handler.refused(status, is_last=True)
    second = world.call()
    world.old.answer(1)
    assert result(second) == text("x")
    world.network.advance(2)
    third = world.network.made[2]
    third.handler.connected()
    world.call()
    assert third.paths == ["Echo"]
    world.channel.close()


def test_who_is_not_let_in_again_is_told_when_the_old_one_ends() -> None:
    world = Renewed()
    why = "the server does not know this client's key"
    world.new.handler.refused(why, is_last=True)
    world.old.answer(0)
    assert result(world.runs) == text("x")
    world.old.handler.disconnected()
    waits = world.call()
    world.network.advance(2)
    world.network.made[-1].handler.refused(why, is_last=True)
    fails(waits, Unauthenticated, why)
    world.channel.close()
    assert world.network.open == []


def test_while_nobody_can_be_reached_the_old_one_is_used() -> None:
    world = Renewed()
    world.new.handler.unreachable("nobody listens")
    second = world.call()
    world.old.answer(1)
    assert result(second) == text("x")
    assert world.channel.state is READY
    world.new.handler.connected()
    world.call()
    assert world.new.paths == ["Echo"]
    world.channel.close()


def test_an_old_one_that_is_lost_meanwhile_is_made_anew_as_ever() -> None:
    world = Renewed()
    world.old.handler.disconnected()
    assert not world.new.open
    fails(world.runs, Unavailable, "may have been executed")
    assert world.channel.state is CONNECTING
    world.network.advance(1)
    third = world.network.made[2]
    third.handler.connected()
    world.call()
    assert third.paths == ["Echo"]
    age(third)
    world.network.run()
    assert len(world.network.made) == 4, "it is another connection, which may grow old, too"
    world.channel.close()
    assert world.network.open == []


def test_a_channel_is_closed_while_a_connection_is_made_anew() -> None:
    world = Renewed()
    world.channel.close()
    assert world.network.open == []
    assert isinstance(result(world.runs), CancelledError)
    again = Renewed()
    again.new.handler.connected()
    again.channel.close()
    assert again.network.open == []
    assert isinstance(result(again.runs), CancelledError)


def test_without_a_socket_for_another_the_old_one_goes_on() -> None:
    network = Lines()
    channel = Channel(network, "tcp://127.0.0.1:1")
    (line,) = network.made
    line.handler.connected()
    runs = call(channel)
    network.run()
    network.broken = True
    age(line)
    line.answer(0)
    assert result(runs) == text("x")
    channel.close()


def test_a_connection_may_grow_old_before_it_is_used() -> None:
    """Its first message is not a call: the client asks which server that is."""
    network = Lines()
    channel = Channel(network, "tcp://127.0.0.1:1")
    network.made[0].handler.connected()
    stream = Reader(channel.unary_stream(COUNT, text("x")))
    network.run()
    age(network.made[0])
    network.made[1].handler.connected()
    network.run()
    assert [line.paths for line in network.made] == [["Count", "Acknowledge"], ["Acknowledge"]]
    age(network.made[1])
    network.run()
    assert len(network.made) == 2, "nobody uses it yet"
    for line, index in ((network.made[0], 1), (network.made[1], 0)):
        line.handler.received([line.requests[index][0], b"", b"", b""])
    network.run()
    assert len(network.made) == 3, "now it is told"
    stream.done.cancel()
    channel.close()


def test_streams_of_an_endpoint_that_leaves_end_when_it_is_lost() -> None:
    """They would wait for ever: no other connection is tried for."""
    world = StreamWorld(Endless())
    resolver = Told(ADDRESS)
    channel = Channel(world.network, resolver)
    stream = Reader(channel.unary_stream(COUNT, text("x")))
    world.network.run()
    resolver.tell("inproc://elsewhere")
    world.network.run()
    assert not stream.has_ended
    world.network.cut(ADDRESS)
    world.network.run()
    assert isinstance(stream.ended, Unavailable)
    assert "cut short" in stream.ended.message
    channel.close()
    world.network.advance(10)
    world.close()
