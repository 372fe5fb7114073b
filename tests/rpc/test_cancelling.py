"""Unary calls that are cancelled: on their way, on the server, with the channel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Stubborn, Waiting, World, Worlds, made, text
from txzmq.rpc import Channel, Code, DeadlineExceeded, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.testing import MemoryNetwork, assert_all_given_back


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    yield from made(partial(World, batching=request.param))


def test_cancelling_ends_the_handler_too(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call()
    world.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert service.results[0].called, "the handler's Deferred was not cancelled"
    assert world.network.result(service.contexts[0].cancelled) == "the client cancelled it"
    assert not world.server.running


def test_a_call_that_another_ones_end_has_ended_is_not_cancelled(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    for value in "12":
        world.call(value).addErrback(lambda _: None)
    world.network.run()
    first, second = service.results
    first.addBoth(lambda _: second.callback(text("done")))
    world.network.cut(ADDRESS)
    world.network.run()
    assert second.called
    assert [context.cancelled.called for context in service.contexts] == [True, False]
    assert not world.server.running


def test_a_cancel_is_answered_also_one_of_calls_that_there_are_not(make: Worlds) -> None:
    world: World = make(Waiting())
    client = RawClient(world.network, ADDRESS)
    world.network.run()
    running = client.request(RequestHead(ECHO.path, None, ()), text("x").SerializeToString())
    ids = [client.id_of(running), client.id_of(99)]
    head = RequestHead("/txzmq.rpc.v1.Control/Cancel", None, ())
    cancel = client.request(head, CancelRequest(request_ids=ids).SerializeToString())
    world.network.run()
    assert client.replies()[cancel][0].code is Code.OK
    assert not world.server.running
    client.transport.close()


class Deaf:
    """A server's socket whose server never answers."""

    def received(self, message: list[bytes]) -> None:
        """Nothing comes of it."""

    def peer_lost(self, peer: bytes) -> None:
        """Nothing comes of it."""

    def flush(self) -> None:
        """Nothing comes of it."""

    def closed(self) -> None:
        """Nothing comes of it."""


def test_many_calls_are_cancelled_at_a_time(make: Worlds) -> None:
    world: World = make(Waiting(), limits=ServerLimits(running=10))
    calls = [world.call(str(number)) for number in range(2_500)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (10, 2_490)
    errors: list[Any] = []
    for call in calls:
        call.addErrback(errors.append)
        call.cancel()
    world.network.run()
    assert (world.server.running, world.server.queued) == (0, 0)
    assert len(world.service.seen) == 10, "a call that was cancelled was executed"
    assert {error.type for error in errors} == {CancelledError}


@pytest.mark.parametrize("batching", [True, False])
def test_what_waits_for_a_client_that_goes_is_never_executed(batching: bool) -> None:
    world = World(Waiting(), limits=ServerLimits(running=2), batching=batching)
    calls = [world.call(str(number)) for number in range(10)]
    world.network.run()
    world.network.cut(ADDRESS)
    errors: list[Any] = []
    for call in calls:
        call.addErrback(errors.append)
    world.network.run()
    assert (world.server.running, world.server.queued) == (0, 0)
    assert world.service.seen == ["0", "1"]
    assert {error.type for error in errors} == {Unavailable}
    world.close()


def test_a_server_that_answers_no_cancel_costs_no_memory() -> None:
    network = MemoryNetwork()
    network.listen(ADDRESS, Deaf(), {})
    channel = Channel(network, ADDRESS)
    for _ in range(100):
        call = channel.unary_unary(ECHO, text("x"))
        network.run()
        call.cancel()
        with pytest.raises(CancelledError):
            network.result(call)
    network.advance(31)
    assert_all_given_back(channel)
    assert not network.clock.getDelayedCalls()
    channel.close()


def test_a_server_that_answers_no_ping_costs_no_memory() -> None:
    network = MemoryNetwork()
    network.listen(ADDRESS, Deaf(), {})
    channel = Channel(network, ADDRESS)
    call = channel.unary_unary(ECHO, text("x"), timeout=15)
    network.advance(14)
    assert channel.counters["ping"] == 1
    network.advance(2)
    with pytest.raises(DeadlineExceeded):
        network.result(call)
    network.advance(31)
    assert_all_given_back(channel)
    assert not network.clock.getDelayedCalls()
    channel.close()


def test_a_queued_call_that_is_cancelled_is_never_sent(make: Worlds) -> None:
    world: World = make(serve=False)
    answer = world.call(wait_for_ready=True)
    world.network.advance(1)
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    world.server.listen(ADDRESS)
    world.network.advance(1)
    assert not world.service.seen


def test_a_call_that_waits_on_the_server_and_is_cancelled_is_never_executed(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    calls = [world.call(str(number)) for number in range(4)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (1, 3)
    calls[2].cancel()
    world.network.run()
    with pytest.raises(CancelledError):
        world.network.result(calls[2])
    assert (world.server.running, world.server.queued) == (1, 2)
    for number in range(3):
        service.results[number].callback(text("done"))
        world.network.run()
    assert service.seen == ["0", "1", "3"]
    assert all(call.called for call in calls)


def test_a_place_is_free_when_the_handler_has_really_ended(make: Worlds) -> None:
    service = Stubborn()
    world: World = make(service, limits=ServerLimits(running=1))
    first = world.call("first")
    world.network.run()
    first.cancel()
    second = world.call("second")
    with pytest.raises(CancelledError):
        world.network.result(first)
    assert (world.server.running, service.seen) == (1, ["first"])
    service.results[-1].callback(text("late"))
    world.network.run()
    assert service.seen == ["first", "second"]
    service.results[-1].callback(text("done"))
    assert world.network.result(second).value == "done"


def test_closing_the_channel_cancels_what_waits(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call()
    world.network.run()
    world.channel.close()
    world.channel.close()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert service.results[0].called, "the handler's Deferred was not cancelled"
    with pytest.raises(Unavailable, match="closed"):
        world.network.result(world.call())
