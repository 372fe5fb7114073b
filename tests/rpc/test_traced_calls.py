"""What a tracer needs of an observer: metadata on the way, and the context that handlers run in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ECHO, Echo, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.rpc.streaming import COUNT, TICKS, Reader, StreamWorld
from tests.support import error_of
from txzmq.rpc import (
    CallRecord,
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    Observer,
    ServerLimits,
    ServerProceed,
    Side,
    StartedCall,
    Watched,
)

SPAN: ContextVar[str] = ContextVar("span", default="")


class Tracer(Observer):
    """Numbers spans, passes them on, and notes which span is the child of which."""

    def __init__(self) -> None:
        self.spans: dict[StartedCall, str] = {}
        #: Of each span, its parent.
        self.parents: dict[str, str] = {}
        self.ended: list[str] = []

    def call_started(self, source: Watched, call: StartedCall) -> None:
        span = f"{call.side}-{len(self.parents)}"
        self.spans[call] = span
        if call.side is Side.CLIENT:
            self.parents[span] = SPAN.get()
            call.add_metadata({"span": span})
        else:
            self.parents[span] = str(dict(call.metadata).get("span", ""))
            SPAN.set(span)

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        self.ended.append(self.spans.pop(record))


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    tracer = Tracer()
    yield tracer
    assert tracer.spans == {}
    assert sorted(tracer.ended) == sorted(tracer.parents)


@pytest.fixture
def echoing() -> Iterator[Any]:
    yield from made(EchoWorld)


@pytest.fixture
def streaming() -> Iterator[Any]:
    yield from made(StreamWorld)


def test_what_an_observer_adds_travels_behind_the_callers_own(tracer: Tracer, echoing: Any) -> None:
    world = echoing(observer=tracer)
    world.network.result(world.call("x", metadata={"k": "v"}))
    (context,) = world.service.contexts
    assert context.metadata == (("k", "v"), ("span", "client-0"))
    assert tracer.parents == {"client-0": "", "server-1": "client-0"}


def test_what_an_observer_adds_may_take_the_place_of_the_callers_own(echoing: Any) -> None:
    class Replacing(Observer):
        def call_started(self, source: Watched, call: StartedCall) -> None:
            if call.side is Side.CLIENT:
                call.add_metadata({"a": "new", "b": "new"}, replace=True)

    world = echoing(observer=Replacing())
    world.network.result(world.call("x", metadata=[("a", "1"), ("c", "2"), ("a", "3")]))
    world.network.result(world.call("x"))
    assert [context.metadata for context in world.service.contexts] == [
        (("c", "2"), ("a", "new"), ("b", "new")),
        (("a", "new"), ("b", "new")),
    ]


def test_interceptors_see_what_an_observer_has_added(tracer: Tracer, streaming: Any) -> None:
    seen: list[Any] = []

    def see(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        seen.append(call.metadata)
        return proceed(call)

    world = streaming(observer=tracer, client_interceptors=[see])
    reader = world.run(2)
    assert reader.items == ["0", "1"]
    assert seen == [(("span", "client-0"),)]
    assert dict(world.service.contexts[0].metadata) == {"span": "client-0"}


def test_metadata_over_the_limit_is_the_calls_end(tracer: Tracer, echoing: Any) -> None:
    world = echoing(observer=tracer)
    channel = Channel(world.network, "inproc://x", observer=tracer, metadata_size=1)
    call = channel.unary_unary(ECHO, text("x")).addErrback(error_of)
    assert world.network.result(call).code is Code.RESOURCE_EXHAUSTED
    channel.close()


def test_metadata_is_added_where_a_call_is_made(echoing: Any) -> None:
    problems: list[str] = []

    class Wrong(Observer):
        def call_started(self, source: Watched, call: StartedCall) -> None:
            wrong: Any = {"UPPER": "v"} if call.side is Side.CLIENT else {"k": "v"}
            try:
                call.add_metadata(wrong)
            except (RuntimeError, ValueError) as error:
                problems.append(str(error))

    world = echoing(observer=Wrong())
    world.network.result(world.call("x"))
    assert world.service.contexts[0].metadata == ()
    assert "UPPER" in problems[0]
    assert problems[1] == "metadata is added where a call is made, not where it is served"


class Noting(Echo):
    """Notes in which span it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[str] = []

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        self.spans.append(SPAN.get())
        return request


def test_a_handler_and_its_interceptors_run_in_the_context_of_the_observer(
    tracer: Tracer, streaming: Any
) -> None:
    seen: list[str] = []

    async def see(request: Any, context: Context, proceed: ServerProceed) -> Any:
        seen.append(SPAN.get())
        return await proceed(request)

    async def count(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        seen.append(SPAN.get())
        yield text("1")
        await world.sleep(1)
        seen.append(SPAN.get())

    world = streaming(count, observer=tracer, interceptors=[see])
    readers = [Reader(world.open("x")), Reader(world.open("x"))]
    world.network.advance(2)
    assert all(reader.ended == "well" for reader in readers)
    spans = sorted(span for span in tracer.parents if span.startswith("server"))
    assert sorted(seen) == sorted(spans * 3)
    assert SPAN.get() == ""


def test_calls_that_a_handler_makes_are_children_of_its_own(tracer: Tracer, echoing: Any) -> None:
    inner = echoing(Noting(), observer=tracer)

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            await inner.call("1")
            reply: StringValue = await inner.call("2")
            return reply

    outer = echoing(Outer(), observer=tracer)
    call = outer.call("x")
    for _ in range(4):
        outer.network.run()
        inner.network.run()
    assert outer.network.result(call).value == "2"
    assert tracer.parents == {
        "client-0": "",
        "server-1": "client-0",
        "client-2": "server-1",
        "server-3": "client-2",
        "client-4": "server-1",
        "server-5": "client-4",
    }
    assert inner.service.spans == ["server-3", "server-5"]


def test_the_run_of_a_shared_stream_is_in_the_context_of_no_call(
    tracer: Tracer, streaming: Any
) -> None:
    """Neither of the first one that shares it, nor of the one in whose handler it has begun."""
    gate: Deferred[None] = Deferred()
    seen: list[str] = []

    async def wait(request: Any, context: Context, proceed: ServerProceed) -> Any:
        if context.method == TICKS.path:
            await gate
        return await proceed(request)

    async def handle(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        seen.append(SPAN.get())
        if context.method == COUNT.path:
            gate.callback(None)
        yield request

    world = streaming(handle, observer=tracer, interceptors=[wait])
    shared = Reader(world.channel.unary_stream(TICKS, text("x")))
    world.network.run()
    assert seen == []
    reader = Reader(world.open("y"))
    world.network.advance(2)
    assert (shared.ended, reader.ended) == ("well", "well")
    assert seen[0].startswith("server")
    assert seen[1:] == [""]


def test_a_call_that_has_waited_runs_in_its_own_context(tracer: Tracer, echoing: Any) -> None:
    class Late(Waiting):
        spans: list[str]

        def echo(self, request: StringValue, context: Context) -> Any:
            self.spans.append(SPAN.get())
            return super().echo(request, context)

    service = Late()
    service.spans = []
    world = echoing(service, observer=tracer, limits=ServerLimits(running=1))
    calls = [world.call(value) for value in "ab"]
    world.network.run()
    for result in service.results:
        result.callback(text("y"))
        world.network.run()
    assert all(call.called for call in calls)
    servers = [span for span in tracer.parents if span.startswith("server")]
    assert service.spans == servers


def test_what_is_set_for_a_call_that_is_refused_is_seen_by_nobody(
    tracer: Tracer, echoing: Any
) -> None:
    world = echoing(Noting(), observer=tracer, limits=ServerLimits(message_size=3))
    assert world.network.result(world.call("too long").addErrback(error_of)).code is (
        Code.RESOURCE_EXHAUSTED
    )
    world.network.result(world.call("x"))
    assert world.service.spans == ["server-3"]
    assert SPAN.get() == ""
