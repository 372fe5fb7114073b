"""What client and server of mixed versions do together: each ``case_*`` is a test of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from tests.compat.words import messages, services
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair
from txzmq.rpc import (
    Channel,
    Code,
    DeadlineExceeded,
    Method,
    NotFound,
    ResponseMetadata,
    RpcError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc.health import HealthCheckRequest, HealthClient, ServingStatus
from txzmq.rpc.reflection import ServerReflectionClient, ServerReflectionRequest

T = TypeVar("T")

#: Any: Twisted types reactors with zope interfaces.
reactor: Any = twisted_reactor
#: Items of a long stream: several times a window's.
MANY = 10_000
PAIRS = (("tenant", "a"), ("tenant", "b"), ("trace-bin", b"\0\xff"))
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGE = {"maxAttempts": 3, "hedgingDelay": "0.05s"}


class World:
    """Where the servers are, and channels to them, which are closed with it."""

    def __init__(self, endpoints: Mapping[str, str], keys: CurveKeyPair, server_key: str) -> None:
        self._endpoints = endpoints
        self._factory = ZmqFactory(reactor)
        self._keys = keys
        self._server_key = server_key
        self._channels: list[Channel] = []
        self.stage = services.StageClient(self.channel("plain"))

    def channel(self, *servers: str, **options: Any) -> Channel:
        """A new channel to some of the servers."""
        endpoints = [self._endpoints[name] for name in servers]
        channel = Channel(self._factory, endpoints, wait_for_ready=True, timeout=15, **options)
        self._channels.append(channel)
        return channel

    def calls(self, *servers: str, **options: Any) -> Any:
        """A client of the calls on a new channel."""
        return services.CallsClient(self.channel(*servers, **options))

    def retrying(self, server: str, **policy: Any) -> Any:
        """A client with a policy of retries or hedging."""
        config: dict[str, Any] = {"methodConfig": [{"name": [{}], **policy}]}
        return self.calls(server, service_config=config)

    def secure(self, keys: CurveKeyPair | None = None) -> Any:
        """A client of the server that has keys."""
        credentials = CurveClientCredentials(keys or self._keys, server_keys=[self._server_key])
        return self.calls("secure", credentials=credentials)

    async def notes(self, name: str) -> list[str]:
        return list((await self.stage.notes(messages.Text(text=name))).texts)

    async def noted(self, name: str, *notes: str) -> None:
        """Wait until the server has noted this and no more; the case's time limit bounds it."""
        while (seen := await self.notes(name)) != list(notes):
            assert len(seen) <= len(notes), seen
            await sleep(0.01)

    async def connections(self, relay: str) -> int:
        return int((await self.stage.traffic(messages.Text(text=relay))).connections)

    async def tell(self, what: str, text: str) -> None:
        await getattr(self.stage, what)(messages.Text(text=text))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._factory.shutdown()


def sleep(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


def text(value: str) -> Any:
    return messages.Text(text=value)


async def fails(call: Awaitable[Any], error: type[RpcError]) -> RpcError:
    """The error with which a call ends, which must be of this type."""
    try:
        answer = await call
    except error as caught:
        return caught
    raise AssertionError(f"answered with {answer!r}")


def start(coroutine: Any) -> Deferred[Any]:
    """Run a coroutine beside others."""
    return Deferred.fromCoroutine(coroutine)


async def numbers(stream: AsyncIterator[Any]) -> list[int]:
    return [item.number async for item in stream]


def items(count: int) -> Iterator[Any]:
    return (messages.Item(number=number) for number in range(count))


def detail_of(error: RpcError) -> str:
    """The text of an error's only detail."""
    (detail,) = error.details
    assert isinstance(detail, AnyMessage)
    assert detail.type_url == "type.googleapis.com/compat.v1.Text"
    found = error.detail(messages.Text)
    assert found is not None
    return str(found.text)


# -- unary calls ---------------------------------------------------------------------------------


async def case_metadata_travels_both_ways(world: World) -> None:
    with ResponseMetadata() as metadata:
        answer = await world.calls("plain").say(text("hello"), metadata=PAIRS)
    assert answer.text == "hello"
    assert metadata.initial == metadata.trailing == PAIRS


async def case_errors_have_code_message_details_and_metadata(world: World) -> None:
    calls = world.calls("plain")
    for code in Code:
        if code is Code.OK:
            continue
        request = messages.Failing(code=code, message=f"no {code.name}", detail="why")
        error = await fails(calls.fail(request), RpcError)
        assert error.code is code
        assert error.message == f"no {code.name}"
        assert detail_of(error) == "why"
        assert error.metadata == (("who", "server"),)


async def case_large_messages(world: World) -> None:
    ballast = bytes(range(256)) * (3 * 4096)
    answer = await world.calls("plain").say(messages.Text(ballast=ballast))
    assert answer.ballast == ballast
    too_large = messages.Text(ballast=bytes(5 * 1024 * 1024))
    error = await fails(world.calls("plain").say(too_large), RpcError)
    assert error.code is Code.RESOURCE_EXHAUSTED


async def case_deadlines_hold_on_both_sides(world: World) -> None:
    began = time.monotonic()
    await fails(world.calls("plain").wait(text("late"), timeout=0.2), DeadlineExceeded)
    assert time.monotonic() - began > 0.15  # not at once: both sides take it for the same unit
    await world.noted("late", "begun", "cancelled")


async def case_a_cancelled_call_ends_on_the_server(world: World) -> None:
    call = world.calls("plain").wait(text("unwanted"))
    await world.noted("unwanted", "begun")
    call.cancel()
    try:
        await call
    except CancelledError:
        pass
    else:
        raise AssertionError("it was answered")
    await world.noted("unwanted", "begun", "cancelled")


async def case_methods_of_another_version_are_unimplemented(world: World) -> None:
    channel = world.channel("plain")
    for path in (
        "/compat.v1.Calls/Later",
        "/compat.v1.Later/Say",
        "/txzmq.rpc.v1.Control/Later",
        "/txzmq.rpc.v1.Streams/Later",
        "/txzmq.rpc.v1.Later/Later",
    ):
        later = Method(path, "later", messages.Text, messages.Text)
        error = await fails(channel.unary_unary(later, text("x")), Unimplemented)
        assert path.rpartition("/")[2] in error.message


async def case_many_calls_travel_together(world: World) -> None:
    calls = world.calls("relayed")
    await calls.say(text("first"))  # both sides learn what the other understands
    before = await world.stage.traffic(text("calls"))
    waiting = [calls.say(text(f"batched {number}")) for number in range(1_000)]
    for number, call in enumerate(waiting):
        assert (await call).text == f"batched {number}"
    after = await world.stage.traffic(text("calls"))
    assert after.requests - before.requests < 100
    assert after.replies - before.replies < 300


# -- at most once --------------------------------------------------------------------------------


async def case_a_failed_call_is_made_again(world: World) -> None:
    answer = await world.retrying("plain", retryPolicy=RETRY).try_(text("retried"))
    assert answer.text == "retried"
    assert await world.notes("retried") == ["0", "1"]


async def case_a_hedged_call_is_executed_once(world: World) -> None:
    answer = await world.retrying("plain", hedgingPolicy=HEDGE).work(text("hedged"))
    assert answer.text == "hedged"
    assert await world.notes("hedged") == ["executed"]


async def case_a_lost_reply_is_sent_again_and_the_call_not_executed_again(world: World) -> None:
    calls = world.retrying("relayed", retryPolicy=RETRY)
    await calls.say(text("connected"))
    passed = await world.stage.traffic(text("calls"))
    await world.tell("relay", "hold")
    call = calls.work(text("reply lost"))
    await world.noted("reply lost", "executed")
    # The reply has left the server, and is held back by the relay.
    while (await world.stage.traffic(text("calls"))).replies == passed.replies:
        await sleep(0.01)
    await world.tell("relay", "cut")
    await world.tell("relay", "go on")
    assert (await call).text == "reply lost"
    assert await world.notes("reply lost") == ["executed"]


async def case_a_call_that_may_have_been_executed_is_not_made_again(world: World) -> None:
    calls = world.retrying("relayed", retryPolicy=RETRY)
    call = calls.wait(text("connection lost"))
    await world.noted("connection lost", "begun")
    await world.tell("relay", "cut")
    await fails(call, Unavailable)
    await world.noted("connection lost", "begun", "cancelled")


# -- streams -------------------------------------------------------------------------------------


async def case_a_long_stream_of_responses(world: World) -> None:
    stream = world.calls("plain").count(messages.Counting(items=MANY, size=100))
    assert await numbers(stream) == list(range(MANY))
    assert stream.initial_metadata == (("first", "1"),)
    assert stream.trailing_metadata == (("last-bin", b"\0\xff"),)


async def case_a_window_of_few_items(world: World) -> None:
    calls = world.calls("plain", stream_window=4, stream_window_bytes=2_000)
    assert await numbers(calls.count(messages.Counting(items=100, size=1_000))) == list(range(100))


async def case_a_stream_ends_with_an_error(world: World) -> None:
    request = messages.Counting(items=10, code=Code.NOT_FOUND)
    stream = world.calls("plain").count(request)
    seen = [(await anext(stream)).number for _ in range(10)]
    error = await fails(anext(stream), NotFound)
    assert seen == list(range(10))
    assert error.message == "behind the items"
    assert detail_of(error) == "why"
    assert ("who", "server") in error.metadata
    assert ("last-bin", b"\0\xff") in error.metadata


async def case_a_cancelled_stream_ends_on_the_server(world: World) -> None:
    request = messages.Counting(items=10**9, name="left")
    async with world.calls("plain", stream_window=8).count(request) as stream:
        async for item in stream:
            if item.number == 20:
                break
    await world.noted("left", "begun", "cancelled")


async def case_a_stream_ends_at_its_deadline(world: World) -> None:
    request = messages.Counting(items=10**9, name="stream too late", pause=0.05)
    stream = world.calls("plain").count(request, timeout=0.3)
    await fails(numbers(stream), DeadlineExceeded)
    await world.noted("stream too late", "begun", "cancelled")


async def case_a_stream_of_requests(world: World) -> None:
    with ResponseMetadata() as metadata:
        total = await world.calls("plain").sum(items(MANY))
    assert total.number == sum(range(MANY))
    assert metadata.trailing == (("last-bin", b"\0\xff"),)


async def case_streams_both_ways(world: World) -> None:
    assert await numbers(world.calls("plain").mirror(items(MANY))) == list(range(MANY))


async def case_several_streams_at_once(world: World) -> None:
    """They are published together, where both sides understand bundles."""
    calls = world.calls("plain")
    request = messages.Counting(items=200)
    waiting = [start(numbers(calls.count(request))) for _ in range(20)]
    for each in waiting:
        assert await each == list(range(200))


async def case_streams_go_on_over_broken_connections(world: World) -> None:
    async def slowly() -> AsyncIterator[Any]:
        for item in items(150):
            await sleep(0.005)
            yield item

    seen: dict[str, list[int]] = {"counted": [], "mirrored": []}

    async def follow(name: str, stream: Any) -> list[int]:
        async for item in stream:
            seen[name].append(item.number)
        return seen[name]

    calls = world.calls("relayed", stream_window=16)
    counting = messages.Counting(items=150, pause=0.005)
    counted = start(follow("counted", calls.count(counting)))
    mirrored = start(follow("mirrored", calls.mirror(slowly())))
    before = [await world.connections(relay) for relay in ("calls", "publisher")]
    for enough in (5, 60):  # both are open before the first cut
        while min(map(len, seen.values())) < enough:
            await sleep(0.01)
        await world.tell("relay", "cut")
    assert await counted == list(range(150))
    assert await mirrored == list(range(150))
    after = [await world.connections(relay) for relay in ("calls", "publisher")]
    assert all(b < a for b, a in zip(before, after, strict=True)), (before, after)


async def case_a_shared_stream_begins_with_what_was_kept(world: World) -> None:
    first, second = world.calls("plain"), world.calls("plain")
    seen: dict[str, list[int]] = {"first": [], "second": []}

    async def follow(name: str, calls: Any, until: Callable[[], bool]) -> None:
        async with calls.ticks(text("ticks")) as stream:
            async for item in stream:
                seen[name].append(item.number)
                if until():
                    return

    one = start(follow("first", first, lambda: len(seen["second"]) >= 15))
    while len(seen["first"]) < 6:
        await sleep(0.01)
    await follow("second", second, lambda: len(seen["second"]) >= 15)
    await one
    assert seen["second"] == list(range(15))  # from the beginning: all that there was is kept
    assert seen["first"] == list(range(len(seen["first"])))
    await world.noted("ticks", "begun", "cancelled")  # one run, which ended with the last


async def case_a_shared_stream_goes_on_over_broken_connections(world: World) -> None:
    seen: list[int] = []
    async with world.calls("relayed").ticks(text("broken ticks")) as stream:
        async for item in stream:
            seen.append(item.number)
            if len(seen) == 3:
                await world.tell("relay", "cut")
            if len(seen) == 15:
                break
    assert seen == list(range(15))
    await world.noted("broken ticks", "begun", "cancelled")


# -- servers that stop, connections that have lasted, keys ---------------------------------------


async def case_a_server_drains(world: World) -> None:
    alone, both = world.channel("draining"), world.calls("draining", "plain")
    waiting = services.CallsClient(alone).wait(text("drained"))
    await both.say(text("connected"))
    await world.noted("drained", "begun")
    await world.tell("stop", "draining")
    for number in range(50):
        assert (await both.say(text(f"drains {number}"))).text == f"drains {number}"
    refused = services.CallsClient(alone).say(text("refused"), timeout=0.2)
    error = await fails(refused, DeadlineExceeded)
    assert "not executed" in error.message
    assert await world.notes("refused") == []
    assert await world.notes("server draining") == []
    await world.tell("release", "drained")
    assert (await waiting).text == "drained"
    await world.noted("server draining", "stopped")


async def case_connections_that_have_lasted_are_made_anew(world: World) -> None:
    calls = world.calls("aged")
    counted = start(numbers(calls.count(messages.Counting(items=60, pause=0.025))))
    while not counted.called:
        await calls.say(text("renewed"))
        await sleep(0.01)
    assert await counted == list(range(60))
    assert await world.connections("aged") > 1


async def case_keys(world: World) -> None:
    calls = world.secure()
    assert (await calls.say(text("secret"))).text == "secret"
    assert await world.notes("secret") == ["alice"]
    assert await numbers(calls.count(messages.Counting(items=500))) == list(range(500))
    assert (await calls.sum(items(500))).number == sum(range(500))
    stranger = world.secure(CurveKeyPair.generate())
    await fails(stranger.say(text("strange"), wait_for_ready=False), Unauthenticated)
    assert await world.notes("strange") == []


# -- gRPC's services -----------------------------------------------------------------------------


async def case_health_and_reflection(world: World) -> None:
    channel = world.channel("plain")
    health = HealthClient(channel)
    request = HealthCheckRequest(service="compat.v1.Calls")
    assert ServingStatus((await health.check(request)).status) is ServingStatus.SERVING
    async with health.watch(request) as stream:
        assert ServingStatus((await anext(stream)).status) is ServingStatus.SERVING
    asked = [ServerReflectionRequest(list_services="")]
    async for answer in ServerReflectionClient(channel).server_reflection_info(asked):
        listed = {service.name for service in answer.list_services_response.service}
        assert {"compat.v1.Calls", "compat.v1.Stage"} <= listed
