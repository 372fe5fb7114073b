"""The time of unary calls, and of the calls that their handlers make; in virtual time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.python.failure import Failure

from tests.rpc.service import ADDRESS, MISSING, Echo, Waiting, World, Worlds, made
from tests.support import error_of
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    RpcError,
    ServerLimits,
    Unimplemented,
    current_context,
    detached,
)
from txzmq.testing._leftovers import leftovers


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    yield from made(partial(World, batching=request.param))


def test_a_call_ends_at_its_deadline_on_both_sides(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call(timeout=1.5)
    world.network.run()
    (context,) = service.contexts
    assert context.time_remaining() == pytest.approx(1.5)
    reasons: list[str] = []
    context.cancelled.addCallback(reasons.append)
    world.network.advance(1.499)
    assert not answer.called
    assert context.time_remaining() == pytest.approx(0.001)
    world.network.advance(0.001)
    with pytest.raises(DeadlineExceeded, match="may have been executed"):
        world.network.result(answer)
    assert reasons == ["its deadline has passed"]
    assert context.time_remaining() == 0
    assert service.results[0].called, "the handler's Deferred was not cancelled"


@pytest.mark.parametrize(("timeout", "expected"), [(None, 30.0), (7.0, 7.0), (math.inf, 3600.0)])
def test_a_call_without_a_timeout_has_the_default(
    make: Worlds, timeout: float | None, expected: float
) -> None:
    world: World = make()
    world.network.result(world.call(timeout=timeout))
    assert world.service.contexts[0].time_remaining() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("default", "timeout", "expected"),
    [
        (None, None, 7.0),
        (30.0, None, 7.0),
        (30.0, math.inf, 7.0),
        (30.0, 8.0, 7.0),
        (30.0, 6.0, 6.0),
        (5.0, None, 5.0),
    ],
)
def test_a_channel_caps_the_time_of_calls(
    make: Worlds, default: float | None, timeout: float | None, expected: float
) -> None:
    world: World = make()
    channel = Channel(world.network, ADDRESS, timeout=default, max_timeout=7.0)
    world.network.result(world.call(timeout=timeout, caller=channel))
    assert world.service.contexts[0].time_remaining() == pytest.approx(expected)
    channel.close()


def test_a_server_caps_and_sets_the_time_of_calls(make: Worlds) -> None:
    limits = ServerLimits(default_timeout=5.0, max_timeout=60.0)
    world: World = make(limits=limits)
    for timeout in (math.inf, 1000.0, 3.0):
        world.network.result(world.call(timeout=timeout))
    left = [context.time_remaining() for context in world.service.contexts]
    assert left == [pytest.approx(5.0), pytest.approx(60.0), pytest.approx(3.0)]
    endless: World = make(limits=ServerLimits(default_timeout=None, max_timeout=None))
    endless.network.result(endless.call(timeout=math.inf))
    assert endless.service.contexts[0].time_remaining() is None


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_a_call_without_time_is_not_made(make: Worlds, timeout: float) -> None:
    world: World = make()
    with pytest.raises(DeadlineExceeded, match="not executed"):
        world.network.result(world.call(timeout=timeout))
    with pytest.raises(ValueError, match="timeout must be a number"):
        world.network.result(world.call(timeout=math.nan))
    assert not world.service.seen


@pytest.mark.parametrize("style", ["coroutine", "inlineCallbacks", "plain"])
def test_calls_inherit_what_is_left_of_the_handlers_time(make: Worlds, style: str) -> None:
    inner: World = make()

    class Outer(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            assert current_context() is context
            if style == "coroutine":
                return Deferred.fromCoroutine(self.coroutine())
            if style == "inlineCallbacks":
                return self.generator()
            return inner.call("nested", timeout=100)

        async def coroutine(self) -> StringValue:
            await self.pause()
            return await inner.call("nested", timeout=100)

        @inlineCallbacks
        def generator(self) -> Generator[Deferred[Any], Any, StringValue]:
            yield self.pause()
            answer: StringValue = yield inner.call("nested", timeout=100)
            return answer

        def pause(self) -> Deferred[None]:
            pause: Deferred[None] = Deferred()
            outer.network.clock.callLater(2, pause.callback, None)
            return pause

    outer: World = make(Outer())
    answer = outer.call(timeout=10)
    outer.network.advance(2)
    inner.network.run()
    assert outer.network.result(answer).value == "nested"
    (context,) = inner.service.contexts
    assert context.time_remaining() == pytest.approx(10 if style == "plain" else 8)
    assert current_context() is None


def test_a_detached_call_inherits_nothing(make: Worlds) -> None:
    inner: World = make(Waiting())

    class Outer(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            with detached():
                self.detached = inner.call("detached", timeout=100)
            self.attached = inner.call("attached", timeout=100)
            return Deferred()

    service = Outer()
    outer: World = make(service)
    answer = outer.call(timeout=10)
    outer.network.run()
    inner.network.run()
    made = zip(inner.service.seen, inner.service.contexts, strict=True)
    left = {value: context.time_remaining() for value, context in made}
    assert left == {"detached": pytest.approx(100), "attached": pytest.approx(10)}
    answer.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(answer)
    with pytest.raises(CancelledError):
        inner.network.result(service.attached)
    assert not service.detached.called
    service.detached.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(service.detached)


def test_a_handler_keeps_nothing_of_the_calls_that_it_made(make: Worlds) -> None:
    inner: World = make()
    kept: list[str] = []

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            for number in range(3):
                await inner.call(str(number))
            with pytest.raises(Unimplemented):
                await inner.call(method=MISSING)
            inner.call("cancelled").addErrback(lambda _: None).cancel()
            kept.extend(leftovers(context))
            return request

    outer: World = make(Outer())
    answer = outer.call()
    for _ in range(5):
        outer.network.run()
        inner.network.run()
    outer.network.result(answer)
    assert kept == []


@pytest.mark.parametrize("how", ["cancel", "deadline", "lost", "stop"])
def test_a_handler_whose_call_is_over_makes_no_more_calls(make: Worlds, how: str) -> None:
    inner: World = make()
    ended: list[object] = []

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            try:
                return await Deferred[StringValue]()
            finally:
                try:
                    await inner.call("for nobody")
                except (CancelledError, DeadlineExceeded) as error:
                    ended.append(error)
                with detached():
                    await inner.call("clean up")

    outer: World = make(Outer())
    answer = outer.call(timeout=5)
    outer.network.run()
    stopped: Deferred[None] | None = None
    if how == "cancel":
        answer.cancel()
    elif how == "lost":
        outer.network.cut(ADDRESS)
    elif how == "stop":
        stopped = outer.server.stop(0)
    outer.network.advance(5)
    inner.network.run()
    assert len(ended) == 1
    assert inner.service.seen == ["clean up"]
    outer.network.run()
    assert stopped is None or stopped.called
    with suppress(CancelledError, RpcError):
        outer.network.result(answer)
    assert outer.server.running == 0


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_a_caller_does_when_its_time_is_up(make: Worlds, how: str) -> None:
    world: World = make(Waiting())
    first, *others = (world.call(str(number), timeout=1) for number in range(3))
    outcomes: list[Failure] = []

    def ended(failure: Failure) -> None:
        outcomes.append(failure)
        if how == "cancel":
            others[0].cancel()  # its time is up in the same turn
        else:
            world.channel.close()

    first.addErrback(ended)
    for call in others:
        call.addErrback(outcomes.append)
    world.network.advance(1)
    assert [type(error_of(failure)) for failure in outcomes] == {
        "cancel": [DeadlineExceeded, CancelledError, DeadlineExceeded],
        "close": [DeadlineExceeded, CancelledError, CancelledError],
    }[how]
