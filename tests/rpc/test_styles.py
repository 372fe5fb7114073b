"""One call in every style of Twisted and asyncio, over real sockets on each reactor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.python.failure import Failure

from tests.rpc.service import ECHO, OTHER, Waiting, text
from tests.support import Loop, fresh_loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, DeadlineExceeded, RpcError, Server

T = TypeVar("T")


class World:
    def __init__(self, reactor: Any, service: Waiting | None = None) -> None:
        self.factory = ZmqFactory(reactor)
        self.service = service or Waiting()
        self.server = Server(self.factory, [self.service])
        self.channel = Channel(self.factory, self.server.listen("tcp://127.0.0.1:*"))

    def echo(self, value: str, timeout: float | None = None) -> Deferred[StringValue]:
        """Waits for its answer."""
        return self.channel.unary_unary(ECHO, text(value), timeout=timeout)

    def other(self, value: str) -> Deferred[StringValue]:
        """Is answered at once."""
        return self.channel.unary_unary(OTHER, text(value))


@pytest.fixture
def world(loop: Loop) -> Iterator[World]:
    world = World(loop.reactor)
    yield world
    world.factory.shutdown()


def test_callbacks(loop: Loop, world: World) -> None:
    async def main() -> None:
        seen: list[str] = []
        done: Deferred[None] = Deferred()

        def answered(answer: StringValue) -> Deferred[StringValue]:
            seen.append(answer.value)
            return world.echo("2", 0.05)

        def failed(failure: Failure) -> None:
            failure.trap(DeadlineExceeded)  # type: ignore[no-untyped-call]  # Twisted's
            seen.append("late")
            done.callback(None)

        world.other("1").addCallback(answered).addErrback(failed)
        await done
        assert seen == ["other 1", "late"]
        world.factory.shutdown()

    loop.run(main)


async def called_and_cancelled(
    loop: Loop, world: World, call: Callable[[], Deferred[list[str]]]
) -> None:
    """Let a call end; cancel another one while it waits for its third answer."""
    assert await call() == ["other 1", "other 2", "late"]
    cancelled = call()
    await loop.until(lambda: len(world.service.seen) == 6)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        await cancelled
    await loop.until(lambda: not world.server.running)
    world.factory.shutdown()


def test_inline_callbacks(loop: Loop, world: World) -> None:
    @inlineCallbacks
    def call() -> Generator[Deferred[Any], Any, list[str]]:
        answers: list[str] = []
        for value in "12":
            answer: StringValue = yield world.other(value)
            answers.append(answer.value)
        try:
            yield world.echo("3", 0.05)
        except DeadlineExceeded:
            answers.append("late")
        return answers

    loop.run(lambda: called_and_cancelled(loop, world, call))


def test_coroutines(loop: Loop, world: World) -> None:
    async def call() -> list[str]:
        answers = [(await world.other(value)).value for value in "12"]
        try:
            await world.echo("3", 0.05)
        except DeadlineExceeded:
            answers.append("late")
        return answers

    loop.run(lambda: called_and_cancelled(loop, world, lambda: Deferred.fromCoroutine(call())))


# -- asyncio -----------------------------------------------------------------------------------


@pytest.fixture
def asyncio_loop() -> Iterator[Loop]:
    with fresh_loop("asyncio") as loop:
        yield loop


def as_deferred(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run asyncio code in the asyncio reactor."""
    return Deferred[T].fromFuture(asyncio.create_task(coroutine))


def test_asyncio_code_awaits_a_call(asyncio_loop: Loop) -> None:
    world = World(asyncio_loop.reactor)

    async def in_asyncio() -> None:
        loop = asyncio.get_running_loop()
        calls = [world.other(str(i)).asFuture(loop) for i in range(100)]
        assert [answer.value for answer in await asyncio.gather(*calls)] == [
            f"other {i}" for i in range(100)
        ]
        with pytest.raises(DeadlineExceeded):
            await world.echo("x", 0.05).asFuture(loop)

    async def main() -> None:
        await asyncio_loop.sleep(0)  # the reactor calls this before asyncio's loop runs
        await as_deferred(in_asyncio())
        world.factory.shutdown()

    asyncio_loop.run(main)


@pytest.mark.parametrize("how", ["task", "timeout", "group"])
def test_cancelling_in_asyncio_cancels_the_handler(asyncio_loop: Loop, how: str) -> None:
    world = World(asyncio_loop.reactor)

    async def call() -> None:
        await world.echo("x", 3600).asFuture(asyncio.get_running_loop())

    async def fail() -> None:
        while not world.service.seen:
            await asyncio.sleep(0.001)
        raise ZeroDivisionError

    async def in_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call())
            group.create_task(fail())

    async def in_asyncio() -> None:
        if how == "task":
            task = asyncio.create_task(call())
            while not world.service.seen:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await call()
        else:
            with pytest.raises(ExceptionGroup):
                await in_group()

    async def main() -> None:
        reasons: list[str] = []
        await asyncio_loop.sleep(0)  # as above
        done = as_deferred(in_asyncio())
        await asyncio_loop.until(lambda: world.service.contexts)
        world.service.contexts[0].cancelled.addCallback(reasons.append)
        await done
        await asyncio_loop.until(lambda: reasons)
        assert reasons == ["the client cancelled it"]
        await asyncio_loop.until(lambda: not world.server.running)
        world.factory.shutdown()

    asyncio_loop.run(main)


def test_a_handler_in_asyncio(asyncio_loop: Loop) -> None:
    """A task of asyncio inherits the context, so its calls inherit the handler's deadline."""
    left: list[float | None] = []

    class InAsyncio(Waiting):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            return as_deferred(self.work(request))

        async def work(self, request: StringValue) -> StringValue:
            await asyncio.sleep(0)
            return await in_world.other(request.value).asFuture(asyncio.get_running_loop())

        def other(self, request: StringValue, context: Context) -> StringValue:
            left.append(context.time_remaining())
            return text("done")

    in_world = World(asyncio_loop.reactor, InAsyncio())

    async def main() -> None:
        assert (await in_world.echo("x", timeout=20)).value == "done"
        assert left[0] is not None
        assert 10 < left[0] <= 20
        in_world.factory.shutdown()

    asyncio_loop.run(main)


def test_a_reactor_within_asyncio_run() -> None:
    """asyncio.run() is the program's main loop, and the reactor a guest in it."""

    async def main() -> None:
        reactor: Any = AsyncioSelectorReactor(asyncio.get_running_loop())
        builtin = reactor.getReaders()
        reactor.startRunning(installSignalHandlers=False)
        world = World(reactor)
        loop = asyncio.get_running_loop()
        assert (await world.other("x").asFuture(loop)).value == "other x"
        with pytest.raises(RpcError):
            await world.echo("x", 0.05).asFuture(loop)
        world.factory.shutdown()
        reactor.removeAll()
        for reader in builtin:
            reader.connectionLost(None)

    asyncio.run(main())
