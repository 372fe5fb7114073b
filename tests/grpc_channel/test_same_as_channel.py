"""One scenario over both kinds of channel: the same outcomes, and observers see the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.grpc_channel.support import Notes, Rig, by_zmq, call, items, served, streams
from tests.rpc.observing import outline
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Loop
from txzmq.rpc import (
    Caller,
    CallRecord,
    ClientCall,
    ClientProceed,
    Code,
    DeadlineExceeded,
    Method,
    Observer,
    ResponseMetadata,
    RpcError,
    StartedCall,
    Watched,
)

METADATA: dict[str, str | bytes] = {"x-text": "some text", "x-bytes-bin": bytes(range(256))}


class Seen(Observer):
    """Notes what an observer and an interceptor are told."""

    def __init__(self) -> None:
        self.begun: list[StartedCall] = []
        self.records: list[CallRecord] = []
        self.intercepted: list[str] = []
        self.problems: list[str] = []

    def call_started(self, source: Watched, call: StartedCall) -> None:
        self.begun.append(call)
        call.add_metadata({"x-added": "1"})

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        if record not in self.begun:
            self.problems.append(f"{record} has not begun")
        self.records.append(record)

    async def intercept(self, call: ClientCall, proceed: ClientProceed) -> Any:
        def ended(record: CallRecord) -> None:
            self.intercepted.append(f"end {record.method} {record.code.name}")

        call.ended().addCallback(ended)
        self.intercepted.append(f"{call.method.path} {dict(call.metadata).keys()}")
        try:
            response = await proceed(call.replace(metadata=(*call.metadata, ("x-more", "2"))))
        except (RpcError, CancelledError) as error:
            self.intercepted.append(f"error {type(error).__name__}")
            raise
        self.intercepted.append(f"response {type(response) is StringValue}")
        return response

    def outlines(self) -> list[object]:
        assert not self.problems
        assert len(self.begun) == len(self.records)
        return [
            (
                record.method,
                record.kind,
                record.code,
                record.code is Code.DEADLINE_EXCEEDED or record.message,
                record.metadata,
                record.sent,
                record.attempts,
                outline(record),
                bool(record.peer),
            )
            for record in self.records
        ]


class Side(NamedTuple):
    """A channel of either kind, and what its server has seen."""

    caller: Caller
    notes: Notes
    loop: Loop


Scenario = Callable[[Side], Coroutine[Any, Any, object]]


async def ended(outcome: Any) -> object:
    """What comes of a call, as something to compare."""
    try:
        if isinstance(outcome, Deferred):
            waiting: Deferred[StringValue] = outcome  # pyright: ignore[reportUnknownVariableType]  # of whatever
            return (await waiting).value
        return await items(outcome)
    except DeadlineExceeded as error:
        # Either side may be the first to notice, and each says it in its own words.
        return type(error), error.method
    except RpcError as error:
        return (
            type(error),
            error.message,
            error.metadata,
            error.method,
            [detail.SerializeToString() for detail in error.details],
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, both are to raise it
        return type(error), str(error)


def once(method: Method[Any, Any], given: Any, **options: Any) -> Scenario:
    async def scenario(side: Side) -> object:
        with ResponseMetadata() as metadata:
            made = call(side.caller, method, given, **options)
        outcome = await ended(made)
        stream = (made.initial_metadata, made.trailing_metadata) if streams(method) else None
        return outcome, metadata.initial, metadata.trailing, stream

    return scenario


async def cancelled(side: Side) -> object:
    made = call(side.caller, ECHO, "wait")
    await side.loop.until(lambda: side.notes.seen[-1:] == ["wait"])
    made.cancel()
    await side.loop.until(lambda: side.notes.cancelled[-1:] == ["wait"])
    return await ended(made)


async def cancelled_stream(side: Side) -> object:
    stream = call(side.caller, COUNT, "1 then wait")
    first = await anext(stream)
    await side.loop.until(lambda: side.notes.seen[-1:] == ["wait"])
    stream.cancel()
    await side.loop.until(lambda: side.notes.cancelled[-1:] == ["wait"])
    return first.value, await ended(stream)


async def left_early(side: Side) -> object:
    seen: list[str] = []
    async with call(side.caller, COUNT, "1 then wait") as stream:
        async for item in stream:
            seen.append(item.value)
            await side.loop.until(lambda: side.notes.seen[-1:] == ["wait"])
            break
    return seen


async def each(side: Side) -> object:
    seen: list[str] = []

    def note(item: StringValue) -> None:
        seen.append(item.value)

    await call(side.caller, COUNT, "3").each(note)
    return seen


async def milestones(side: Side) -> object:
    stream = call(side.caller, COUNT, "metadata", metadata=METADATA)
    initial = await stream.received_initial_metadata()
    await stream.opened()
    await stream.ended()
    return initial, await items(stream), stream.trailing_metadata


async def no_milestones(side: Side) -> object:
    stream = call(side.caller, COUNT, "code 5")
    errors: list[object] = []
    for wait in (stream.received_initial_metadata, stream.ended):
        try:
            await wait()
        except RpcError as error:
            errors.append(str(error))
    return errors, await ended(stream)


async def failing_source(side: Side) -> object:
    async def source(name: str) -> AsyncIterator[StringValue]:
        yield text(name)
        await side.loop.until(lambda: side.notes.seen[-1:] == [name])
        raise ZeroDivisionError("the caller's")

    return [
        await ended(call(side.caller, COLLECT, source("a"))),
        await ended(call(side.caller, CHAT, source("wait"))),  # no response comes before
    ]


async def wrong_items(side: Side) -> object:
    async def source(name: str, item: Any) -> AsyncIterator[Any]:
        yield text(name)
        await side.loop.until(lambda: side.notes.seen[-1:] == [name])
        yield item

    return [
        await ended(call(side.caller, COLLECT, source("a", "no message"))),
        await ended(call(side.caller, COLLECT, source("b", text("x" * 5_000_000)))),
        await ended(call(side.caller, ECHO, "x" * 5_000_000)),
    ]


async def silent(side: Side) -> object:
    with pytest.raises(DeadlineExceeded, match=r"silent for 0\.2 s"):
        await items(call(side.caller, COUNT, "wait").max_silence(0.2))
    return "silent"


#: Seconds in which a call reaches its handler on a busy machine, too: what is told of one that does
#: not reach it is something else.
ENOUGH = 0.8

SCENARIOS: dict[str, Scenario] = {
    "unary": once(ECHO, "x"),
    "empty": once(ECHO, ""),
    **{f"code {code}": once(ECHO, f"code {code}") for code in range(1, 17)},
    "details": once(ECHO, "details"),
    "metadata": once(ECHO, "metadata", metadata=METADATA),
    "deadline": once(ECHO, "wait", timeout=ENOUGH),
    "no time": once(ECHO, "x", timeout=0),
    "cancelled": cancelled,
    "stream": once(COUNT, "5"),
    "empty stream": once(COUNT, "0"),
    "metadata of a stream": once(COUNT, "metadata", metadata=METADATA),
    "stream that fails": once(COUNT, "3 then code 9"),
    "stream that fails at once": once(COUNT, "code 9"),
    "details of a stream": once(COUNT, "1 then details"),
    "deadline of a stream": once(COUNT, "wait", timeout=ENOUGH),
    "cancelled stream": cancelled_stream,
    "left early": left_early,
    "each": each,
    "milestones": milestones,
    "no milestones": no_milestones,
    "silence": silent,
    "requests": once(COLLECT, ["a", "b", "c"]),
    "no requests": once(COLLECT, []),
    "requests that are enough": once(COLLECT, ["a", "enough"]),
    "requests that fail": once(COLLECT, ["a", "code 7"]),
    "both ways": once(CHAT, ["a", "b", "c"]),
    "both ways, nothing": once(CHAT, []),
    "both ways that fail": once(CHAT, ["a", "code 7"]),
    "deadline both ways": once(CHAT, ["a", "wait"], timeout=ENOUGH),
    "failing source": failing_source,
    "wrong items": wrong_items,
}


@pytest.mark.parametrize("intercepted", [False, True])
def test_both_channels_do_the_same(grpc_loop: Loop, tmp_path: Path, intercepted: bool) -> None:
    """All scenarios in one reactor: to start one takes longer than most of them."""
    tmp_path.chmod(0o700)

    async def run(caller: Caller, notes: Notes, seen: Seen) -> dict[str, object]:
        outcomes: dict[str, object] = {}
        for name, scenario in SCENARIOS.items():
            outcome = await scenario(Side(caller, notes, grpc_loop))
            await grpc_loop.until(lambda: len(seen.begun) == len(seen.records))
            outcomes[name] = outcome, seen.outlines(), seen.intercepted[:], notes.seen[:]
            for noted in (seen.begun, seen.records, seen.intercepted, notes.seen):
                noted.clear()
        return outcomes

    def options(seen: Seen) -> dict[str, Any]:
        chain = [seen.intercept] if intercepted else []
        return {"observer": seen, "interceptors": chain}

    async def main() -> tuple[dict[str, object], dict[str, object]]:
        seen, notes = Seen(), Notes()
        async with by_zmq(grpc_loop, tmp_path, notes, **options(seen)) as channel:
            ours = await run(channel, notes, seen)
        seen = Seen()
        async with served(grpc_loop, Rig) as rig:
            theirs = await run(rig.channel(**options(seen)), rig.notes, seen)
        return ours, theirs

    ours, theirs = grpc_loop.run(main)
    assert theirs == ours
