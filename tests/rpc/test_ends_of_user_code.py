"""Every place where a user's code runs, and every way in which it may end: one table.

Whatever the code raises, its call or stream ends once and at once, not at the deadline, with the
right status; other calls of the same turn go on, and nothing is left.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from tests.rpc.ending_sources import (
    WORLDS,
    AsyncItems,
    SyncItems,
    a_writer,
    async_generator,
    both,
    sync_generator,
)
from tests.rpc.ends import SOON, TIMEOUT, Outcome, go_on, local, read, remote
from tests.rpc.service import Echo, World, made, text
from tests.rpc.streaming import (
    TICKS,
    Endless,
    StreamWorld,
    Worlds,
    count,
    numbers,
    texts,
)
from tests.support import Logged
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Context,
    DeadlineExceeded,
    Observer,
    ServerProceed,
)


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


# -- handlers ----------------------------------------------------------------------------------


def plain(end: Callable[[], BaseException]) -> Any:
    raise end()


def deferred(end: Callable[[], BaseException]) -> Any:
    return fail(end())


async def coroutine(end: Callable[[], BaseException]) -> Any:
    raise end()


def deferreds(end: Callable[[], BaseException]) -> Any:
    return iter([succeed(text("0")), fail(end())])


def a_deferred_source(end: Callable[[], BaseException]) -> Any:
    return succeed(SyncItems(end))


async def waits(end: Callable[[], BaseException]) -> AsyncIterator[StringValue]:
    yield text("0")
    await WORLDS[-1].sleep(SOON / 4)
    raise end()


ONE: Final = [plain, deferred, coroutine]
MANY: Final = [
    SyncItems,
    AsyncItems,
    sync_generator,
    async_generator,
    deferreds,
    a_deferred_source,
    a_writer,
    waits,
]


def serving(place: Callable[[Any], Any], kind: Callable[[], BaseException]) -> Any:
    """The first call goes to the place, others are served well."""
    called: list[int] = []

    def handler(request: Any, context: Context) -> Any:
        called.append(1)
        return place(kind) if len(called) == 1 else both(request, context)

    return handler


@pytest.mark.parametrize(
    ("method", "place"),
    [
        *(("collect", place) for place in ONE),
        *(("open", place) for place in [*ONE, *MANY]),
        *(("ticks", place) for place in [*ONE, *MANY]),
    ],
)
def test_a_handler(
    make: Worlds,
    kind: Callable[[], BaseException],
    place: Callable[[Any], Any],
    method: str,
    logged: Logged,
) -> None:
    world = make(serving(place, kind))
    WORLDS[:] = [world]
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    elif method == "ticks":
        outcome = read(world.channel.unary_stream(TICKS, text("1"), timeout=TIMEOUT))
        # The run begins when it has a subscriber.
        go_on(world, SOON / 4)
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    others = [read(world.open(2, timeout=TIMEOUT)) for _ in range(2)]
    go_on(world)
    if (place in (SyncItems, a_deferred_source) and kind is StopIteration) or (
        place is AsyncItems and kind is StopAsyncIteration
    ):
        assert outcome.end == ["0"]  # that is how it ends
    else:
        assert type(outcome.end) is remote(kind)
    assert [other.end for other in others] == [numbers(2)] * 2
    assert not world.server.running


def for_ever(_: object) -> Deferred[Any]:
    return Deferred()


@pytest.mark.parametrize("method", ["collect", "open"])
def test_a_handler_that_hangs(make: Worlds, method: str) -> None:
    world = make(serving(for_ever, ZeroDivisionError))
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    go_on(world, TIMEOUT + SOON)
    assert isinstance(outcome.end, DeadlineExceeded)
    assert not world.server.running


def test_a_handler_in_the_middle_of_a_batch(
    kind: Callable[[], BaseException], logged: Logged
) -> None:
    """The calls of one message behind it are served all the same."""

    class Ending(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            if request.value == "3":
                raise kind()
            return request

    world = World(Ending())
    assert world.network.result(world.call("the server knows now that the client takes batches"))
    outcomes = [Outcome(world.call(number, timeout=TIMEOUT)) for number in numbers(8)]
    for _ in range(4):
        with suppress(KeyboardInterrupt):
            world.network.advance(SOON / 4)
    assert type(outcomes.pop(3).end) is remote(kind)
    assert all(isinstance(outcome.end, StringValue) for outcome in outcomes)
    world.close()


@pytest.mark.parametrize("method", ["collect", "open", "items"])
def test_a_canceller_of_a_handlers_deferred(
    make: Worlds, kind: Callable[[], BaseException], method: str, logged: Logged
) -> None:
    def canceller(_: Deferred[None]) -> None:
        raise kind()

    hanging: list[Deferred[Any]] = []

    def place(_: object) -> Any:
        hanging.append(Deferred(canceller))
        return list(hanging) if method == "items" else hanging[0]

    world = make(serving(place, kind))
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    go_on(world)
    others = [read(world.open(2, timeout=2 * TIMEOUT)) for _ in range(2)]
    go_on(world, TIMEOUT)
    assert isinstance(outcome.end, DeadlineExceeded)
    assert [other.end for other in others] == [numbers(2)] * 2
    hanging[0].callback([])  # it is a handler that does not stop until then
    go_on(world)
    assert not world.server.running


def test_a_callback_of_a_contexts_end(
    make: Worlds, kind: Callable[[], BaseException], logged: Logged
) -> None:
    endless = Endless()

    def handler(request: StringValue, context: Context) -> Any:
        def told(_: str) -> None:
            raise kind()

        context.cancelled.addCallback(told)
        return endless(request, context) if request.value == "1" else count(request, context)

    world = make(handler)
    streams = [world.open(1, timeout=TIMEOUT) for _ in range(2)]
    outcomes = [read(stream) for stream in streams]
    go_on(world)
    streams[0].cancel()
    other = read(world.open(2, timeout=TIMEOUT))
    go_on(world)
    assert type(outcomes[0].end) is CancelledError
    assert endless.running == 1
    assert other.end == numbers(2)
    streams[1].cancel()
    go_on(world)
    assert not world.server.running
    world.service.contexts.clear()
    gc.collect()  # Twisted logs what the callbacks raised
    assert {type(error) for error in logged.failures()} == {type(kind())}


# -- what is done with responses ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["raises", "fails"])
def test_a_callback_for_each_item(
    make: Worlds, kind: Callable[[], BaseException], how: str
) -> None:
    def take(item: StringValue) -> Any:
        if how == "fails":
            return fail(kind())
        raise kind()

    world = make(count)
    outcome = Outcome(world.open(3, timeout=TIMEOUT).each(take))
    other = read(world.open(2, timeout=TIMEOUT))
    go_on(world)
    expected = RuntimeError if kind is StopIteration else type(kind())
    assert type(outcome.end) is expected
    assert other.end == numbers(2)
    assert not world.server.running


def test_a_callback_for_each_item_that_hangs(make: Worlds) -> None:
    """The stream ends at its deadline; what the callback does then is its own affair."""
    busy: list[Deferred[None]] = []

    def take(item: StringValue) -> Deferred[None]:
        busy.append(Deferred())
        return busy[-1]

    world = make(count)
    stream = world.open(3, timeout=TIMEOUT)
    outcome = Outcome(stream.each(take))
    go_on(world, TIMEOUT + SOON)
    assert not outcome.ends
    busy[0].callback(None)
    assert isinstance(outcome.end, DeadlineExceeded)
    assert len(busy) == 1
    assert not world.server.running


def test_a_callback_of_a_reply(make: Worlds, kind: Callable[[], BaseException]) -> None:
    def take(_: StringValue) -> None:
        raise kind()

    world = make(both)
    outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT).addCallback(take))
    other = Outcome(world.collect(texts(2), timeout=TIMEOUT))
    go_on(world)
    assert type(outcome.end) is type(kind())
    assert other.end == text("0,1")


def test_who_is_told_of_gaps(
    make: Worlds, kind: Callable[[], BaseException], logged: Logged
) -> None:
    world = make(Endless())
    told: list[int] = []

    def tell(lost: int) -> None:
        told.append(lost)
        raise kind()

    stream: Any = world.open(1, timeout=TIMEOUT).skip_gaps(tell)
    go_on(world)
    core = stream._core
    core._joined = True
    core.gap(4)
    assert told == [3]
    assert core.outcome is None
    stream.cancel()


# -- interceptors ------------------------------------------------------------------------------


def interceptor(when: str, style: str, kind: Callable[[], BaseException]) -> Any:
    """Ends the first call of the side, before or after it goes on."""
    calls: list[int] = []

    def is_first() -> bool:
        calls.append(1)
        return len(calls) == 1

    async def asynchronous(call: Any, go: Callable[[Any], Deferred[Any]]) -> Any:
        first = is_first()
        if first and when == "before":
            raise kind()
        response = await go(call)
        if first:
            raise kind()
        return response

    def by_callbacks(call: Any, go: Callable[[Any], Deferred[Any]]) -> Any:
        def end(response: Any) -> Any:
            raise kind()

        first = is_first()
        if first and when == "before":
            raise kind()
        response: Deferred[Any] = go(call)
        if first:
            response.addCallback(end)
        return response

    return asynchronous if style == "async" else by_callbacks


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("style", ["async", "callbacks"])
@pytest.mark.parametrize("method", ["collect", "open"])
def test_an_interceptor_of_the_client(
    make: Worlds,
    kind: Callable[[], BaseException],
    when: str,
    style: str,
    method: str,
    logged: Logged,
) -> None:
    ending = interceptor(when, style, kind)

    def client(call: ClientCall, proceed: ClientProceed) -> Any:
        return ending(call, proceed)

    world = make(both, client_interceptors=[client])
    if kind is KeyboardInterrupt and when == "before" and style == "callbacks":
        with pytest.raises(KeyboardInterrupt):
            world.open(1)  # it is raised in the caller's own stack
        go_on(world)
        return
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    other = read(world.open(2, timeout=TIMEOUT))
    go_on(world)
    assert type(outcome.end) is local(kind)
    assert other.end == numbers(2)
    go_on(world)


@pytest.mark.parametrize("method", ["collect", "open"])
def test_an_interceptor_that_hangs(make: Worlds, method: str) -> None:
    def client(call: ClientCall, proceed: ClientProceed) -> Any:
        return for_ever(call)

    world = make(both, client_interceptors=[client])
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    go_on(world, TIMEOUT + SOON)
    assert isinstance(outcome.end, DeadlineExceeded)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("style", ["async", "callbacks"])
@pytest.mark.parametrize("method", ["collect", "open"])
def test_an_interceptor_of_the_server(
    make: Worlds,
    kind: Callable[[], BaseException],
    when: str,
    style: str,
    method: str,
    logged: Logged,
) -> None:
    ending = interceptor(when, style, kind)

    def server(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return ending(request, proceed)

    world = make(both, interceptors=[server])
    if method == "collect":
        outcome = Outcome(world.collect(texts(1), timeout=TIMEOUT))
    else:
        outcome = read(world.open(1, timeout=TIMEOUT))
    others = [read(world.open(2, timeout=TIMEOUT)) for _ in range(2)]
    go_on(world)
    assert type(outcome.end) is remote(kind)
    assert [other.end for other in others] == [numbers(2)] * 2
    assert not world.server.running


# -- observers ---------------------------------------------------------------------------------


def test_an_observer(make: Worlds, kind: Callable[[], BaseException], logged: Logged) -> None:
    class Raising(Observer):
        def started(self, source: object) -> None:
            raise kind()

        stopped = started

        def channel_changed(self, source: object, previous: object, state: object) -> None:
            raise kind()

        def endpoint_changed(self, source: object, change: object) -> None:
            raise kind()

    world = make(both, observer=Raising())
    outcome = read(world.open(2, timeout=TIMEOUT))
    go_on(world)
    assert outcome.end == numbers(2)
    assert {type(error) for error in logged.failures()} == {type(kind())}
