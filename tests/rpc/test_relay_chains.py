"""What happens to calls through relays when something stops, breaks, is slow or large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.ends import Outcome
from tests.rpc.raw_calls import METHODS
from tests.rpc.relayed import TYPED, Relayed
from tests.rpc.service import made, text
from txzmq.rpc import (
    Context,
    DeadlineExceeded,
    Kind,
    NotFound,
    RawMessage,
    ResourceExhausted,
    RoundRobin,
    Unavailable,
)
from txzmq.rpc.limits import MESSAGE_SIZE

Make = Callable[..., Relayed]
KINDS = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
RAW = {method.kind: method for method in reversed(METHODS)}


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(Relayed)


def waiting_at(w: Relayed, stage: str) -> list[Deferred[None]]:
    """Have handlers wait first, or behind their items; what they wait for."""
    waiting: list[Deferred[None]] = []

    def wait(context: Context) -> Deferred[None]:
        waiting.append(Deferred(lambda _: None))
        return waiting[-1]

    if stage == "first":
        w.behind.first = wait
    else:
        w.behind.last = wait
    return waiting


@KINDS
def test_two_relays_pass_calls_as_one_does(world: Make, kind: Kind) -> None:
    w = world(relays=2)
    left: list[float | None] = []

    def first(context: Context) -> None:
        left.append(context.time_remaining())
        assert ("tenant", "a") in context.metadata

    w.behind.first = first
    got = w.result(TYPED[kind], text("x"), metadata={"tenant": "a"}, timeout=9)
    assert {item.value for item in got} == {"x"}
    assert left == [pytest.approx(9, abs=0.1)]
    assert [record.known for record in w.ends.records] == [True, True]

    def fail(context: Context) -> None:
        raise NotFound("no such thing", details=[text("why")])

    w.behind.first = fail
    outcome = Outcome(w.call(TYPED[kind], text("x")))
    w.network.advance(1)
    assert isinstance(outcome.end, NotFound)
    assert len(outcome.end.details) == 1


@KINDS
@pytest.mark.parametrize("steps", range(12))
def test_a_call_may_be_cancelled_at_any_step(world: Make, kind: Kind, steps: int) -> None:
    """The handler ends, and nothing is left of the call, whatever was on its way."""
    w = world(relays=2)
    waiting_at(w, "last" if kind.response_streaming else "first")
    call = w.call(TYPED[kind], text("x"))
    outcome = Outcome(call)
    for _ in range(steps):
        w.network.clock.advance(0)
    call.cancel()
    w.network.advance(15)  # the grace of a stream that was opened and is not subscribed to
    assert isinstance(outcome.end, CancelledError)
    assert len(w.behind.cancelled) == len(w.behind.contexts)
    # It ran to its end or was cancelled, everywhere.
    running = [server.running + server.queued for server in w.all_servers]
    assert running == [0] * 3
    assert [server.stats.streams for server in w.all_servers] == [0] * 3


@KINDS
@pytest.mark.parametrize("stage", ["first", "last"])
def test_a_server_that_dies_ends_its_calls(world: Make, kind: Kind, stage: str) -> None:
    if stage == "last" and not kind.response_streaming:
        stage = "first"
    w = world(servers=2, policy=RoundRobin())
    waiting = waiting_at(w, stage)
    outcomes = [Outcome(w.call(TYPED[kind], text("x"), timeout=60)) for _ in range(2)]
    w.network.advance(1)
    assert len(waiting) == 2
    w.die(0)
    w.network.advance(5)
    ended = [outcome for outcome in outcomes if outcome.ends]
    assert len(ended) == 1
    assert type(ended[0].end) is Unavailable
    # The other one goes on, and gets the next calls.
    w.behind.first = w.behind.last = lambda context: None
    assert w.result(TYPED[kind], text("y"))[-1] == text("y")
    for each in waiting:
        if not each.called:  # the dead one's was cancelled
            each.callback(None)
    w.network.advance(5)
    assert all(outcome.ends for outcome in outcomes)


@KINDS
def test_calls_wait_for_a_server_if_the_channel_is_told_so(world: Make, kind: Kind) -> None:
    w = world(wait_for_ready=True)
    w.stop(w.servers[0])
    outcome = Outcome(w.call(TYPED[kind], text("x"), timeout=60))
    late = Outcome(w.call(TYPED[kind], text("late"), timeout=4))
    w.network.advance(5)
    assert outcome.ends == []
    assert type(late.end) is DeadlineExceeded
    w.serve_anew(0)
    w.network.advance(40)
    assert outcome.end == [text("x")] * (2 if kind is Kind.UNARY_STREAM else 1)
    assert w.behind.seen == [text("x")]


@KINDS
def test_calls_are_balanced_over_the_servers(world: Make, kind: Kind) -> None:
    w = world(servers=3, policy=RoundRobin())
    w.network.advance(1)
    waiting = waiting_at(w, "first")
    outcomes = [Outcome(w.call(TYPED[kind], text("x"))) for _ in range(9)]
    w.network.advance(1)
    assert [server.running for server in w.servers] == [3] * 3
    for each in waiting:
        each.callback(None)
    w.network.advance(1)
    assert all(outcome.ends for outcome in outcomes)


@KINDS
def test_messages_as_large_as_allowed_pass(world: Make, kind: Kind) -> None:
    w = world()
    message = RawMessage(bytes(MESSAGE_SIZE))
    got = w.result(RAW[kind], message)
    assert set(map(len, got)) == {MESSAGE_SIZE}
    outcome = Outcome(w.call(RAW[kind], RawMessage(bytes(MESSAGE_SIZE + 1))))
    w.network.advance(1)
    assert isinstance(outcome.end, ResourceExhausted)


class Flood:
    """Gives as many items as somebody takes."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[RawMessage]:
        while True:
            self.given += 1
            yield RawMessage(self.given.to_bytes(4, "big") * 25_000)


@pytest.mark.parametrize("relays", [1, 2])
def test_a_slow_reader_stops_the_handler_behind(world: Make, relays: int) -> None:
    w = world(relays=relays)
    flood = Flood()
    w.behind.items = lambda: iter(flood)
    stream = w.channel.unary_stream(RAW[Kind.UNARY_STREAM], RawMessage(b"x"))
    w.network.advance(5)
    # 4 MiB are 42 items: the windows of the client and each relay, each twice at most.
    assert 0 < flood.given <= 2 * 43 * (relays + 1)
    given = flood.given
    w.network.advance(60)
    assert flood.given == given
    got: list[int] = []

    async def read() -> None:
        async for item in stream:
            got.append(int.from_bytes(item[:4], "big"))
            if len(got) == 500:
                break

    reading = Outcome(Deferred.fromCoroutine(read()))
    w.network.advance(10)
    assert reading.end is None
    assert got == list(range(1, 501))
    stream.cancel()
    w.network.advance(10)
    assert [server.running for server in w.all_servers] == [0] * (relays + 1)


@pytest.mark.parametrize("relays", [1, 2])
def test_a_slow_handler_behind_stops_the_client(world: Make, relays: int) -> None:
    w = world(relays=relays)
    waiting = waiting_at(w, "first")
    flood = Flood()
    call = w.channel.stream_unary(RAW[Kind.STREAM_UNARY], iter(flood), timeout=600)
    outcome: Any = Outcome(call)
    w.network.advance(30)
    given = flood.given
    # 1 MiB are 11 items.
    assert 0 < given <= 3 * 11 * (relays + 1)
    w.network.advance(60)
    assert flood.given == given
    assert len(waiting) == 1
    call.cancel()
    w.network.advance(5)
    assert isinstance(outcome.end, CancelledError)
