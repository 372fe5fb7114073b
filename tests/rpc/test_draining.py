"""A server that shuts down: its clients go elsewhere, and no call is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, Stubborn, Waiting, World, text
from txzmq.rpc import Channel, Code, Context, Server, UnaryResult, Unavailable
from txzmq.rpc._wire.headers import RequestHead

PATH = RequestHead(ECHO.path, None, ())
LEAVE = RequestHead("/txzmq.rpc.v1.Control/Leave", None, ())
SECOND = "inproc://second"


class Pair(World):
    """Two servers and a channel to both."""

    def __init__(self, service: Echo | None = None, *, batching: bool = True) -> None:
        super().__init__(service, batching=batching)
        self.second = Echo()
        self.other = Server(self.network, [self.second])
        self.other.listen(SECOND)
        self.both = Channel(self.network, [ADDRESS, SECOND], batching=batching)
        self.network.run()

    def calls(self, count: int) -> list[Deferred[StringValue]]:
        return [self.call(str(i), caller=self.both) for i in range(count)]

    def close(self) -> None:
        self.both.close()
        self.other.stop(0)
        super().close()


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def batching(request: pytest.FixtureRequest) -> bool:
    answer: bool = request.param
    return answer


@pytest.fixture
def pair(batching: bool) -> Iterator[Pair]:
    pair = Pair(Waiting(), batching=batching)
    yield pair
    pair.close()


def test_clients_that_are_told_call_elsewhere_and_get_what_runs(pair: Pair) -> None:
    service = pair.service
    assert isinstance(service, Waiting)
    running = pair.calls(2)
    pair.network.run()
    assert (service.seen, pair.second.seen) == (["1"], ["0"])
    stopped = pair.server.stop(5)
    pair.network.advance(1)
    for number in range(10):
        assert pair.network.result(pair.call(str(number), caller=pair.both)).value == str(number)
    assert service.seen == ["1"]
    assert [stopped.called] == [False]
    service.results[0].callback(text("done"))
    assert pair.network.result(running[1]).value == "done"
    assert stopped.called


def test_calls_that_were_on_their_way_are_made_elsewhere(pair: Pair) -> None:
    assert isinstance(pair.service, Waiting)
    warm = pair.calls(2)
    pair.network.run()
    pair.service.results[0].callback(text("1"))
    # The server stops before it has seen what its client has sent.
    answers = pair.calls(10)
    pair.server.stop(5)
    pair.network.advance(1)
    for number, answer in enumerate(answers):
        assert pair.network.result(answer).value == str(number)
    assert len(pair.service.seen) + len(pair.second.seen) == 12
    assert [pair.network.result(answer).value for answer in warm] == ["0", "1"]


def test_with_no_other_server_calls_wait_for_the_next(batching: bool) -> None:
    world = World(batching=batching)
    world.network.result(world.call("before"))
    refused = world.call("x")
    stopped = world.server.stop(5)
    after = world.call("y")
    while not stopped.called:  # one event after the other
        world.network.clock.advance(0)
    successor = Echo()
    server = Server(world.network, [successor])
    server.listen(ADDRESS)
    world.network.advance(1)
    assert world.network.result(refused).value == "x"
    assert world.network.result(after).value == "y"
    assert sorted(world.service.seen + successor.seen) == ["before", "x", "y"]
    server.stop(0)
    world.close()


def test_a_refused_call_may_run_out_of_time_or_be_cancelled(batching: bool) -> None:
    world = World(Stubborn(), batching=batching)
    runs = world.call("runs")
    world.network.run()
    late, cancelled = world.call("late", timeout=1), world.call("cancelled")
    world.server.stop(5)
    world.network.run()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        world.network.result(cancelled)
    world.network.advance(2)
    with pytest.raises(Exception, match="was not executed"):
        world.network.result(late)
    world.network.advance(5)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(runs)
    assert world.service.seen == ["runs"]
    world.close()


def test_a_call_that_runs_can_be_cancelled_while_the_server_shuts_down(batching: bool) -> None:
    world = World(Waiting(), batching=batching)
    runs = world.call("runs")
    world.network.run()
    stopped = world.server.stop(5)
    world.network.advance(1)
    runs.cancel()
    with pytest.raises(CancelledError):
        world.network.result(runs)
    assert world.network.result(world.service.contexts[0].cancelled) == "the client cancelled it"
    assert stopped.called
    world.close()


def test_a_server_may_be_stopped_in_a_handler(batching: bool) -> None:
    stopped: list[Deferred[None]] = []

    class Last(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            stopped.append(world.server.stop())
            return text("the last one")

    world = World(Last(), batching=batching)
    assert world.network.result(world.call()).value == "the last one"
    world.network.advance(1)
    assert stopped[0].called
    world.close()


# -- what goes over the wire -------------------------------------------------------------------


def test_a_notice_comes_first_and_all_replies_say_it_too() -> None:
    world = World(Waiting())
    raw = RawClient(world.network, ADDRESS)
    stranger = RawClient(world.network, ADDRESS)
    world.network.run()
    running = raw.request(PATH, text("x").SerializeToString())
    world.network.run()
    stopped = world.server.stop(10)
    world.network.run()
    assert {number: head.draining for number, (head, _) in raw.replies().items()} == {0: True}
    assert not stranger.messages, "it has not sent anything, so nobody knows its ids"
    refused = raw.request(PATH, text("y").SerializeToString())
    world.network.run()
    head, _ = raw.replies()[refused]
    assert (head.code, head.not_executed, head.draining) == (Code.UNAVAILABLE, True, True)
    left = raw.request(LEAVE)
    world.network.run()
    assert raw.replies()[left][0].code is Code.OK
    newcomer = stranger.request(PATH, text("z").SerializeToString())
    world.network.run()
    assert stranger.replies()[newcomer][0].draining
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    world.network.run()
    head, body = raw.replies()[running]
    assert (head.code, head.draining, body) == (Code.OK, True, text("done").SerializeToString())
    assert [stopped.called] == [False], "the stranger may still send"
    stranger.transport.close()
    world.network.run()
    assert stopped.called
    raw.transport.close()
    world.close()


def test_clients_that_do_not_answer_are_not_waited_for_long() -> None:
    world = World()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    raw.request(PATH, text("x").SerializeToString())
    world.network.run()
    stopped = world.server.stop(10)
    world.network.advance(1.9)
    assert [stopped.called] == [False]
    world.network.advance(0.1)
    assert stopped.called
    raw.transport.close()
    world.close()


def test_clients_behind_a_proxy_get_no_notice() -> None:
    world = World(Waiting())
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    # As a proxy would: the client's routing id in front.
    request = [b"\0\0\0\0\x01", b"e" * 8 + bytes(7) + b"\1", b"", b"", b""]
    request[3] = b"\n" + bytes([len(PATH.path)]) + PATH.path.encode()
    raw.transport.send_message(request)
    world.network.run()
    stopped = world.server.stop(10)
    world.network.run()
    assert raw.messages == []
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    world.network.run()
    assert raw.messages == [[*request[:3], b"", text("done").SerializeToString()]]
    assert stopped.called
    raw.transport.close()
    world.close()


def test_stopping_again_may_shorten_the_grace_and_not_lengthen_it() -> None:
    world = World(Waiting())
    call = world.call()
    call.addErrback(lambda _: None)
    world.network.run()
    first = world.server.stop(10)
    later = world.server.stop(100)
    world.network.advance(1)
    sooner = world.server.stop(2)
    world.network.advance(1.9)
    assert [d.called for d in (first, later, sooner)] == [False] * 3
    world.network.advance(0.1)
    assert [d.called for d in (first, later, sooner)] == [True] * 3
    after = world.server.stop(5)
    assert after.called
    world.close()
