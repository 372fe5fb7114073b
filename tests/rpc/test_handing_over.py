"""A server that hands its clients over to another process, with the same listening socket.

In memory, the other process is another server that takes the place of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, World, text
from tests.rpc.streaming import COUNT, RESUME, Reader, Streaming, StreamWorld
from tests.support import Logged
from txzmq.rpc import Channel, Code, Context, Count, Server, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import RequestHead

PATH = RequestHead(ECHO.path, None, ())
LEAVE = RequestHead("/txzmq.rpc.v1.Control/Leave", None, ())
#: In memory, whatever it is: another server may listen at the address.
GIVEN = 0


def has_fired(deferred: Deferred[None]) -> bool:
    return deferred.called


class Shop(World):
    """A server that another one follows."""

    def __init__(self, service: Echo | None = None, **options: Any) -> None:
        super().__init__(service, **options)
        self.next = Echo()
        self.successor = Server(self.network, [self.next])
        self.network.run()

    def roll(self, grace: float = 10.0) -> Deferred[None]:
        """Have the other server ready, then hand over."""
        self.successor.listen(ADDRESS, fd=GIVEN)
        return self.server.hand_over(grace)

    def close(self) -> None:
        self.successor.stop(0)
        super().close()


@pytest.fixture
def shop() -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(*arguments: Any, **options: Any) -> Shop:
        made.append(Shop(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_calls_go_on_at_the_other_server(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    service = world.service
    assert isinstance(service, Waiting)
    runs = world.call("runs")
    world.network.run()
    stopped = world.roll()
    world.network.advance(1)
    assert world.network.result(world.call("after")).value == "after"
    assert (service.seen, world.next.seen) == (["runs"], ["after"])
    assert not has_fired(stopped)
    assert world.server.stats.is_draining
    service.results[0].callback(text("done"))
    assert world.network.result(runs).value == "done"
    world.network.advance(0.1)
    assert has_fired(stopped), "nobody is waited for any longer"
    assert world.server.counters[Count.CONNECTION_AGED] == 1


def test_a_client_that_is_idle_has_moved_before_it_calls(shop: Callable[..., Shop]) -> None:
    world = shop()
    world.network.result(world.call("first"))
    stopped = world.roll()
    world.network.advance(1)
    assert stopped.called
    assert world.channel.counters[Count.CONNECTION_RENEWED] == 1
    assert world.network.result(world.call("second")).value == "second"
    assert world.next.seen == ["second"]


def test_no_call_is_refused_or_made_twice(shop: Callable[..., Shop]) -> None:
    world = shop()
    channels = [Channel(world.network, ADDRESS) for _ in range(5)]
    calls: list[Deferred[StringValue]] = []
    for number in range(100):
        calls += [world.call(f"{number} {at}", caller=each) for at, each in enumerate(channels)]
        if number == 50:
            world.roll()
        if number % 3:
            world.network.advance(0.001)
    answers = [world.network.result(call).value for call in calls]
    assert Counter([*world.service.seen, *world.next.seen]) == Counter(answers)
    assert len(answers) == 500
    assert world.next.seen
    assert not set(world.server.counters) - {Count.CONNECTION_AGED}
    for channel in channels:
        channel.close()
    world.network.run()


def test_who_connects_while_both_accept_is_served_by_either(shop: Callable[..., Shop]) -> None:
    world = shop()
    world.successor.listen(ADDRESS, fd=GIVEN)
    channels = [Channel(world.network, ADDRESS) for _ in range(40)]
    world.network.run()
    calls = [world.call(str(at), caller=each) for at, each in enumerate(channels)]
    answers = [world.network.result(call).value for call in calls]
    assert world.service.seen
    assert world.next.seen
    stopped = world.server.hand_over()
    calls = [world.call(f"after {at}", caller=each) for at, each in enumerate(channels)]
    answers += [world.network.result(call).value for call in calls]
    assert Counter([*world.service.seen, *world.next.seen]) == Counter(answers)
    world.network.advance(2)
    assert stopped.called
    later = [world.network.result(world.call("later", caller=each)) for each in channels]
    assert world.next.seen[-len(later) :] == ["later"] * len(later)
    for channel in channels:
        channel.close()
    world.network.run()


def test_what_still_runs_when_the_grace_is_over_is_cancelled(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    runs = world.call("runs")
    world.network.run()
    stopped = world.roll(grace=5)
    world.network.advance(4.9)
    assert not has_fired(stopped)
    world.network.advance(0.2)
    assert has_fired(stopped)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(runs)
    assert world.service.contexts[0].cancelled.called


def test_a_client_of_another_version_is_let_go_of(shop: Callable[..., Shop]) -> None:
    """To it the server shuts down, so it waits for its connection's end."""
    world = shop(Waiting())
    runs = world.call("runs")
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    raw.request(PATH, text("mine").SerializeToString())
    world.network.run()
    assert isinstance(world.service, Waiting)
    world.service.results[1].callback(text("done"))
    stopped = world.roll()
    world.network.run()
    notice, _ = raw.replies()[0]
    assert (notice.code, notice.draining, notice.reconnect) == (Code.OK, True, True)
    raw.request(LEAVE)
    world.network.advance(0.3)
    assert raw.events == ["connected", "disconnected", "connected"]
    assert not stopped.called
    again = raw.request(PATH, text("again").SerializeToString())
    world.network.run()
    assert raw.replies()[again][1] == text("again").SerializeToString()
    assert world.next.seen == ["again"]
    world.service.results[0].callback(text("done"))
    assert world.network.result(runs).value == "done"
    raw.transport.close()


def test_who_calls_for_the_first_time_meanwhile_is_served_and_told(
    shop: Callable[..., Shop],
) -> None:
    world = shop(Waiting())
    runs = world.call("runs")
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    world.roll()
    world.network.run()
    first = raw.request(PATH, text("first").SerializeToString())
    world.network.run()
    assert isinstance(world.service, Waiting)
    for result in world.service.results:
        result.callback(text("done"))
    world.network.run()
    head, body = raw.replies()[first]
    assert (head.code, head.draining, head.reconnect) == (Code.OK, True, True)
    assert body == text("done").SerializeToString()
    assert world.network.result(runs).value == "done"
    raw.transport.close()


def test_a_first_call_that_is_on_its_way_is_answered(shop: Callable[..., Shop]) -> None:
    """Its client is connected, and the server cannot know it yet."""
    world = shop(limits=ServerLimits())
    channels = [Channel(world.network, ADDRESS) for _ in range(8)]
    world.network.run()
    stopped = world.roll()
    calls: list[Deferred[StringValue]] = []
    for number, channel in enumerate(channels):
        calls += [world.call(f"{number} {again}", caller=channel) for again in range(3)]
        world.network.advance(0.1)
    assert [world.network.result(call).value for call in calls] == [
        f"{number} {again}" for number in range(8) for again in range(3)
    ]
    assert world.service.seen, "the old one took them on"
    calls = [world.call("later", caller=channel) for channel in channels]
    assert [world.network.result(call).value for call in calls] == ["later"] * 8
    assert world.next.seen == ["later"] * 8
    world.network.advance(0.5)
    assert stopped.called
    for channel in channels:
        channel.close()
    world.network.run()


def test_a_client_that_comes_last_has_the_whole_grace(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    world.network.run()
    stopped = world.roll(grace=10)
    world.network.advance(0.9)
    late = world.call("late")
    world.network.advance(8)
    assert not has_fired(stopped)
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    assert world.network.result(late).value == "done"
    world.network.advance(0.1)
    assert has_fired(stopped)


@pytest.mark.parametrize("age", [None, 3.0])
def test_connections_that_have_an_age_are_handed_over_with_the_same_grace(
    shop: Callable[..., Shop], age: float | None
) -> None:
    limits = ServerLimits(connection_age=age, connection_age_grace=None if age is None else 0.5)
    world = shop(Waiting(), limits=limits)
    runs = world.call("runs")
    world.network.run()
    stopped = world.roll(grace=20)
    world.network.advance(15)
    assert isinstance(world.service, Waiting)
    world.service.results[0].callback(text("done"))
    assert world.network.result(runs).value == "done"
    world.network.advance(0.1)
    assert stopped.called


# -- in what order it is told -------------------------------------------------------------------


def test_it_may_be_told_to_stop_meanwhile(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    runs = world.call("runs")
    world.network.run()
    handed = world.roll()
    world.network.advance(1)
    stopped = world.server.stop(2)
    again = world.server.hand_over(100)
    world.network.advance(1.9)
    assert not any(each.called for each in (handed, stopped, again))
    world.network.advance(0.2)
    assert all(each.called for each in (handed, stopped, again))
    with pytest.raises(Unavailable):
        world.network.result(runs)


@pytest.mark.parametrize("how", ["hand_over", "stop"])
def test_a_later_call_shortens_the_grace_and_does_not_lengthen_it(
    shop: Callable[..., Shop], how: str
) -> None:
    world = shop(Waiting())
    runs = world.call("runs")
    world.network.run()
    first = world.roll(grace=10)
    again: Callable[[float], Deferred[None]] = getattr(world.server, how)
    world.network.advance(1)
    again(3)
    again(100)
    world.network.advance(2.9)
    assert not has_fired(first)
    world.network.advance(0.2)
    assert has_fired(first)
    with pytest.raises(Unavailable):
        world.network.result(runs)


def test_a_stop_does_not_lengthen_the_grace(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    runs = world.call("runs")
    world.network.run()
    handed = world.roll(grace=2)
    world.network.advance(1)
    world.server.stop(100)
    world.network.advance(1.1)
    assert has_fired(handed)
    with pytest.raises(Unavailable):
        world.network.result(runs)


def test_nothing_happens_to_a_server_that_has_stopped(shop: Callable[..., Shop]) -> None:
    world = shop()
    stopped = world.server.stop(0)
    world.network.run()
    handed = world.server.hand_over()
    assert (stopped.called, handed.called) == (True, True)


def test_a_server_that_listens_nowhere_stops(shop: Callable[..., Shop]) -> None:
    world = shop(serve=False)
    handed = world.server.hand_over()
    world.network.run()
    assert handed.called


def test_it_takes_no_further_addresses(shop: Callable[..., Shop]) -> None:
    world = shop(Waiting())
    world.call("runs").addErrback(lambda _: None)
    world.network.run()
    world.roll()
    with pytest.raises(RuntimeError, match="stopped"):
        world.server.listen("inproc://other")
    with pytest.raises(RuntimeError, match="stopped"):
        world.server.connect("inproc://other")


@pytest.mark.parametrize("grace", [-1, float("nan"), "5", None, True])
def test_a_grace_that_is_none(shop: Callable[..., Shop], grace: Any) -> None:
    world = shop()
    with pytest.raises((ValueError, TypeError), match="grace"):
        world.server.hand_over(grace)
    assert not world.server.stats.is_draining


def test_a_descriptor_that_is_none(shop: Callable[..., Shop]) -> None:
    world = shop()
    wrong: Any
    for wrong in ("3", 1.5, True, -1):
        with pytest.raises((ValueError, TypeError), match="fd"):
            world.successor.listen(ADDRESS, fd=wrong)
    with pytest.raises(ValueError, match="pass its address as publisher="):
        world.successor.listen(ADDRESS, fd=GIVEN, publisher_fd=GIVEN)


# -- streams -------------------------------------------------------------------------------------


class StreamShop(StreamWorld):
    """A server with streams that another one follows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.next = Streaming()
        self.successor = Server(self.network, [self.next])

    def roll(self, grace: float) -> Deferred[None]:
        self.successor.listen(ADDRESS, fd=GIVEN, publisher=f"{ADDRESS}.7.streams")
        return self.server.hand_over(grace)

    def close(self) -> None:
        self.successor.stop(0)
        super().close()


@pytest.fixture
def streaming() -> Iterator[Callable[..., StreamShop]]:
    made: list[StreamShop] = []

    def make(*arguments: Any, **options: Any) -> StreamShop:
        made.append(StreamShop(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_stream_goes_on_where_it_was_opened(streaming: Callable[..., StreamShop]) -> None:
    given: list[Deferred[str]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for _ in range(3):
            given.append(Deferred())
            yield text(await given[-1])

    world = streaming(handler)
    reader = Reader(world.channel.unary_stream(COUNT, text("x")))
    world.network.run()
    given[0].callback("a")
    world.network.run()
    stopped = world.roll(60)
    world.network.advance(5)
    given[1].callback("b")
    world.network.run()
    other = Reader(world.channel.unary_stream(COUNT, text("2")))
    world.network.advance(1)
    assert (other.items, other.ended) == (["0", "1"], "well")
    assert len(world.next.contexts) == 1
    assert not stopped.called
    given[2].callback("c")
    world.network.advance(5)
    assert (reader.items, reader.ended) == (["a", "b", "c"], "well")
    assert stopped.called


def test_a_stream_that_can_be_resumed_goes_on_at_the_other_server(
    streaming: Callable[..., StreamShop],
) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("old")
        await Deferred[None]()

    world = streaming(handler)

    async def resumed(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("new")

    world.next.handler = resumed
    reader = Reader(world.channel.unary_stream(RESUME, text("x")))
    world.network.run()
    stopped = world.roll(5)
    world.network.advance(4)
    assert (reader.items, reader.ended) == (["old"], None)
    world.network.advance(20)
    assert (reader.items, reader.ended) == (["old", "new"], "well")
    assert stopped.called


def test_it_says_where_it_cannot_leave_connections_to_another(
    shop: Callable[..., Shop], logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = shop(Waiting())
    (listener,) = cast("Any", world.server)._listeners  # Any: there is no other place to look
    monkeypatch.setattr(listener.transport, "accept_no_more", lambda: False)
    world.server.hand_over()
    (event,) = logged.warnings()
    assert event["endpoint"] == ADDRESS
    assert "goes on accepting connections" in event["log_format"]
