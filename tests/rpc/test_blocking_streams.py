"""Streams in threads: responses that a thread reads, requests that it gives."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, count, echo, join
from tests.rpc.tasks import Saying
from tests.rpc.threads import Outcome, until, until_garbage
from tests.support import PATIENCE, Loop
from txzmq import WrongThreadError, ZmqFactory
from txzmq.rpc import (
    Blocking,
    Caller,
    Channel,
    Context,
    DeadlineExceeded,
    NotFound,
    RequestStream,
    ResponseStream,
    Server,
    StreamInput,
    Unavailable,
)
from txzmq.rpc._threads.stream import ThreadedStream
from txzmq.rpc.blocking import BlockingStream


class Client:
    """As a generated one."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel

    def count(self, request: StringValue, **options: Any) -> ResponseStream[StringValue]:
        return self._channel.unary_stream(COUNT, request, **options)

    def collect(self, requests: StreamInput[StringValue], **options: Any) -> Deferred[StringValue]:
        return self._channel.stream_unary(COLLECT, requests, **options)

    def chat(
        self, requests: StreamInput[StringValue], **options: Any
    ) -> ResponseStream[StringValue]:
        return self._channel.stream_stream(CHAT, requests, **options)


class World:
    """A server and a client, whose reactor runs in a thread of its own."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.service = Saying(count)
        self.server = Server(self.factory, [self.service])
        self.endpoint = self.server.listen("tcp://127.0.0.1:*")
        self.channel = Channel(self.factory, self.endpoint, stream_window=8)
        self.client = Client(self.channel)
        self.blocking = Blocking(self.channel, read_ahead=4)

    def serve(self, handler: Callable[..., Any]) -> None:
        self.service.handler = handler

    def count(self, value: object = 3, **options: Any) -> BlockingStream[StringValue]:
        return self.blocking(self.client.count, text(str(value)), **options)

    def in_reactor(self, function: Callable[[], object]) -> None:
        self.loop.reactor.callFromThread(function)


@pytest.fixture
def world(one_loop: Loop) -> Iterator[World]:
    world = World(one_loop)
    with one_loop.in_thread():
        yield world
        if one_loop.reactor.running:
            world.in_reactor(world.factory.shutdown)


class Endless:
    """Gives items for ever."""

    def __init__(self) -> None:
        self.given = 0
        self.ends: list[str] = []

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.cancelled.addCallback(self.ends.append)
        while True:
            self.given += 1
            yield text(str(self.given))


async def silent(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    yield text("first")
    await Deferred()


# -- responses ---------------------------------------------------------------------------------


def test_a_stream(world: World) -> None:
    stream = world.count(1_000)
    assert [item.value for item in stream] == [str(i) for i in range(1_000)]
    assert list(stream) == []
    assert stream.trailing_metadata == ()


def test_a_stream_with_metadata_that_fails(world: World) -> None:
    async def fails(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"a": "1"})
        yield text("one")
        context.set_trailing_metadata({"b": "2"})
        raise NotFound("no more")

    world.serve(fails)
    stream = world.count()
    assert next(stream).value == "one"
    assert stream.initial_metadata == (("a", "1"),)
    for _ in range(2):
        with pytest.raises(NotFound, match="no more"):
            next(stream)
    assert stream.trailing_metadata == (("b", "2"),)


@pytest.mark.parametrize("how", ["with", "close", "forget"])
def test_a_stream_that_is_left_early(world: World, how: str) -> None:
    endless = Endless()
    world.serve(endless)
    if how == "with":
        with world.count() as stream:
            for item in stream:
                if item.value == "20":
                    break
    elif how == "close":
        stream = world.count()
        next(stream)
        stream.close()
        with pytest.raises(CancelledError):
            next(stream)
        stream.cancel()
    else:
        for _ in world.count():
            break
    until_garbage(lambda: endless.ends)
    assert endless.ends == ["the client cancelled it"]


def test_no_more_is_read_than_is_wanted(world: World) -> None:
    endless = Endless()
    world.serve(endless)
    with world.count() as stream:
        next(stream)
        given = 0
        while given != endless.given:  # until it stands still
            given = endless.given
            quiet = threading.Event()
            world.loop.reactor.callFromThread(world.loop.reactor.callLater, 0.05, quiet.set)
            assert quiet.wait(PATIENCE)
        # What is read ahead, what has arrived, and a window that is on its way.
        assert given <= 1 + 4 + 2 * 8 + 1
        for _ in range(200):
            next(stream)
        assert endless.given >= 201


def test_the_time_of_a_stream(world: World) -> None:
    world.serve(silent)
    stream = world.count(timeout=0.1)
    assert next(stream).value == "first"
    with pytest.raises(DeadlineExceeded):
        next(stream)


def test_a_stream_that_is_cancelled_by_another_thread(world: World) -> None:
    world.serve(silent)
    stream = world.count()
    assert isinstance(stream, ThreadedStream)
    next(stream)
    reader = Outcome(lambda: next(stream))
    until(lambda: not stream._lock.acquire(blocking=False) or stream._lock.release())  # type: ignore[func-returns-value]  # waits until the reader waits
    with pytest.raises(RuntimeError, match="a stream has one reader at a time"):
        next(stream)
    stream.cancel()
    assert isinstance(reader.ended(), CancelledError)


def test_the_reactors_own_thread_does_not_wait(world: World) -> None:
    world.serve(silent)
    stream = world.count()
    done = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            next(stream)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)
        done.set()

    world.in_reactor(read)
    assert done.wait(PATIENCE)
    assert isinstance(errors[0], WrongThreadError)
    assert next(stream).value == "first"
    stream.close()


def test_a_reactor_that_stops(world: World) -> None:
    world.serve(silent)
    stream = world.count()
    next(stream)
    reader = Outcome(lambda: next(stream))
    world.in_reactor(world.factory.shutdown)
    world.in_reactor(world.loop.reactor.stop)
    assert isinstance(reader.ended(), Unavailable | CancelledError)


def test_a_reactor_that_is_blocked(world: World) -> None:
    world.serve(silent)
    world.blocking = Blocking(world.channel, patience=0.1)
    stream = world.count()
    next(stream)
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(PATIENCE)

    world.in_reactor(block)
    assert blocked.wait(PATIENCE)
    with pytest.raises(Unavailable, match=r"blocked for 0.1 s; the stream is cancelled"):
        next(stream)
    release.set()


def test_what_cannot_be_opened_raises_at_once(world: World) -> None:
    wrong: Any = 7
    with pytest.raises(TypeError, match="takes StringValue, not int"):
        world.blocking(world.client.count, wrong)
    with pytest.raises(ValueError, match="timeout must be"):
        world.count(timeout=float("nan"))


# -- requests ----------------------------------------------------------------------------------

WORD: ContextVar[str] = ContextVar("WORD", default="none")


def test_requests_come_from_the_calling_thread(world: World) -> None:
    world.serve(join)
    threads: set[threading.Thread] = set()

    def requests() -> Iterator[StringValue]:
        message = text("")
        for number in range(500):
            threads.add(threading.current_thread())
            message.value = str(number)  # the same message, which is sent as it was
            yield message

    for answer in (
        world.blocking(world.client.collect, requests()),
        world.blocking(world.client.collect, requests=requests(), timeout=20),
        world.blocking(world.channel.stream_unary, COLLECT, requests()),
    ):
        assert answer.value == ",".join(map(str, range(500)))
    assert threads == {threading.current_thread()}
    listed = [text("1"), text("2")]
    assert world.blocking(world.client.collect, listed).value == "1,2"


def test_a_handler_that_does_not_read_stops_the_iterable(world: World) -> None:
    given: list[int] = []
    readers: list[RequestStream[StringValue]] = []
    gate: Deferred[None] = Deferred()

    async def waits(requests: RequestStream[StringValue], context: Context) -> StringValue:
        readers.append(requests)
        await gate
        return await join(requests, context)

    def requests() -> Iterator[StringValue]:
        for number in range(20_000):
            given.append(number)
            yield text(str(number))

    world.serve(waits)
    call = Outcome(lambda: world.blocking(world.client.collect, requests()))
    until(lambda: readers)
    before = -1
    while before != len(given):  # until it stands still
        before = len(given)
        quiet = threading.Event()
        world.loop.reactor.callFromThread(world.loop.reactor.callLater, 0.1, quiet.set)
        assert quiet.wait(PATIENCE)
    assert before < 20_000
    world.in_reactor(lambda: gate.callback(None))
    assert call.ended() is None
    assert call.results[0].value.endswith(",19999")


def test_a_call_that_ends_before_its_requests(world: World) -> None:
    closed: list[str] = []

    def requests() -> Iterator[StringValue]:
        try:
            while True:
                yield text("again")
        finally:
            closed.append("closed")

    async def first(requests: RequestStream[StringValue], context: Context) -> StringValue:
        return await anext(requests)

    world.serve(first)
    assert world.blocking(world.client.collect, requests()).value == "again"
    assert closed == ["closed"]


def test_requests_that_fail(world: World) -> None:
    def requests() -> Iterator[StringValue]:
        yield text("1")
        raise ZeroDivisionError("of the caller")

    world.serve(join)
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        world.blocking(world.client.collect, requests())


def test_ctrl_c_while_requests_are_made(world: World) -> None:
    ends: list[str] = []

    def requests() -> Iterator[StringValue]:
        yield text("1")
        until(lambda: world.service.contexts)
        world.service.contexts[0].cancelled.addCallback(ends.append)
        raise KeyboardInterrupt

    world.serve(join)
    with pytest.raises(KeyboardInterrupt):
        world.blocking(world.client.collect, requests())
    until(lambda: ends)
    assert ends == ["the client cancelled it"]


def test_a_conversation(world: World) -> None:
    heard = threading.Semaphore(0)
    threads: set[str] = set()

    def requests() -> Iterator[StringValue]:
        for number in range(20):
            threads.add(threading.current_thread().name)
            yield text(f"{WORD.get()} {number}")
            assert heard.acquire(timeout=PATIENCE)

    world.serve(echo)
    WORD.set("mine")
    answers: list[str] = []
    for answer in world.blocking(world.client.chat, requests()):
        answers.append(answer.value)
        heard.release()
    assert answers == [f"mine {number}" for number in range(20)]
    assert threads == {"requests"}


def test_a_conversation_that_is_left_early(world: World) -> None:
    closed = threading.Event()

    def requests() -> Iterator[StringValue]:
        try:
            while True:
                yield text("again")
        finally:
            closed.set()

    world.serve(echo)
    with world.blocking(world.client.chat, requests()) as stream:
        assert next(stream).value == "again"
    assert closed.wait(PATIENCE)


def test_a_conversation_whose_requests_fail(world: World) -> None:
    def requests() -> Iterator[StringValue]:
        yield text("1")
        raise ZeroDivisionError("of the caller")

    world.serve(echo)
    stream = world.blocking(world.client.chat, requests())
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        list(stream)


@pytest.mark.parametrize("error", [SystemExit("enough"), KeyboardInterrupt(), GeneratorExit()])
def test_a_conversation_whose_requests_end_their_thread(world: World, error: BaseException) -> None:
    """Such an exception would end the thread of the requests alone, and the call never."""

    def requests() -> Iterator[StringValue]:
        yield text("1")
        raise error

    world.serve(echo)
    stream = world.blocking(world.client.chat, requests(), timeout=PATIENCE)
    with pytest.raises(RuntimeError, match=f"requests raised {type(error).__name__}") as caught:
        list(stream)
    assert caught.value.__cause__ is error


def test_requests_that_have_waited_too_long_end_their_conversation(world: World) -> None:
    """The reader was elsewhere meanwhile, and has no reason of its own to give up."""

    def requests() -> Iterator[StringValue]:
        while True:
            yield text("x")

    async def deaf(requests: Any, context: Context) -> AsyncIterator[StringValue]:
        yield text("first")
        await Deferred()

    world.serve(deaf)
    blocking = Blocking(world.channel, patience=0.1)
    stream = blocking(world.client.chat, requests())
    assert next(stream).value == "first"
    pumps = [thread for thread in threading.enumerate() if thread.name == "requests"]
    release = threading.Event()
    world.in_reactor(lambda: release.wait(PATIENCE))
    for pump in pumps:
        pump.join(PATIENCE)
        assert not pump.is_alive()
    release.set()
    with pytest.raises(Unavailable, match="the reactor has been blocked for"):
        next(stream)


def test_wrong_words_for_how_far_to_read() -> None:
    wrong: Any = 0
    with pytest.raises(ValueError, match="read_ahead must be"):
        Blocking(ZmqFactory(), read_ahead=wrong)
