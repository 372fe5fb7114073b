"""Handlers that run as Tasks of asyncio's: ``Server(..., handlers="asyncio")``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, MISSING, Echo, text
from tests.rpc.streaming import PUBLISHER, returning
from tests.rpc.tasks import SAY, Saying, TaskWorld, run_in_asyncio, turns, until
from tests.support import Logged, Loop, fresh_loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    MethodHandler,
    NotFound,
    RequestStream,
    Server,
    StreamWriter,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    current_context,
)
from txzmq.rpc.interceptors import ServerProceed
from txzmq.testing import MemoryNetwork

Test = Callable[[TaskWorld], Awaitable[None]]


def in_world(handler: Any, test: Test, **options: Any) -> None:
    async def main() -> None:
        world = TaskWorld(handler, **options)
        await test(world)
        await world.close()

    run_in_asyncio(main)


async def a_moment() -> None:
    """What only a Task can await."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0)


class Waiting:
    """Waits for ever, and takes its time to clean up when it is cancelled."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.clean = asyncio.Event()

    async def __call__(self, request: StringValue, context: Context) -> StringValue:
        self.events.append("began")
        context.cancelled.addCallback(self.events.append)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        finally:
            await self.clean.wait()
            self.events.append("clean")
        return request


# -- one response ------------------------------------------------------------------------------


def test_a_handler_awaits_what_is_asyncios() -> None:
    async def handler(request: StringValue, context: Context) -> StringValue:
        await a_moment()
        first, second = await asyncio.gather(asyncio.sleep(0, "a"), asyncio.to_thread(lambda: "b"))
        return text(f"{request.value} {first}{second}")

    async def test(world: TaskWorld) -> None:
        assert (await world.say("x")).value == "x ab"

    in_world(handler, test)


def test_a_handler_awaits_what_is_twisteds() -> None:
    async def handler(request: StringValue, context: Context) -> StringValue:
        loop = asyncio.get_running_loop()
        later: Deferred[str] = Deferred()
        loop.call_soon(later.callback, "later")
        failing: Deferred[str] = Deferred()
        loop.call_soon(failing.errback, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await failing
        return text(await later)

    async def test(world: TaskWorld) -> None:
        assert (await world.say()).value == "later"

    in_world(handler, test)


def test_handlers_that_are_no_coroutines() -> None:
    results: dict[str, Any] = {}

    def handler(request: StringValue, context: Context) -> Any:
        return results[request.value]

    async def test(world: TaskWorld) -> None:
        later: Deferred[StringValue] = Deferred()
        results["value"], results["later"] = text("at once"), later
        assert (await world.say("value")).value == "at once"
        asyncio.get_running_loop().call_later(0.001, later.callback, text("later"))
        assert (await world.say("later")).value == "later"

    in_world(handler, test)


def test_errors(logged: Logged) -> None:
    async def handler(request: StringValue, context: Context) -> Any:
        await a_moment()
        if request.value == "missing":
            raise NotFound("no such thing")
        if request.value == "wrong":
            return 7
        raise ZeroDivisionError("of the handler")

    async def test(world: TaskWorld) -> None:
        with pytest.raises(NotFound, match="no such thing"):
            await world.say("missing")
        with pytest.raises(Unknown, match="logged it as"):
            await world.say("bug")
        with pytest.raises(Exception, match="returned a wrong type"):
            await world.say("wrong")

    in_world(handler, test)
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


def test_cancelling_a_call_cancels_its_task() -> None:
    async def test(world: TaskWorld) -> None:
        handler = world.service.handler = Waiting()
        call = asyncio.ensure_future(world.say())
        await until(lambda: handler.events)
        call.cancel()
        await turns()
        assert handler.events == ["began", "the client cancelled it", "cancelled"]
        assert world.server.running == 1, "it cleans up"
        handler.clean.set()
        await turns()
        assert handler.events[-1] == "clean"
        assert world.server.running == 0

    in_world(None, test)


def test_a_deadline_cancels_the_task() -> None:
    async def test(world: TaskWorld) -> None:
        handler = world.service.handler = Waiting()
        handler.clean.set()
        call = asyncio.ensure_future(world.say(timeout=5))
        await until(lambda: handler.events)
        world.network.advance(5)
        with pytest.raises(DeadlineExceeded):
            await call
        await until(lambda: "clean" in handler.events)
        assert handler.events[1:3] == ["its deadline has passed", "cancelled"]

    in_world(None, test)


def test_a_server_that_stops_waits_for_its_tasks() -> None:
    async def test(world: TaskWorld) -> None:
        handler = world.service.handler = Waiting()
        call = asyncio.ensure_future(world.say())
        await until(lambda: handler.events)
        stopping = world.server.stop(0)
        world.network.advance(0)
        with pytest.raises(Unavailable):
            await call
        handler.clean.set()
        await until(lambda: handler.events[-1] == "clean")
        await stopping

    in_world(None, test)


def test_a_task_that_does_not_heed_its_cancellation() -> None:
    ended: list[str] = []

    async def handler(request: StringValue, context: Context) -> StringValue:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("went on")
        return request

    async def test(world: TaskWorld) -> None:
        call = asyncio.ensure_future(world.say())
        await until(lambda: world.service.contexts)
        await turns()
        call.cancel()
        await until(lambda: ended)
        await turns()
        assert world.server.running == 0

    in_world(handler, test)


# -- context variables -------------------------------------------------------------------------

WORD: ContextVar[str] = ContextVar("WORD", default="none")


def test_calls_of_a_handlers_tasks_inherit_its_deadline_and_its_end() -> None:
    seen: dict[str, float | None] = {}
    ends: list[str] = []
    worlds: list[TaskWorld] = []

    async def handler(request: StringValue, context: Context) -> StringValue:
        assert current_context() is context
        seen[request.value] = context.time_remaining()
        if request.value == "outer":
            async with asyncio.TaskGroup() as group:
                group.create_task(ask("inner 1"))
                group.create_task(ask("inner 2"))
        context.cancelled.addCallback(ends.append)
        await asyncio.Event().wait()
        return request

    async def ask(value: str) -> None:
        await worlds[0].say(value, timeout=60)

    async def test(world: TaskWorld) -> None:
        worlds.append(world)
        call = asyncio.ensure_future(world.say("outer", timeout=20))
        await until(lambda: len(seen) == 3)
        assert seen == {"outer": 20.0, "inner 1": 20.0, "inner 2": 20.0}
        call.cancel()
        await until(lambda: len(ends) == 2)

    in_world(handler, test)


def test_what_a_handler_sets_is_its_own() -> None:
    async def handler(request: StringValue, context: Context) -> StringValue:
        before = WORD.get()
        WORD.set(request.value)
        await a_moment()
        return text(f"{before} {WORD.get()}")

    async def test(world: TaskWorld) -> None:
        assert (await world.say("1")).value == "none 1"
        assert (await world.say("2")).value == "none 2"

    in_world(handler, test)


# -- streams -----------------------------------------------------------------------------------


class Endless:
    """Gives items for ever."""

    def __init__(self) -> None:
        self.given = 0
        self.ends: list[str] = []

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        try:
            async with asyncio.timeout(30):  # which has to begin and end in one Task
                while True:
                    await asyncio.sleep(0)
                    self.given += 1
                    yield text(str(self.given))
        finally:
            await asyncio.sleep(0)
            self.ends.append("clean")


def test_a_stream() -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(int(request.value)):
            await a_moment()
            yield text(str(number))

    async def test(world: TaskWorld) -> None:
        assert [item.value async for item in world.count(300)] == [str(i) for i in range(300)]
        assert [item.value async for item in world.ticks(3)] == ["0", "1", "2"]

    in_world(handler, test)


@pytest.mark.parametrize("kind", ["count", "ticks"])
def test_cancelling_a_stream_cancels_its_task(kind: str) -> None:
    handler = Endless()

    async def test(world: TaskWorld) -> None:
        async with getattr(world, kind)() as stream:
            assert (await anext(stream)).value == "1"
        await until(lambda: handler.ends)
        await until(lambda: world.server.running == 0)

    in_world(handler, test)


def test_a_slow_reader_stops_the_handler() -> None:
    handler = Endless()

    async def test(world: TaskWorld) -> None:
        async with world.count() as stream:
            await anext(stream)
            await turns(100)
            given = handler.given
            assert given < 40, "a window and what was read"
            await turns(100)
            assert handler.given == given
            for _ in range(given):
                await anext(stream)
            await until(lambda: handler.given > given)

    in_world(handler, test, stream_window=16)


class Source:
    """Gives nothing, and needs asyncio to clean up."""

    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> StringValue:
        await asyncio.Event().wait()
        raise AssertionError("nobody wakes it")

    async def aclose(self) -> None:
        await a_moment()
        self.closed = True


def test_a_stream_that_is_cancelled_before_its_task_runs() -> None:
    source = Source()

    async def test(world: TaskWorld) -> None:
        publisher: Any = world.network.publisher(PUBLISHER)
        take = publisher.take_subscription

        def taken(*arguments: Any) -> None:
            take(*arguments)
            stream.cancel()
            world.network.run()

        publisher.take_subscription = taken  # there is no other moment that is early enough
        stream = world.count()
        await until(lambda: source.closed)

    in_world(returning(source), test)


def test_a_stream_that_nobody_subscribes_to() -> None:
    source = Source()

    async def test(world: TaskWorld) -> None:
        publisher: Any = world.network.publisher(PUBLISHER)

        def lost(*_: Any) -> None:
            pass

        publisher.take_subscription = lost
        stream = world.count()
        await until(lambda: world.server.running)
        await turns()
        assert not source.closed
        world.server.stop(0)
        world.network.advance(1)
        await until(lambda: source.closed)
        stream.cancel()

    in_world(returning(source), test)


def test_a_stream_whose_items_come_from_callbacks() -> None:
    async def handler(request: StringValue, context: Context) -> StreamWriter[StringValue]:
        writer: StreamWriter[StringValue] = StreamWriter(enough=1)

        async def write() -> None:
            for number in range(3):
                await writer.ready()
                writer.write(text(str(number)))
            writer.finish()

        writing.append(asyncio.create_task(write()))
        return writer

    writing: list[asyncio.Task[None]] = []

    async def test(world: TaskWorld) -> None:
        assert [item.value async for item in world.count()] == ["0", "1", "2"]
        await writing[0]

    in_world(handler, test)


def test_a_stream_that_fails(logged: Logged) -> None:
    async def handler(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("1")
        await a_moment()
        raise ZeroDivisionError("of the handler")

    async def test(world: TaskWorld) -> None:
        stream = world.count()
        await anext(stream)
        with pytest.raises(Unknown):
            await anext(stream)

    in_world(handler, test)
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


def test_requests() -> None:
    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        values: list[str] = []

        async def read() -> None:  # in a Task of its own
            values.extend([request.value async for request in requests])

        await asyncio.create_task(read())
        return text(",".join(values))

    async def requests() -> AsyncIterator[StringValue]:
        for number in range(3):
            await a_moment()
            yield text(str(number))

    async def test(world: TaskWorld) -> None:
        assert (await world.collect(requests())).value == "0,1,2"

    in_world(handler, test)


def test_a_conversation() -> None:
    async def handler(
        requests: RequestStream[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            await a_moment()
            yield request

    async def requests() -> AsyncIterator[StringValue]:
        for number in range(300):
            yield text(str(number))

    async def test(world: TaskWorld) -> None:
        assert [item.value async for item in world.chat(requests())] == [str(i) for i in range(300)]

    in_world(handler, test)


def test_a_handler_that_reads_is_cancelled() -> None:
    ends: list[str] = []

    async def handler(requests: RequestStream[StringValue], context: Context) -> StringValue:
        try:
            async for _ in requests:
                pass
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        raise AssertionError("the requests do not end")

    async def requests() -> AsyncIterator[StringValue]:
        yield text("1")
        await asyncio.Event().wait()

    async def test(world: TaskWorld) -> None:
        call = asyncio.ensure_future(world.collect(requests()))
        await until(lambda: world.service.contexts)
        await turns()
        call.cancel()
        await until(lambda: ends)

    in_world(handler, test)


# -- what stands in front of handlers ----------------------------------------------------------


def test_interceptors_run_as_tasks() -> None:
    async def intercept(request: Any, context: Context, proceed: ServerProceed) -> StringValue:
        await a_moment()
        answer: StringValue = await proceed(request)
        return text(f"{answer.value}!")

    async def handler(request: StringValue, context: Context) -> StringValue:
        await a_moment()
        return request

    async def test(world: TaskWorld) -> None:
        assert (await world.say("x")).value == "x!"

    in_world(handler, test, interceptors=[intercept])


def test_who_calls_is_found_out_in_a_task() -> None:
    async def authenticate(identity: object, method: str, metadata: Any) -> None:
        await a_moment()
        raise Unauthenticated("nobody")

    async def test(world: TaskWorld) -> None:
        with pytest.raises(Unauthenticated):
            await world.say()

    in_world(None, test, authenticate=authenticate)


def test_a_fallback_runs_as_a_task() -> None:
    async def handler(request: StringValue, context: Context) -> StringValue:
        await a_moment()
        return text(f"{request.value} by the fallback")

    async def fallback(path: str) -> MethodHandler[Any, Any] | None:
        await a_moment()
        return MethodHandler(SAY, handler) if path == SAY.path else None

    async def test(world: TaskWorld) -> None:
        other = Server(world.network, [], fallback=fallback, handlers="asyncio")
        other.listen("inproc://other")
        channel = Channel(world.network, "inproc://other")
        assert (await channel.unary_unary(SAY, text("x"))).value == "x by the fallback"
        with pytest.raises(Unimplemented):
            await channel.unary_unary(MISSING, text("x"))
        channel.close()
        await other.stop(0)

    in_world(None, test)


# -- where it cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["select", "epoll"])
def test_a_reactor_that_does_not_run_on_asyncios_loop(name: str) -> None:
    with fresh_loop(name) as loop:
        factory = ZmqFactory(loop.reactor)
        with pytest.raises(RuntimeError, match='and handlers="asyncio" needs a reactor on asyncio'):
            Server(factory, [Echo()], handlers="asyncio")
        factory.shutdown()


def test_a_word_that_is_none() -> None:
    wrong: Any = "threads"
    with pytest.raises(ValueError, match="handlers must be one of 'twisted', 'asyncio'"):
        Server(MemoryNetwork(), [], handlers=wrong)


def test_no_loop_runs(logged: Logged) -> None:
    """In memory, nobody can know before."""

    class Say(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            return request

    network = MemoryNetwork()
    server = Server(network, [Say()], handlers="asyncio")
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    errors: list[Any] = []
    channel.unary_unary(ECHO, text("x")).addErrback(errors.append)
    network.run()
    assert errors[0].check(Unknown)
    assert [str(error) for error in logged.failures()] == ["no running event loop"]
    channel.close()
    server.stop(0)
    network.advance(3)


def test_over_sockets() -> None:
    """On Twisted's reactor, where no Task runs while it calls handlers."""

    async def handler(request: StringValue, context: Context) -> StringValue:
        await a_moment()
        return text(f"x {(await say('y')).value}") if request.value == "x" else request

    def say(value: str) -> Deferred[StringValue]:
        return channels[0].unary_unary(SAY, text(value), timeout=20)

    channels: list[Channel] = []

    def on(loop: Loop) -> None:
        factory = ZmqFactory(loop.reactor)
        server = Server(factory, [Saying(handler)], handlers="asyncio")
        channels.append(Channel(factory, server.listen("tcp://127.0.0.1:*")))

        async def main() -> str:
            try:
                return (await say("x")).value
            finally:
                factory.shutdown()

        assert loop.run(main) == "x y"

    with fresh_loop("asyncio") as loop:
        on(loop)
