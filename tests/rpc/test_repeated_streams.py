"""Retry policies and calls that stream, in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.leftovers import leftovers
from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS, Reader, Streaming, StreamWorld
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    IdempotencyLevel,
    Method,
    RequestStream,
    ResourceExhausted,
    ResponseMetadata,
    Server,
    ServerLimits,
    Unavailable,
)
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._wire.headers import OK
from txzmq.rpc.balancing import ConsistentHash
from txzmq.rpc.transport import SendResult
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults


def idempotent(method: Method[StringValue, StringValue]) -> Method[StringValue, StringValue]:
    return replace(method, idempotency_level=IdempotencyLevel.IDEMPOTENT)


def config(codes: list[str] | None = None, **more: Any) -> dict[str, Any]:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": codes or ["UNAVAILABLE"],
    }
    return {
        "methodConfig": [{"name": [{"service": "test.Streaming"}], "retryPolicy": policy}],
        **more,
    }


class World(StreamWorld):
    """Its methods are idempotent."""

    def __init__(self, handler: Any, service_config: Any = None, **options: Any) -> None:
        super().__init__(handler, service_config=service_config or config(), **options)

    def open(
        self,
        value: object = 3,
        *,
        method: Method[StringValue, StringValue] = COUNT,
        **options: Any,
    ) -> Any:
        return self.channel.unary_stream(idempotent(method), text(str(value)), **options)

    def collect(self, requests: Any, **options: Any) -> Deferred[StringValue]:
        return self.channel.stream_unary(idempotent(COLLECT), requests, **options)

    def chat(self, requests: Any, **options: Any) -> Any:
        return self.channel.stream_stream(idempotent(CHAT), requests, **options)

    @property
    def attempts(self) -> list[str]:
        """Those before each one that has reached the handler, as it was told."""
        metadata = [dict(context.metadata) for context in self.service.contexts]
        return [str(pairs.get("grpc-previous-rpc-attempts", "")) for pairs in metadata]


Worlds = Callable[..., World]


@pytest.fixture
def make() -> Generator[Worlds]:
    worlds: list[World] = []

    def build(handler: Any, service_config: Any = None, **options: Any) -> World:
        worlds.append(World(handler, service_config, **options))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()
        assert leftovers(world.channel, world.server) == []


def not_now(**options: Any) -> Unavailable:
    return Unavailable("not now", **options)


class Failing:
    """Fails so many times before it gives three items."""

    def __init__(self, failures: float, error: Callable[[], Exception] = not_now) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    @property
    def fails(self) -> bool:
        self.calls += 1
        return self.calls <= self.failures


class AtOnce(Failing):
    """Before the stream is open."""

    def __call__(self, request: StringValue, context: Context) -> list[StringValue]:
        if self.fails:
            raise self.error()
        return [text(value) for value in "abc"]


class Later(Failing):
    """When it is asked for the first item."""

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        if self.fails:
            raise self.error()
        for value in "abc":
            yield text(value)


MOMENTS = pytest.mark.parametrize("moment", [AtOnce, Later])


@MOMENTS
def test_a_stream_is_opened_until_it_gives_something(make: Worlds, moment: type[Failing]) -> None:
    world = make(moment(2))
    reader = world.run(metadata={"k": "v"})
    assert len(world.service.contexts) == 1
    assert not reader.has_ended
    world.network.advance(1)
    assert (reader.items, reader.ended) == (["a", "b", "c"], "well")
    assert world.attempts == ["", "1", "2"]
    assert all(("k", "v") in context.metadata for context in world.service.contexts)
    assert world.channel.counters["retry"] == 2


@MOMENTS
def test_attempts_end_with_the_last_error(make: Worlds, moment: type[Failing]) -> None:
    handler = moment(99)
    handler.error = lambda: not_now(metadata={"n": str(handler.calls)})
    world = make(handler)
    wanted = ResponseMetadata()
    with wanted:
        reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert reader.ended.metadata == (("n", "4"),)
    if moment is Later:
        assert wanted.trailing == (("n", "4"),)


@MOMENTS
def test_a_server_that_always_fails_gets_few_attempts_more(
    make: Worlds, moment: type[Failing]
) -> None:
    world = make(moment(10**9))
    for _ in range(100):
        world.read()
        world.network.advance(1)
    assert len(world.service.contexts) <= 120


def test_streams_that_give_something_bring_tokens(make: Worlds) -> None:
    handler = Later(5)
    throttling = {"maxTokens": 4, "tokenRatio": 1}
    world = make(handler, config(retryThrottling=throttling))
    world.read()
    world.network.advance(5)
    assert handler.calls == 2  # two tokens are left, and none is used any more
    handler.failures = 0
    for _ in range(2):
        world.read()
    world.network.run()
    handler.failures, handler.calls = 1, 0
    reader = world.read()
    world.network.advance(1)
    assert reader.ended == "well"


def test_a_stream_that_gave_an_item_is_not_opened_again(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("a")
        raise not_now()

    world = make(handler)
    reader = world.read()
    world.network.advance(5)
    assert reader.items == ["a"]
    assert isinstance(reader.ended, Unavailable)
    assert world.attempts == [""]


def test_a_stream_that_gave_initial_metadata_is_not_opened_again(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"a": "b"})
        if context:
            raise not_now()
        yield text("")

    world = make(handler)
    reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert reader.stream.initial_metadata == (("a", "b"),)
    assert world.attempts == [""]


@MOMENTS
def test_what_may_have_been_executed_is_not_repeated(make: Worlds, moment: type[Failing]) -> None:
    world = make(moment(1))
    reader = Reader(world.channel.unary_stream(COUNT, text("x")))
    world.network.advance(5)
    assert isinstance(reader.ended, Unavailable)
    assert world.attempts == [""]


def test_what_was_not_executed_is_repeated(make: Worlds) -> None:
    world = make(AtOnce(0))
    world.network.run()
    world.die()
    world.network.advance(0.1)
    reader = Reader(world.channel.unary_stream(COUNT, text("x"), wait_for_ready=False))
    world.network.advance(0.01)
    assert not reader.has_ended
    world.serve()
    world.network.advance(5)
    assert reader.ended == "well"


def test_another_code_is_final(make: Worlds) -> None:
    world = make(Later(1, lambda: ResourceExhausted("full")))
    reader = world.read()
    world.network.advance(5)
    assert isinstance(reader.ended, ResourceExhausted)


def test_the_limit_of_streams_is_a_reason_to_come_back(make: Worlds) -> None:
    async def endless(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        await Deferred()
        yield text("")

    world = make(endless, config(["RESOURCE_EXHAUSTED"]), limits=ServerLimits(streams=1))
    first = world.run()
    second = world.run()
    assert not second.has_ended
    first.stream.cancel()
    world.network.advance(1)
    assert not second.has_ended
    assert world.server.running == 1


@pytest.mark.parametrize(
    ("pushback", "after", "attempts"), [("2000", 1.9, 1), ("2000", 2.1, 2), ("-1", 60, 1)]
)
@MOMENTS
def test_a_server_says_when_to_come_back(
    make: Worlds, moment: type[Failing], pushback: str, after: float, attempts: int
) -> None:
    metadata = {"grpc-retry-pushback-ms": pushback}
    world = make(moment(9, lambda: not_now(metadata=metadata)))
    world.read()
    world.network.advance(after)
    assert len(world.attempts) == attempts


@MOMENTS
def test_an_attempt_that_would_be_too_late_is_not_waited_for(
    make: Worlds, moment: type[Failing]
) -> None:
    metadata = {"grpc-retry-pushback-ms": "5000"}
    world = make(moment(9, lambda: not_now(metadata=metadata)))
    assert isinstance(world.run(timeout=3).ended, Unavailable)


def test_the_deadline_is_that_of_the_whole_stream(make: Worlds) -> None:
    left: list[float | None] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        left.append(context.time_remaining())
        if len(left) == 1:
            await world.sleep(1)
            raise not_now()
        await Deferred()
        yield text("")

    world = make(handler)
    reader = world.read(timeout=3)
    world.network.advance(2)
    assert left[0] == pytest.approx(3, abs=0.01)
    assert left[1] == pytest.approx(1.9, abs=0.03)
    world.network.advance(1.1)
    assert isinstance(reader.ended, DeadlineExceeded)


def test_the_time_for_opening_is_that_of_all_attempts(make: Worlds) -> None:
    async def handler(request: StringValue, context: Context) -> list[StringValue]:
        await world.sleep(0.9)
        raise not_now()

    world = make(handler, config(["UNAVAILABLE", "DEADLINE_EXCEEDED"]), timeout=2)
    reader = world.read()
    world.network.advance(1.9)
    assert not reader.has_ended
    world.network.advance(0.2)
    assert isinstance(reader.ended, (DeadlineExceeded, Unavailable))
    assert len(world.attempts) == 2


@MOMENTS
@pytest.mark.parametrize("closing", [False, True])
def test_a_stream_that_is_cancelled_is_not_opened_again(
    make: Worlds, moment: type[Failing], closing: bool
) -> None:
    world = make(moment(99))
    reader = world.run()
    if closing:
        world.channel.close()
    else:
        reader.stream.cancel()
    world.network.advance(5)
    assert isinstance(reader.ended, CancelledError)
    assert world.attempts == [""]


def test_a_lost_server_is_a_reason_to_open_on_another_one(make: Worlds) -> None:
    class Waiting(Streaming):
        async def count(self, request: StringValue, context: Context) -> Any:
            self.contexts.append(context)
            await Deferred()
            yield text("")

    world = make(AtOnce(0))
    services = [Waiting(), Waiting()]
    addresses = [f"inproc://{number}" for number in range(2)]
    servers = [Server(world.network, [service]) for service in services]
    for server, address in zip(servers, addresses, strict=True):
        server.listen(address)
    channel = Channel(world.network, addresses, service_config=config())
    world.network.run()
    reader = Reader(channel.unary_stream(idempotent(COUNT), text("x")))
    world.network.advance(1)
    first = next(number for number in range(2) if services[number].contexts)
    world.network.die(addresses[first])
    world.network.die(f"{addresses[first]}.streams")
    world.network.advance(7)
    assert not reader.has_ended
    assert [len(service.contexts) for service in services] == [1, 1]
    channel.close()
    for server in servers:
        server.stop(0)


@pytest.mark.parametrize("moment", [AtOnce, Later])
def test_an_attempt_goes_to_a_server_that_has_not_failed(
    make: Worlds, moment: Callable[[float], Any]
) -> None:
    world = make(AtOnce(0))
    services = [Streaming(moment(99)) for _ in range(3)]
    addresses = [f"inproc://{number}" for number in range(3)]
    servers = [Server(world.network, [service]) for service in services]
    for server, address in zip(servers, addresses, strict=True):
        server.listen(address)
    throttling = {"maxTokens": 1000, "tokenRatio": 1}
    channel = Channel(
        world.network,
        addresses,
        service_config=config(retryThrottling=throttling),
        policy=ConsistentHash("k"),
    )
    world.network.run()
    for _ in range(5):  # four attempts each
        stream = channel.unary_stream(idempotent(COUNT), text("x"), metadata={"k": "same"})
        reader = Reader(stream)
        world.network.advance(10)
        assert isinstance(reader.ended, Unavailable)
        assert sorted(len(service.contexts) for service in services) == [1, 1, 2]
        for service in services:
            service.contexts.clear()
    channel.close()
    for server in servers:
        server.stop(0)


def test_the_first_run_of_a_shared_stream_may_fail(make: Worlds) -> None:
    world = make(Later(1))
    readers = [world.read(method=TICKS) for _ in range(3)]
    world.network.advance(1)
    assert [reader.items for reader in readers] == [["a", "b", "c"]] * 3
    assert all(reader.ended == "well" for reader in readers)


def test_a_stream_is_not_hedged(make: Worlds) -> None:
    policy = {"maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
    service_config = {
        "methodConfig": [{"name": [{"service": "test.Streaming"}], "hedgingPolicy": policy}]
    }
    world = make(AtOnce(1), service_config)
    assert isinstance(world.run().ended, Unavailable)
    world.network.advance(5)
    assert world.attempts == [""]


def test_interceptors_see_one_call(make: Worlds) -> None:
    seen: list[str] = []

    async def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        seen.append(call.method.path)
        return await proceed(call)

    world = make(AtOnce(2), client_interceptors=[interceptor])
    reader = world.read()
    world.network.advance(1)
    assert reader.ended == "well"
    assert seen == ["/test.Streaming/Count"]


# -- streams of requests -----------------------------------------------------------------------


class Collecting(Failing):
    """Reads so many requests before it fails; then it answers with all."""

    def __init__(self, failures: float, read: int = 0) -> None:
        super().__init__(failures)
        self.read = read

    async def __call__(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        fails = self.fails
        values: list[str] = []
        async for request in requests:
            values.append(request.value)
            if fails and len(values) > self.read:
                break
        if fails:
            raise self.error()
        return text(",".join(values))


class Chatting(Collecting):
    """The same with a stream of responses."""

    async def __call__(  # type: ignore[override]  # the other kind of call
        self, requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        yield await super().__call__(requests, context)


def chat(world: World, requests: Any) -> Deferred[str]:
    return Deferred.fromCoroutine(first_of(world.chat(requests)))


async def first_of(stream: Any) -> str:
    return str((await anext(stream)).value)


def collect(world: World, requests: Any) -> Deferred[str]:
    return world.collect(requests).addCallback(lambda response: response.value)


KINDS = pytest.mark.parametrize(
    ("call", "handler"), [(collect, Collecting), (chat, Chatting)], ids=["one", "both"]
)
Call = Callable[[World, Any], Deferred[str]]


def texts(count: int) -> list[StringValue]:
    return [text(str(number)) for number in range(count)]


def joined(count: int) -> str:
    return ",".join(map(str, range(count)))


@KINDS
@pytest.mark.parametrize("read", [0, 10, 9_999])
@pytest.mark.parametrize("count", [0, 1, 100, 1_024])
def test_requests_are_sent_again_from_the_beginning(
    make: Worlds, call: Call, handler: type[Collecting], count: int, read: int
) -> None:
    world = make(handler(2, read=read))
    answer = call(world, texts(count))
    world.network.advance(1)
    assert world.network.result(answer) == joined(count)
    assert world.attempts == ["", "1", "2"]


@KINDS
def test_requests_that_come_between_two_attempts_are_kept(
    make: Worlds, call: Call, handler: type[Collecting]
) -> None:
    async def slowly() -> AsyncIterator[StringValue]:
        for item in texts(10):
            yield item
            await world.sleep(0.02)

    world = make(handler(2))
    answer = call(world, slowly())
    world.network.advance(2)
    assert world.network.result(answer) == joined(10)
    assert len(world.attempts) == 3


@KINDS
@pytest.mark.parametrize("count", [1_025, 2_000])
def test_more_than_a_window_is_not_kept(
    make: Worlds, call: Call, handler: type[Collecting], count: int
) -> None:
    world = make(handler(1, read=9_999))
    answer = call(world, texts(count))
    world.network.advance(5)
    with pytest.raises(Unavailable):
        world.network.result(answer)
    assert world.attempts == [""]


@KINDS
def test_what_the_callers_items_raise_is_not_repeated(
    make: Worlds, call: Call, handler: type[Collecting]
) -> None:
    async def failing() -> AsyncIterator[StringValue]:
        yield text("0")
        await world.sleep(0.1)  # until it has been sent
        raise not_now()

    world = make(handler(0))
    answer = call(world, failing())
    world.network.advance(5)
    with pytest.raises(Unavailable):
        world.network.result(answer)
    assert world.attempts == [""]


@KINDS
@pytest.mark.parametrize("closing", [False, True])
def test_a_call_with_requests_ends_between_two_attempts(
    make: Worlds, call: Call, handler: type[Collecting], closing: bool
) -> None:
    closed: list[bool] = []

    async def endless() -> AsyncIterator[StringValue]:
        try:
            while True:
                yield text("x")
                await world.sleep(0.01)
        finally:
            closed.append(True)

    world = make(handler(99))
    answer = call(world, endless())
    world.network.run()
    assert len(world.attempts) == 1
    if closing:
        world.channel.close()
    else:
        answer.cancel()
    world.network.run()
    assert answer.called  # not only when the next attempt would be made
    world.network.advance(5)
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert len(world.attempts) == 1
    assert closed == [True]


@KINDS
@pytest.mark.parametrize("seed", range(10))
def test_what_was_sent_before_does_not_confuse_an_attempt(
    make: Worlds, call: Call, handler: type[Collecting], seed: int
) -> None:
    # Acknowledgements of an attempt that has failed come during the next one.
    chance = random.Random(seed)
    throttling = {"maxTokens": 1000, "tokenRatio": 1}
    world = make(handler(2, read=9_999), config(retryThrottling=throttling))
    listener = world.network.listener(ADDRESS)
    assert listener is not None
    send = listener.send_message

    def later(message: list[bytes]) -> SendResult:
        world.network.clock.callLater(chance.random(), send, message)
        return SendResult.SENT

    listener.send_message = later  # type: ignore[method-assign]  # replies overtake each other
    answers = [call(world, texts(1000)) for _ in range(3)]
    world.network.advance(60)
    for answer in answers:
        assert world.network.result(answer) == joined(1000)
    assert world.channel.counters["retry"] == 2


class FakeControl:
    """A connection that sends when the test says so."""

    def requests_begun(self, requests: Requests) -> None: ...
    def requests_ended(self, requests: Requests) -> None: ...
    def send_requests_soon(self, requests: Requests) -> None: ...
    def send_requests_again(self, requests: Requests) -> None: ...


def test_an_acknowledgement_of_an_earlier_attempt_counts_for_nothing() -> None:
    sent: list[tuple[streams_pb2.SendRequest, Any]] = []

    def call(body: bytes, answered: Any, /) -> bool:
        sent.append((streams_pb2.SendRequest.FromString(body), answered))
        return True

    failures: list[Exception] = []
    control: Any = FakeControl()
    requests = Requests(CHAT, texts(3), 1_000)
    requests.when_failed(failures.append)
    requests.hold()
    requests.carried(control)
    requests.send(call)
    requests.rewind()
    requests.carried(control)
    requests.send_again(call)
    (first, answered), (second, _) = sent
    assert first.requests != second.requests == requests.id
    answered(OK, streams_pb2.SendResponse(taken=4).SerializeToString())
    requests.send_again(call)
    assert [request.sequence for request, _ in sent] == [1, 1, 1]
    assert all(len(request.items) == 3 and request.end for request, _ in sent)
    requests.stop()
    assert not failures


class Busy:
    """Has room for one call at a time, and fails what it runs."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    async def __call__(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        self.waiting.append(Deferred())
        await self.waiting[-1]
        raise ResourceExhausted("after all")


def test_what_a_server_has_not_begun_with_is_repeated_and_what_it_has_is_not(make: Worlds) -> None:
    busy = Busy()
    limits = ServerLimits(running=1, queued=0)
    world = make(busy, config(["RESOURCE_EXHAUSTED", "UNAVAILABLE"]), limits=limits)
    first, second = (world.channel.stream_unary(COLLECT, texts(3)) for _ in range(2))
    world.network.run()
    busy.waiting[0].callback(None)
    world.network.advance(3)
    with pytest.raises(ResourceExhausted, match="after all"):
        world.network.result(first)
    assert len(busy.waiting) == 2  # the second one was refused, and came back
    world.network.cut(ADDRESS)
    world.network.advance(30)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(second)
    assert len(busy.waiting) == 2


def test_what_is_cancelled_before_its_next_attempt_is_sent_is_not_sent(make: Worlds) -> None:
    world = make(Collecting(1))
    answer = world.collect(texts(3))
    world.network.run()
    assert world.attempts == [""]
    world.network.faults = Faults(blocked=1)
    world.network.advance(1)
    assert world.channel.counters["retry"] == 1
    answer.cancel()
    world.network.faults = Faults()
    world.network.advance(5)
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert world.attempts == [""]


def test_an_attempt_has_the_time_that_is_left(make: Worlds) -> None:
    left: list[float] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        left.append(context.time_remaining() or 0.0)
        if len(left) == 1:
            raise not_now(metadata={"grpc-retry-pushback-ms": "5000"})
        return text("done")

    world = make(handler)
    answer = world.collect(texts(3), timeout=10)
    world.network.advance(6)
    assert world.network.result(answer).value == "done"
    assert left == [pytest.approx(10, abs=0.1), pytest.approx(5, abs=0.1)]


def test_an_acknowledgement_that_an_earlier_attempt_asked_for_is_not_waited_for() -> None:
    async def one_and_silence() -> AsyncIterator[StringValue]:
        yield text("a")
        await Deferred()

    asked: list[bool] = []

    def call(body: bytes, answered: Any, /) -> bool:
        asked.append(streams_pb2.SendRequest.FromString(body).acknowledge)
        return True

    control: Any = FakeControl()
    requests = Requests(CHAT, one_and_silence(), 1_000)
    requests.hold()
    requests.carried(control)
    for _ in range(3):
        requests.ask()
        requests.send(call)
        requests.rewind()
        requests.carried(control)
    assert asked == [True] * 3
    requests.stop()


def test_what_can_not_be_sent_again_is_not_kept(make: Worlds) -> None:
    world = make(Chatting(0))
    stream = world.chat(texts(3))
    requests: Requests = stream._core._requests
    assert [requests.are_held] == [True]
    reading = Deferred.fromCoroutine(first_of(stream))
    world.network.run()
    assert not requests.are_held
    assert world.network.result(reading) == "0,1,2"


def test_a_call_with_requests_is_not_repeated_without_a_policy(make: Worlds) -> None:
    world = make(Collecting(1), {"methodConfig": []})
    with pytest.raises(Unavailable):
        world.network.result(world.collect(texts(3)))
    assert world.attempts == [""]
