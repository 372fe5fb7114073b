"""A relay: all that a call has passes through it, both ways, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.ends import Outcome
from tests.rpc.raw_calls import METHODS, Raw, called
from tests.rpc.relayed import TYPED, Relayed
from tests.rpc.service import made, text
from tests.support import examples
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    IdempotencyLevel,
    Kind,
    NotFound,
    PermissionDenied,
    RawMessage,
    ResponseMetadata,
    Unavailable,
    Unimplemented,
    raw_method,
)

Make = Callable[..., Relayed]
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
    w.stop(w.servers[0])
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
