"""A relay: all that a call has passes through it, both ways, byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.ends import Outcome
from tests.rpc.leftovers import leftovers
from tests.rpc.raw_calls import METHODS, Raw, called
from tests.rpc.service import made, text
from tests.support import examples
from txzmq.rpc import (
    CallRecord,
    Channel,
    Context,
    DeadlineExceeded,
    IdempotencyLevel,
    Kind,
    Method,
    NotFound,
    Observer,
    PermissionDenied,
    RawMessage,
    ResponseMetadata,
    Server,
    Service,
    Unavailable,
    Unimplemented,
    raw_method,
)
from txzmq.rpc.method_sources import DescribedMethods
from txzmq.rpc.relay import Relay
from txzmq.testing import MemoryNetwork

# -- the server behind it, and its old client -----------------------------------------------------

#: A method of each kind, as generated code has them.
TYPED: dict[Kind, Method[StringValue, StringValue]] = {
    kind: Method(
        f"/test.Typed/{kind.name.title()}", kind.name.lower(), StringValue, StringValue, kind
    )
    for kind in Kind
}


def described() -> DescriptorPool:
    """What is known of the methods of both services; of one, that it may be sent twice."""
    file = FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    file.message_type.add(name="Any")
    for service in ("Typed", "Raw"):
        added = file.service.add(name=service)
        methods: list[Method[Any, Any]] = [*TYPED.values(), *METHODS]
        for method in methods:
            if not method.path.startswith(f"/test.{service}/"):
                continue
            one = added.method.add(
                name=method.path.rpartition("/")[2],
                input_type=".test.Any",
                output_type=".test.Any",
                client_streaming=method.kind.request_streaming,
                server_streaming=method.kind.response_streaming,
            )
            if method.kind is Kind.UNARY_UNARY:
                one.options.idempotency_level = MethodOptions.IDEMPOTENT
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


Do = Callable[[Context], Any]


class Behind:
    """Methods of all kinds, raw and not: what they get, they give back; a test says what else."""

    __txzmq_service__: ClassVar[Service] = Service("test.Behind", (*TYPED.values(), *METHODS))

    def __init__(self) -> None:
        #: Called first, with the context; what it returns is awaited, what it raises the answer.
        self.first: Do = lambda context: None
        #: The same, behind the items.
        self.last: Do = lambda context: None
        self.seen: list[Any] = []
        self.contexts: list[Context] = []
        #: How the handlers ended that somebody cancelled.
        self.cancelled: list[str] = []

    async def _begin(self, context: Context) -> None:
        self.contexts.append(context)
        context.cancelled.addCallback(self.cancelled.append)
        result = self.first(context)
        if isinstance(result, Deferred):
            await result

    async def unary_unary(self, request: Any, context: Context) -> Any:
        await self._begin(context)
        self.seen.append(request)
        return request

    async def stream_unary(self, requests: Any, context: Context) -> Any:
        await self._begin(context)
        async for request in requests:
            self.seen.append(request)
        return self.seen[-1]

    async def unary_stream(self, request: Any, context: Context) -> Any:
        await self._begin(context)
        self.seen.append(request)

        async def twice() -> AsyncIterator[Any]:
            yield request
            yield request
            await self._end(context)

        return twice()

    async def stream_stream(self, requests: Any, context: Context) -> Any:
        await self._begin(context)

        async def back() -> AsyncIterator[Any]:
            async for request in requests:
                self.seen.append(request)
                yield request
            await self._end(context)

        return back()

    async def _end(self, context: Context) -> None:
        result = self.last(context)
        if isinstance(result, Deferred):
            await result

    UnaryUnary, StreamUnary = unary_unary, stream_unary
    UnaryStream = Shared = Resumed = unary_stream
    StreamStream = stream_stream


class Ends(Observer):
    """Notes how calls ended on the relay."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    def call_ended(self, source: Any, record: CallRecord) -> None:
        self.records.append(record)


class Relayed:
    """A client, a relay and the server behind it, in memory."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.behind = Behind()
        self.server = Server(self.network, [self.behind])
        self.to_server = Channel(self.network, self.server.listen("inproc://behind"))
        self.found: list[Any] = []
        relay = Relay(self.to_server, DescribedMethods(described()))

        def find(path: str) -> Any:
            self.found.append(relay.find(path))
            return self.found[-1]

        self.ends = Ends()
        self.relay = Server(self.network, [], fallback=find, observer=self.ends)
        self.channel = Channel(self.network, self.relay.listen("inproc://relay"))

    def call(self, method: Method[Any, Any], *items: Any, **options: Any) -> Deferred[list[Any]]:
        return called(self.channel, method, items, **options)

    def result(self, method: Method[Any, Any], *items: Any, **options: Any) -> list[Any]:
        call = self.call(method, *items, **options)
        self.network.advance(1)
        return self.network.result(call)

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        self.channel.close()
        stopped = self.relay.stop(0)
        self.network.advance(3)
        assert stopped.called
        self.to_server.close()
        stopped = self.server.stop(0)
        self.network.advance(3)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()
        assert leftovers(self.channel, self.relay, self.to_server, self.server) == []


Make = Callable[[], Relayed]
KINDS = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(Relayed)


# -- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes_pass_both_ways(world: Make, method: Raw) -> None:
    w = world()

    @settings(max_examples=examples(5))
    @given(st.lists(st.binary(), min_size=1, max_size=1 + 5 * method.kind.request_streaming))
    def holds(items: list[bytes]) -> None:
        w.behind.seen.clear()
        got = w.result(method, *map(RawMessage, items))
        assert w.behind.seen == items
        if method.kind is Kind.UNARY_STREAM:
            items = items * 2
        assert got == (items if method.kind.response_streaming else items[-1:])

    holds()


@KINDS
def test_a_client_with_messages_does_not_know_of_it(world: Make, kind: Kind) -> None:
    """Fields that only client and server know pass, too."""
    w = world()
    request = StringValue.FromString(b"\xfa\x3f\x03abc" + text("x").SerializeToString())
    for response in w.result(TYPED[kind], request):
        assert response.SerializeToString() == request.SerializeToString()
        assert b"abc" in response.SerializeToString()
    assert w.behind.seen == [request]
    assert w.found[0].method.kind is kind
    assert (w.found[0].method.idempotency_level is IdempotencyLevel.IDEMPOTENT) is (
        kind is Kind.UNARY_UNARY
    )


def seen_by(w: Relayed, channel: Channel, kind: Kind) -> list[Any]:
    """What a client sees of a call: metadata of the response, and how it ends."""
    metadata = {"tenant": "a"}
    if kind.response_streaming:
        given_item: Any = [text("x")] if kind.request_streaming else text("x")
        stream = getattr(channel, kind.name.lower())(TYPED[kind], given_item, metadata=metadata)
        items: list[Any] = []
        outcome = Outcome(stream.each(items.append))
        w.network.advance(1)
        seen = [stream.initial_metadata, stream.trailing_metadata, items]
    else:
        with ResponseMetadata() as of_response:
            outcome = Outcome(called(channel, TYPED[kind], [text("x")], metadata=metadata))
        w.network.advance(1)
        seen = [of_response.initial, of_response.trailing]
    (end,) = outcome.ends
    if isinstance(end, NotFound):
        return [*seen, end.code, end.message, end.details_of(StringValue), end.metadata]
    return [*seen, end]


@KINDS
@pytest.mark.parametrize("fails", ["", "first", "last"])
def test_metadata_and_status_pass(world: Make, kind: Kind, fails: str) -> None:
    w = world()

    def do(when: str, context: Context) -> None:
        if when == "first":
            assert ("tenant", "a") in context.metadata
            context.send_initial_metadata([("first", "1"), ("first-bin", b"\xff")])
            context.set_trailing_metadata({"last": "2"})
        if when == fails:
            raise NotFound("no such thing", details=[text("why")], metadata={"more": "3"})

    w.behind.first, w.behind.last = partial(do, "first"), partial(do, "last")
    direct = seen_by(w, w.to_server, kind)
    assert seen_by(w, w.channel, kind) == direct
    if not fails or not kind.response_streaming:
        assert direct[0] == (("first", "1"), ("first-bin", b"\xff"))
        assert ("last", "2") in direct[1]
    if fails == "first" or (fails and kind.response_streaming):
        assert direct[-3:-1] == ["no such thing", (text("why"),)]
        assert direct[-1] == (("last", "2"), ("more", "3"))


@KINDS
def test_the_deadline_passes(world: Make, kind: Kind) -> None:
    w = world()
    left: list[float | None] = []

    def first(context: Context) -> Deferred[None]:
        left.append(context.time_remaining())
        return Deferred()

    w.behind.first = first
    outcome = Outcome(w.call(TYPED[kind], text("x"), timeout=5))
    w.network.advance(6)
    assert left == [pytest.approx(5, abs=0.1)]
    assert type(outcome.end) is DeadlineExceeded
    assert len(w.behind.cancelled) == 1


@KINDS
@pytest.mark.parametrize("when", ["opening", "reading"])
def test_cancelling_passes(world: Make, kind: Kind, when: str) -> None:
    w = world()
    waiting: list[Deferred[None]] = []

    def wait(context: Context) -> Deferred[None]:
        waiting.append(Deferred(lambda _: None))
        return waiting[-1]

    if when == "opening" or not kind.response_streaming:
        w.behind.first = wait
    else:
        w.behind.last = wait
    call = w.call(TYPED[kind], text("x"))
    outcome = Outcome(call)
    w.network.advance(1)
    assert (len(waiting), outcome.ends) == (1, [])
    call.cancel()
    w.network.advance(1)
    assert isinstance(outcome.end, CancelledError)
    assert w.behind.cancelled == ["the client cancelled it"]


def test_what_the_pool_does_not_have_is_not_served(world: Make) -> None:
    w = world()
    for path in ("/test.Typed/Missing", "/test.Other/UnaryUnary", "/test/Typed"):
        outcome = Outcome(w.call(raw_method(path), RawMessage(b"x")))
        w.network.advance(1)
        assert type(outcome.end) is Unimplemented
    assert w.behind.contexts == []
    assert not any(record.known for record in w.ends.records)


def test_what_servers_tell_to_their_own_machine_does_not_pass(world: Make) -> None:
    """A relay is on it, and its callers are not."""
    w = world()
    method = raw_method("/txzmq.rpc.v1.Admin/ListPeers", Kind.UNARY_STREAM)
    outcome = Outcome(w.call(method, RawMessage(b"x")))
    w.network.advance(1)
    assert type(outcome.end) is PermissionDenied
    assert w.found == []
    assert w.behind.contexts == []


@KINDS
def test_where_nobody_is_behind_it_the_call_says_so(world: Make, kind: Kind) -> None:
    w = world()
    w.server.stop(0)
    w.network.advance(3)
    outcome = Outcome(w.call(TYPED[kind], text("x"), timeout=5))
    w.network.advance(6)
    assert isinstance(outcome.end, (Unavailable, DeadlineExceeded))
    assert w.ends.records[0].known


def test_a_flood_of_items_waits_for_who_reads_them(world: Make) -> None:
    w = world()
    number = 0

    def items() -> Iterator[RawMessage]:
        nonlocal number
        while number < 300:
            number += 1
            yield RawMessage(number.to_bytes(2, "big") * 50_000)

    method = next(one for one in METHODS if one.kind is Kind.STREAM_STREAM)
    stream = w.channel.stream_stream(method, items())
    w.network.advance(5)
    assert 0 < number < 200  # the windows of client, relay and server are full
    got: list[int] = []
    outcome = Outcome(stream.each(lambda item: got.append(int.from_bytes(item[:2], "big"))))
    w.network.advance(5)
    assert got == list(range(1, 301))
    assert outcome.end is None
