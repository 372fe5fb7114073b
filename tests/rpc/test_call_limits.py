"""How large messages may be, and how many calls a server runs and queues; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, Waiting, World, Worlds, made, text
from txzmq.rpc import Channel, Context, DeadlineExceeded, ResourceExhausted, ServerLimits


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    yield from made(partial(World, batching=request.param))


def test_message_size_is_limited_on_each_side_both_ways(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            return text("x" * int(request.value or 0))

    world: World = make(Service(), limits=ServerLimits(message_size=1000))
    small = Channel(world.network, ADDRESS, message_size=500)
    with pytest.raises(ResourceExhausted, match=r"request.*client's limit of 500"):
        world.network.result(world.call("1" * 600, caller=small))
    with pytest.raises(ResourceExhausted, match=r"response.*client's limit of 500"):
        world.network.result(world.call("600", caller=small))
    with pytest.raises(ResourceExhausted, match=r"request.*server.*message_size"):
        world.network.result(world.call("0" * 1001))
    with pytest.raises(ResourceExhausted, match=r"response.*server.*message_size"):
        world.network.result(world.call("1001"))
    # What has just as many bytes as it may have passes; three of them are protobuf's.
    assert len(world.network.result(world.call("497", caller=small)).value) == 497
    assert world.network.result(world.call("0" * 496 + "1", caller=small)).value == "x"
    assert len(world.network.result(world.call("997")).value) == 997
    assert world.network.result(world.call("0" * 996 + "1")).value == "x"
    small.close()


def test_metadata_is_limited_by_the_server_both_ways(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.set_trailing_metadata({"a": "x" * 100})
            return text("")

    world: World = make(Service(), limits=ServerLimits(metadata_size=100))
    for what, metadata in (("request", {"a": "x" * 100}), ("response", {})):
        with pytest.raises(ResourceExhausted, match=f"{what}.*metadata_size"):
            world.network.result(world.call(metadata=dict(metadata)))


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(running=2, queued=3), "ServerLimits.queued\\)"),
        (ServerLimits(running_per_peer=2, queued_per_peer=3), "ServerLimits.queued_per_peer"),
        (
            ServerLimits(running_per_method={ECHO.path: 2}, queued_per_method={ECHO.path: 3}),
            "ServerLimits.queued_per_method",
        ),
    ],
)
def test_calls_past_a_limit_wait_and_past_the_next_are_shed(
    make: Worlds, limits: ServerLimits, name: str
) -> None:
    service = Waiting()
    world: World = make(service, limits=limits)
    calls = [world.call(str(i)) for i in range(6)]
    world.network.run()
    assert service.seen == ["0", "1"]
    with pytest.raises(ResourceExhausted, match=name):
        world.network.result(calls[5])
    for i in range(5):
        service.results[i].callback(text(str(i)))
        world.network.run()
        assert world.network.result(calls[i]).value == str(i)
    assert service.seen == ["0", "1", "2", "3", "4"]


def test_what_waits_too_long_is_never_executed(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    first, second = world.call("first", timeout=10), world.call("second", timeout=1)
    world.network.advance(1)
    with pytest.raises(DeadlineExceeded):
        world.network.result(second)
    service.results[0].callback(text(""))
    world.network.result(first)
    assert service.seen == ["first"]


def test_a_method_at_its_limit_keeps_up_no_other(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running_per_method={ECHO.path: 1}))
    calls = [world.call(str(number)) for number in range(3)]
    world.network.run()
    assert (service.seen, world.server.queued) == (["0"], 2)
    other = world.call("other", method=OTHER)
    assert world.network.result(other).value == "other other"
    for number in range(3):
        service.results[number].callback(text(""))
        world.network.run()
    assert service.seen == ["0", "other", "1", "2"]
    assert all(call.called for call in calls)


def test_peers_take_turns(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    other = Channel(world.network, ADDRESS)
    calls = [world.call(f"greedy {i}") for i in range(4)]
    world.network.run()
    calls += [world.call(f"modest {i}", caller=other) for i in range(2)]
    for i in range(6):
        world.network.run()
        service.results[i].callback(text(""))
    world.network.run()
    assert service.seen == ["greedy 0", "greedy 1", "modest 0", "greedy 2", "modest 1", "greedy 3"]
    other.close()


WHO: ContextVar[str] = ContextVar("who", default="")


def test_a_call_that_has_waited_sees_no_other_calls_context_variables(make: Worlds) -> None:
    """Though it begins where the one before has ended, within the handler of a third."""

    class Service(Waiting):
        def __init__(self) -> None:
            super().__init__()
            self.seen_by: dict[str, str] = {}

        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            self.seen_by[request.value] = WHO.get()
            WHO.set(request.value)
            return self.wait()

        def other(self, request: StringValue, context: Context) -> StringValue:
            WHO.set("third")
            self.results[0].callback(text("y"))
            return text("z")

    service = Service()
    world = make(service, limits=ServerLimits(running_per_method={ECHO.path: 1}))
    calls = [world.call(value) for value in ("first", "second")]
    world.network.run()
    assert service.seen_by == {"first": ""}
    world.network.result(world.call("x", method=OTHER))
    assert service.seen_by == {"first": "", "second": ""}
    service.results[1].callback(text("y"))
    for call in calls:
        world.network.result(call)
