"""Retry policies and streams of requests, in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.retried_streams import Failing, World, Worlds, config, not_now
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.streaming import CHAT, COLLECT, texts
from txzmq.rpc import Context, RequestStream, ResourceExhausted, ServerLimits, Unavailable
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._wire.headers import OK
from txzmq.rpc._wire.streams import MAX_REPLAYED_SIZE
from txzmq.rpc.transport import SendResult
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(World)


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
    def send_requests(self, requests: Requests) -> None: ...
    def send_requests_soon(self, requests: Requests) -> None: ...
    def send_requests_again(self, requests: Requests) -> None: ...


def test_an_acknowledgement_of_an_earlier_attempt_counts_for_nothing() -> None:
    sent: list[tuple[streams_pb2.SendRequest, Any]] = []

    def call(body: bytes, answered: Any, /) -> bool:
        sent.append((streams_pb2.SendRequest.FromString(body), answered))
        return True

    failures: list[BaseException] = []
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


@pytest.mark.parametrize("room", range(5))
def test_what_is_sent_again_is_sent_until_there_is_no_room(room: int) -> None:
    """Three messages: an item fills one."""
    sent: list[streams_pb2.SendRequest] = []

    def call(body: bytes, answered: Any, /) -> bool:
        if len(sent) == room:
            return False
        sent.append(streams_pb2.SendRequest.FromString(body))
        return True

    control: Any = FakeControl()
    requests = Requests(CHAT, [text("x" * MAX_REPLAYED_SIZE)] * 3, 2 * MAX_REPLAYED_SIZE)
    requests.carried(control)
    assert requests.send_again(call) is (room >= 3)
    assert [request.sequence for request in sent] == [1, 2, 3][:room]
    assert [request.end for request in sent] == [False, False, True][:room]
    requests.stop()


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
    requests: Requests = stream._core.requests
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
