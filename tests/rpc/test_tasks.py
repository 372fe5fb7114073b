"""A Task of asyncio's awaits calls and streams as a coroutine of Twisted's does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import text
from tests.rpc.streaming import Endless, count, join
from tests.rpc.streaming import echo as echo_stream
from tests.rpc.tasks import TaskWorld, run_in_asyncio, turns, until
from txzmq.rpc import Context, DeadlineExceeded, NotFound, RequestStream

Test = Callable[[TaskWorld], Awaitable[None]]


def _raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


class Handler:
    """Answers at once, or fails, or never answers; notes how calls are cancelled."""

    def __init__(self) -> None:
        self.waiting: dict[str, Deferred[StringValue]] = {}
        self.ends: list[str] = []

    def __call__(self, request: StringValue, context: Context) -> Any:
        if request.value == "missing":
            raise NotFound("no such thing")
        if request.value.startswith("wait"):
            context.cancelled.addCallback(self.ends.append)
            waiting: Deferred[StringValue] = Deferred()
            waiting.addCallback(_raised)
            self.waiting[request.value] = waiting
            return waiting
        return text(f"said {request.value}")


def in_world(test: Test, handler: Any = None, **options: Any) -> None:
    async def main() -> None:
        world = TaskWorld(handler or Handler(), handlers="twisted", **options)
        await test(world)
        await world.close()

    run_in_asyncio(main)


def test_a_call() -> None:
    async def test(world: TaskWorld) -> None:
        assert (await world.say("x")).value == "said x"
        with pytest.raises(NotFound, match="no such thing"):
            await world.say("missing")

    in_world(test)


def test_a_result_that_is_there_already() -> None:
    async def test(world: TaskWorld) -> None:
        call, failing = world.say("x"), world.say("missing")
        await turns()
        assert call.called
        assert (await call).value == (await call).value == "said x"
        with pytest.raises(NotFound):
            await failing

    in_world(test)


def test_many_at_once() -> None:
    async def test(world: TaskWorld) -> None:
        answers = await asyncio.gather(*(world.say(str(i)) for i in range(100)))
        assert [answer.value for answer in answers] == [f"said {i}" for i in range(100)]
        mixed = await asyncio.gather(world.say("x"), world.say("missing"), return_exceptions=True)
        assert [type(each) for each in mixed] == [StringValue, NotFound]

    in_world(test)


def test_two_tasks_await_one_call() -> None:
    async def test(world: TaskWorld) -> None:
        async def wait(call: Deferred[StringValue]) -> str:
            return (await call).value

        call, failing = world.say("x"), world.say("missing")
        first, second = await asyncio.gather(wait(call), wait(call))
        assert first == second == "said x"
        ends = await asyncio.gather(wait(failing), wait(failing), return_exceptions=True)
        assert [type(end) for end in ends] == [NotFound, NotFound]

    in_world(test)


def test_callbacks_come_first() -> None:
    """What is awaited is what the callbacks return, Deferreds of their own included."""

    async def test(world: TaskWorld) -> None:
        def again(answer: StringValue) -> Deferred[StringValue]:
            return world.say(answer.value)

        assert (await world.say("x").addCallback(again)).value == "said said x"
        with pytest.raises(NotFound):
            await world.say("x").addCallback(lambda _: world.say("missing"))

    in_world(test)


# -- cancelling --------------------------------------------------------------------------------


async def by_timeout(world: TaskWorld, wait: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await wait()


async def by_wait_for(world: TaskWorld, wait: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wait(), 0.001)


async def by_cancelling(world: TaskWorld, wait: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(wait())
    await until(lambda: world.service.contexts)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task


async def by_a_group(world: TaskWorld, wait: Callable[[], Awaitable[object]]) -> None:
    async def waits() -> None:
        await wait()

    async def fails() -> None:
        await until(lambda: world.service.contexts)
        raise ZeroDivisionError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


async def by_gathering(world: TaskWorld, wait: Callable[[], Awaitable[object]]) -> None:
    both = asyncio.gather(wait(), world.say("wait for the other"))
    await until(lambda: len(world.service.contexts) == 2)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


HOW = [by_timeout, by_wait_for, by_cancelling, by_a_group, by_gathering]


@pytest.mark.parametrize("how", HOW)
def test_cancelling_a_task_cancels_the_handler(how: Any) -> None:
    handler = Handler()

    async def test(world: TaskWorld) -> None:
        await how(world, lambda: world.say("wait"))
        await turns()
        assert set(handler.ends) == {"the client cancelled it"}
        assert world.server.running == 0

    in_world(test, handler)


@pytest.mark.parametrize("how", HOW[:-1])
def test_cancelling_a_reader_cancels_the_stream(how: Any) -> None:
    handler = Endless()

    async def test(world: TaskWorld) -> None:
        async def read() -> None:
            async for _ in world.count():
                pass

        await how(world, read)
        await turns()
        assert handler.ends == ["the client cancelled it"]
        assert handler.running == 0

    in_world(test, handler)


def test_a_call_that_is_cancelled_by_hand() -> None:
    """Who cancels the call, and not the Task, cancels the Task's wait, as of a Future."""
    handler = Handler()

    async def test(world: TaskWorld) -> None:
        call = world.say("wait")

        task = asyncio.ensure_future(call)
        await until(lambda: handler.waiting)
        call.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await call

    in_world(test, handler)


@pytest.mark.parametrize("answer", [text("late"), NotFound("late")])
def test_a_task_that_is_cancelled_when_the_answer_is_there(answer: Any) -> None:
    """As with a Future: the Task has not gone on, and is cancelled."""
    handler = Handler()

    async def test(world: TaskWorld) -> None:
        call = world.say("wait")
        task = asyncio.ensure_future(call)
        await until(lambda: handler.waiting)

        def cancel(result: object) -> object:
            task.cancel()
            return result

        call.addBoth(cancel)
        handler.waiting["wait"].callback(answer)
        with pytest.raises(asyncio.CancelledError):
            await task

    in_world(test, handler)


def test_a_shielded_call_goes_on() -> None:
    handler = Handler()

    async def test(world: TaskWorld) -> None:
        call = asyncio.ensure_future(world.say("wait"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.shield(call)
        assert handler.ends == []
        handler.waiting["wait"].callback(text("done"))
        assert (await call).value == "done"

    in_world(test, handler)


def test_a_deadline() -> None:
    async def test(world: TaskWorld) -> None:
        call = asyncio.ensure_future(world.say("wait", timeout=5))
        await turns()
        world.network.advance(5)
        with pytest.raises(DeadlineExceeded):
            await call

    in_world(test)


def test_to_create_a_task_takes_a_coroutine() -> None:
    """As with a Future, which a call is like: it has been made already."""

    async def test(world: TaskWorld) -> None:
        call: Any = world.say("x")
        with pytest.raises(TypeError, match="a coroutine was expected"):
            await asyncio.create_task(call)
        assert (await asyncio.ensure_future(call)).value == "said x"

    in_world(test)


# -- coroutines of Twisted's in a Task ---------------------------------------------------------


def test_a_coroutine_of_twisteds_that_a_task_starts() -> None:
    async def test(world: TaskWorld) -> None:
        async def twisteds() -> str:
            first = await world.say("1")
            with pytest.raises(NotFound):
                await world.say("missing")
            items = [item.value async for item in world.count(2)]
            return f"{first.value}, {items}"

        done = Deferred.fromCoroutine(twisteds())
        assert await done.asFuture(asyncio.get_running_loop()) == "said 1, ['0', '1']"

    def handler(request: StringValue, context: Context) -> Any:
        answers = Handler()
        return count(request, context) if request.value == "2" else answers(request, context)

    in_world(test, handler)


def test_such_a_coroutine_is_cancelled() -> None:
    handler = Handler()

    async def test(world: TaskWorld) -> None:
        ends: list[str] = []

        async def twisteds() -> None:
            try:
                await world.say("wait")
            except CancelledError:
                ends.append("cancelled")
                raise

        done = Deferred.fromCoroutine(twisteds())
        await until(lambda: handler.waiting)
        done.cancel()
        with pytest.raises(CancelledError):
            await done.asFuture(asyncio.get_running_loop())
        await turns()
        assert ends == ["cancelled"]
        assert handler.ends == ["the client cancelled it"]

    in_world(test, handler)


def test_such_a_coroutine_that_a_callback_drives_in_a_task() -> None:
    """It waits for the first time outside of any Task, and goes on within one."""
    results: list[str] = []

    async def test(world: TaskWorld) -> None:
        gate: Deferred[None] = Deferred()

        async def twisteds() -> None:
            await gate
            results.append((await world.say("1")).value)
            results.append((await world.say("2")).value)

        def outside() -> None:
            Deferred.fromCoroutine(twisteds())

        asyncio.get_running_loop().call_soon(outside)
        await turns(2)
        gate.callback(None)
        await until(lambda: len(results) == 2)
        assert results == ["said 1", "said 2"]

    in_world(test)


def test_interceptors_are_twisteds_coroutines() -> None:
    seen: list[str] = []

    async def intercept(call: Any, proceed: Any) -> StringValue:
        answer: StringValue = await proceed(call)
        seen.append(answer.value)
        return text(f"{answer.value}!")

    async def test(world: TaskWorld) -> None:
        assert (await world.say("x")).value == "said x!"
        with pytest.raises(NotFound):
            await world.say("missing")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await world.say("wait")
        assert seen == ["said x"]

    in_world(test, client_interceptors=[intercept])


# -- streams -----------------------------------------------------------------------------------


def test_a_stream() -> None:
    async def test(world: TaskWorld) -> None:
        assert [item.value async for item in world.count(500)] == [str(i) for i in range(500)]
        stream = world.count(2)
        await stream.opened()
        assert await stream.received_initial_metadata() == ()
        assert [item.value async for item in stream] == ["0", "1"]
        await stream.ended()

    in_world(test, count)


def test_a_stream_that_fails() -> None:
    async def fails(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        yield text("1")
        raise NotFound("no more")

    async def test(world: TaskWorld) -> None:
        stream = world.count()
        assert (await anext(stream)).value == "1"
        with pytest.raises(NotFound, match="no more"):
            await anext(stream)

    in_world(test, fails)


def test_leaving_a_stream_early() -> None:
    async def test(world: TaskWorld) -> None:
        async with world.count(1_000_000) as stream:
            async for item in stream:
                if item.value == "10":
                    break
        await turns()
        assert world.server.running == 0
        async for _ in world.count(1_000_000):  # as everywhere, who forgets it cancels it
            break
        gc.collect()  # PyPy does not count references
        await until(lambda: world.server.running == 0)

    in_world(test, count)


def test_a_stream_that_is_cancelled_by_hand() -> None:
    async def test(world: TaskWorld) -> None:
        stream = world.count()

        async def read() -> None:
            with pytest.raises(asyncio.CancelledError, match="the stream was cancelled"):
                await anext(stream)

        reading = asyncio.create_task(read())
        await until(lambda: world.server.running)
        stream.cancel()
        await reading

    in_world(test, Endless())


def test_callbacks_for_each_item() -> None:
    async def test(world: TaskWorld) -> None:
        items: list[str] = []
        await world.count(3).each(lambda item: items.append(item.value))
        assert items == ["0", "1", "2"]

    in_world(test, count)


# -- requests ----------------------------------------------------------------------------------

WORD: ContextVar[str] = ContextVar("WORD", default="none")


def test_requests_that_await_what_is_asyncios() -> None:
    async def requests() -> AsyncIterator[StringValue]:
        for number in range(3):
            async with asyncio.timeout(30):
                await asyncio.sleep(0)
            yield text(f"{WORD.get()} {number}")

    async def test(world: TaskWorld) -> None:
        WORD.set("mine")
        assert (await world.collect(requests())).value == "mine 0,mine 1,mine 2"

    in_world(test, join)


def test_requests_that_await_what_is_twisteds() -> None:
    async def test(world: TaskWorld) -> None:
        async def requests() -> AsyncIterator[StringValue]:
            for number in range(2):
                plain: Deferred[str] = Deferred()
                asyncio.get_running_loop().call_soon(plain.callback, str(number))
                yield text(await plain)
            failing: Deferred[str] = Deferred()
            asyncio.get_running_loop().call_soon(failing.errback, ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                await failing
            yield text("end")

        assert (await world.collect(requests())).value == "0,1,end"

    in_world(test, join)


def test_many_requests_wait_for_room() -> None:
    async def requests() -> AsyncIterator[StringValue]:
        for number in range(2_000):
            yield text(str(number))

    async def test(world: TaskWorld) -> None:
        answer = await world.collect(requests())
        assert answer.value == ",".join(map(str, range(2_000)))

    in_world(test, join)


def test_requests_are_closed_when_the_call_ends() -> None:
    closed: list[str] = []

    async def requests() -> AsyncIterator[StringValue]:
        try:
            yield text("1")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def first(requests: RequestStream[StringValue], context: Context) -> StringValue:
        return await anext(requests)

    async def test(world: TaskWorld) -> None:
        assert (await world.collect(requests())).value == "1"
        await until(lambda: closed)

    in_world(test, first)


def test_requests_that_fail() -> None:
    async def requests() -> AsyncIterator[StringValue]:
        yield text("1")
        await asyncio.sleep(0)
        raise ZeroDivisionError("of the caller")

    async def test(world: TaskWorld) -> None:
        with pytest.raises(ZeroDivisionError, match="of the caller"):
            await world.collect(requests())

    in_world(test, join)


def test_a_conversation() -> None:
    async def test(world: TaskWorld) -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def requests() -> AsyncIterator[StringValue]:
            while (word := await queue.get()) != "end":
                yield text(word)

        answers: list[str] = []
        queue.put_nowait("0")
        async for answer in world.chat(requests()):
            answers.append(answer.value)
            queue.put_nowait("end" if len(answers) == 5 else str(len(answers)))
        assert answers == ["0", "1", "2", "3", "4"]

    in_world(test, echo_stream)


def test_errors_show_where_they_were_awaited() -> None:
    async def test(world: TaskWorld) -> None:
        with pytest.raises(NotFound) as caught:
            await world.say("missing")
        assert caught.value.method == "/test.Say/Say"
        assert caught.traceback[0].path == Path(__file__)

    in_world(test)
