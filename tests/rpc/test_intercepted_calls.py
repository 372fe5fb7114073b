"""How calls with interceptors end: by deadlines, by cancelling, with their handler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.intercepted import Intercepted, Worlds, at_client, at_server
from tests.rpc.service import Waiting, World, made, text
from tests.rpc.streaming import Reader, StreamWorld
from txzmq.rpc import (
    CallRecord,
    ClientCall,
    ClientInterceptor,
    ClientProceed,
    Code,
    Context,
    DeadlineExceeded,
    UnaryResult,
    Unavailable,
    detached,
)
from txzmq.testing._leftovers import leftovers


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(Intercepted)


def test_going_on_again_gives_no_more_time(make: Worlds) -> None:
    attempts: list[float | None] = []

    async def insist(call: ClientCall, proceed: ClientProceed) -> Any:
        while True:
            attempts.append(call.time_remaining())
            try:
                return await proceed(call.replace(timeout=2))
            except DeadlineExceeded:
                if not call.time_remaining():
                    raise

    world = make(Waiting(), client=[insist])
    errors: list[Any] = []
    world.call(timeout=5).addErrback(errors.append)
    world.network.advance(5.1)
    assert attempts == pytest.approx([5, 3, 1], abs=0.01)
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_the_deadline_ends_an_interceptor_that_waits_for_something_else(make: Worlds) -> None:
    ended: list[str] = []

    async def hang(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            await Deferred[None]()
        except CancelledError:
            ended.append("cancelled")
        return text("too late to matter")

    world = make(client=[hang])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert ended == ["cancelled"]
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_a_call_in_time_says_itself_what_became_of_it(make: Worlds) -> None:
    seen: list[str] = []
    world = make(Waiting(), client=[at_client("c", seen)])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert seen[1:] == ["c DEADLINE_EXCEEDED"]
    assert "may have been executed" in str(errors[0].value)


def hanging(ended: list[str]) -> ClientInterceptor:
    """Waits for ever, and notes what is cancelled."""

    async def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            await Deferred[None]()
        except CancelledError:
            ended.append(call.request.value)
            raise

    return interceptor


def test_cancelling_and_closing_end_calls_that_interceptors_have(make: Worlds) -> None:
    ended: list[str] = []

    world = make(client=[hanging(ended)])
    errors: list[Any] = []
    first, second = world.call("1"), world.call("2")
    first.addErrback(errors.append)
    second.addErrback(errors.append)
    first.cancel()
    assert [error.type for error in errors] == [CancelledError]
    world.channel.close()
    assert [error.type for error in errors] == [CancelledError, CancelledError]
    assert ended == ["1", "2"]
    with pytest.raises(Unavailable, match="closed"):
        world.network.result(world.call("3"))


def test_cancelling_reaches_the_server_through_interceptors(make: Worlds) -> None:
    seen: list[str] = []
    service = Waiting()
    world = make(service, client=[at_client("c", seen)], server=[at_server("s", seen)])
    answer = world.call()
    answer.addErrback(lambda _: text("cancelled"))
    world.network.run()
    answer.cancel()
    world.network.run()
    assert seen[-1].startswith("s CancelledError(")
    assert world.server.running == 0


class Outer(Waiting):
    """Makes a call, and waits for something else."""

    def __init__(self, inner: World, errors: list[Any]) -> None:
        super().__init__()
        self.inner = inner
        self.errors = errors

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        self.inner.call("nested").addErrback(self.errors.append)
        return self.wait()


def test_a_call_with_interceptors_ends_with_the_handler_that_made_it(make: Worlds) -> None:
    ended: list[str] = []
    errors: list[Any] = []
    inner = make(client=[hanging(ended)])

    outer = make(Outer(inner, errors))
    answer = outer.call()
    outer.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(answer)
    outer.network.run()
    assert ended == ["nested"]
    assert [error.type for error in errors] == [CancelledError]
    assert leftovers(*outer.service.contexts) == []


def test_an_interceptor_cannot_go_on_with_a_call_that_is_over(make: Worlds) -> None:
    errors: list[BaseException] = []

    async def tries_again(call: ClientCall, proceed: ClientProceed) -> Any:
        try:
            return await proceed(call)
        except Exception:  # noqa: BLE001 - as careless ones do: the CancelledError is one, too
            try:
                return await proceed(call.replace(metadata={"again": "yes"}))
            except CancelledError as error:
                errors.append(error)
                raise

    service = Waiting()
    world = make(service, client=[tries_again])
    answer = world.call("once")
    world.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    world.network.run()
    assert service.seen == ["once"]
    assert len(errors) == 1


def goes_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    """Does nothing else."""
    return proceed(call)


@pytest.mark.parametrize("interceptors", [[goes_on], [goes_on, goes_on]])
def test_where_they_only_go_on_a_call_ends_as_one_without_them(
    make: Worlds, interceptors: list[ClientInterceptor]
) -> None:
    seen: list[ClientCall] = []

    def keep(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        seen.append(call)
        return proceed(call)

    service = Waiting()
    world = make(service, client=[*interceptors, keep])
    errors: list[Any] = []
    world.call("late", timeout=1).addErrback(errors.append)
    cancelled, answered, closed = world.call("2"), world.call("3"), world.call("4")
    for call in (cancelled, closed):
        call.addErrback(errors.append)
    assert [call.over for call in seen] == [False] * 4
    world.network.advance(1.1)
    cancelled.cancel()
    world.network.run()
    service.results[2].callback(text("there"))
    assert world.network.result(answered).value == "there"
    assert [call.over for call in seen] == [True, True, True, False]
    world.channel.close()
    assert [error.type for error in errors] == [DeadlineExceeded, CancelledError, CancelledError]
    assert [call.over for call in seen] == [True] * 4


def test_a_longer_time_of_an_interceptors_own_is_not_the_callers(make: Worlds) -> None:
    def takes_longer(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        return proceed(call.replace(timeout=100))

    world = make(Waiting(), client=[goes_on, takes_longer])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert [error.type for error in errors] == [DeadlineExceeded]


def test_what_an_interceptor_does_with_the_response_does_not_hold_up_the_deadline(
    make: Worlds,
) -> None:
    ended: list[str] = []

    def hangs(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        never: Deferred[Any] = Deferred(lambda _: ended.append("cancelled"))
        return proceed(call).addCallback(lambda _: never)

    world = make(client=[goes_on, hangs, goes_on])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    world.network.advance(1.1)
    assert [error.type for error in errors] == [DeadlineExceeded]
    assert ended == ["cancelled"]


@pytest.mark.parametrize("waits", [False, True])
def test_an_interceptor_may_close_the_channel(make: Worlds, waits: bool) -> None:
    ended: list[str] = []

    def closes(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        world.channel.close()
        assert call.over
        return Deferred(lambda _: ended.append("cancelled")) if waits else proceed(call)

    world = make(client=[closes])
    errors: list[Any] = []
    world.call(timeout=1).addErrback(errors.append)
    assert [error.type for error in errors] == [CancelledError]
    assert ended == ["cancelled"] * waits


def test_a_call_detached_by_an_interceptor_ends_with_its_handler_all_the_same(
    make: Worlds,
) -> None:
    def detach(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        with detached():
            return proceed(call)

    slow = Waiting()
    inner = make(slow, client=[detach])
    errors: list[Any] = []

    outer = make(Outer(inner, errors))
    answer = outer.call()
    outer.network.run()
    inner.network.run()
    answer.addErrback(lambda _: None)
    answer.cancel()
    outer.network.run()
    assert [error.type for error in errors] == [CancelledError]


def test_a_call_made_when_its_handler_is_just_over_ends_at_once(make: Worlds) -> None:
    ended: list[str] = []

    def ends_the_handler(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        service.contexts[0].cancel("for a test")
        return Deferred(lambda _: ended.append("cancelled"))

    inner = make(client=[ends_the_handler])
    errors: list[Any] = []

    service = Outer(inner, errors)
    outer = make(service)
    outer.call().addErrback(lambda _: None)
    outer.network.run()
    assert [error.type for error in errors] == [CancelledError]
    assert ended == ["cancelled"]


@pytest.mark.parametrize("given", [None, text("the request, as on a server"), "x"])
def test_an_interceptor_that_goes_on_with_no_call_is_told_what_to_do(
    make: Worlds, given: Any
) -> None:
    def interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
        return proceed(given)

    world = make(client=[interceptor])
    result = world.call()
    world.network.run()
    with pytest.raises(TypeError, match=r"must go on with its ClientCall, proceed\(call\), not "):
        world.network.result(result)


def test_two_calls_that_are_answered_with_one_stream_are_both_told_its_end() -> None:
    ends: list[CallRecord] = []
    opened: list[Any] = []

    async def share(call: ClientCall, proceed: ClientProceed) -> Any:
        call.ended().addCallback(ends.append)
        if not opened:
            opened.append(await proceed(call))
        return opened[0]

    for make_streams in made(StreamWorld):
        world = make_streams(client_interceptors=[share])
        streams = [world.open(2), world.open(2)]
        world.network.run()
        assert Reader(streams[0]).items == ["0", "1"]
        assert [record.code for record in ends] == [Code.OK, Code.OK]
        opened.clear()
