"""One run of each kind of call is repeated with each of its messages lost, doubled or late.

Whatever becomes of a single message, items come in order and once each, every call ends once, and
within a bounded time both sides have given back what they held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import (
    CHAT,
    COLLECT,
    COUNT,
    PUBLISHER,
    RESUME,
    TICKS,
    Streaming,
    echo,
    join,
)
from tests.support import captured_log
from txzmq.rpc import Channel, Code, Context, ResponseStream, RpcError, Server, ServerLimits
from txzmq.testing import Faults, MemoryNetwork, MessageFault, MessageKind, Script
from txzmq.testing._leftovers import leftovers

#: How many items each stream has.
COUNT_OF_ITEMS = 6
WHOLE = ",".join(map(str, range(COUNT_OF_ITEMS)))
#: Virtual seconds: a call's deadline, and until everything is given back.
DEADLINE, GIVEN_BACK = 15.0, 60.0
#: How a call may end that lost a message.
ENDS = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}


class World:
    """A server and two channels in memory."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        #: How many handlers run.
        self.running = 0
        limits = ServerLimits(stream_window=4)
        self.server = Server(self.network, [Streaming(self.handle), Echo()], limits=limits)
        self.server.listen(ADDRESS)
        self.channels = [
            Channel(self.network, ADDRESS, timeout=DEADLINE, stream_window=4) for _ in range(2)
        ]
        #: What did not hold.
        self.faults: list[str] = []
        self.ends: list[str] = []
        self.calls = 0

    def sleep(self, seconds: float) -> Deferred[None]:
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call: Any = self.network.clock.callLater(seconds, deferred.callback, None)
        return deferred

    # -- the server ----------------------------------------------------------------------------

    def handle(self, request: Any, context: Context) -> Any:
        if context.method == COLLECT.path:
            return join(request, context)
        if context.method == CHAT.path:
            return self.noted(echo(request, context))
        shared = context.method == TICKS.path
        return self.noted(self.count(10**6 if shared else COUNT_OF_ITEMS, context))

    async def count(self, end: int, context: Context) -> AsyncIterator[StringValue]:
        for number in range(context.first_item - 1, end):
            await self.sleep(0.2)
            yield text(str(number))

    async def noted(self, items: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
        self.running += 1
        try:
            async for item in items:
                yield item
        finally:
            self.running -= 1

    # -- clients -------------------------------------------------------------------------------

    async def requests(self) -> AsyncIterator[StringValue]:
        for number in range(COUNT_OF_ITEMS):
            await self.sleep(0.1)
            yield text(str(number))

    def read(self, stream: ResponseStream[StringValue], *, leave_after: int = 0) -> None:
        """Read a stream: to its end, or until it has given so many items."""
        self.calls += 1
        Deferred.fromCoroutine(self._read(stream, leave_after)).addErrback(self._crashed)

    async def _read(self, stream: ResponseStream[StringValue], leave_after: int) -> None:
        items: list[int] = []
        try:
            async with stream:
                async for item in stream:
                    items.append(int(item.value))
                    if len(items) == leave_after:
                        break
        except RpcError as error:
            self.ended_by(error)
        else:
            self.ends.append("well")
            if len(items) != (leave_after or COUNT_OF_ITEMS):
                self.faults.append(f"items are missing: {items}")
        first = items[0] if leave_after and items else 0
        if items != list(range(first, first + len(items))):
            self.faults.append(f"items are not in order: {items}")

    def call(self, call: Deferred[StringValue]) -> None:
        """Make a call whose answer is all items."""
        self.calls += 1
        call.addCallbacks(self._answered, self._failed).addErrback(self._crashed)

    def _answered(self, answer: StringValue) -> None:
        self.ends.append("well")
        if answer.value != WHOLE:
            self.faults.append(f"the answer is not whole: {answer.value}")

    def _failed(self, failure: Any) -> None:
        failure.trap(RpcError)
        self.ended_by(failure.value)

    def _crashed(self, failure: Any) -> None:
        self.faults.append(f"crashed: {failure.value!r}")

    def ended_by(self, error: RpcError) -> None:
        self.ends.append(error.code.name)
        if error.code not in ENDS:
            self.faults.append(f"ended by {error!r}")

    # -- the end -------------------------------------------------------------------------------

    def finish(self) -> list[str]:
        """Let all come to its end; what did not hold."""
        self.network.advance(GIVEN_BACK)
        self.check(len(self.ends) == self.calls, f"{self.calls} calls have {self.ends} as ends")
        self.check(not self.running, f"{self.running} handlers run")
        self.check(not self.server.running, f"{self.server.running} calls run")
        for channel in self.channels:
            channel.close()
        stopped = self.server.stop(0)
        self.network.advance(5)
        self.check(stopped.called, "the server does not stop")
        left = leftovers(*self.channels, self.server)
        self.check(not left, f"left: {left}")
        delayed = len(self.network.clock.getDelayedCalls())
        self.check(not delayed, f"{delayed} delayed calls are left")
        return self.faults

    def check(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


def unary(world: World) -> None:
    world.call(world.channels[0].unary_unary(ECHO, text(WHOLE)))


def requests(world: World) -> None:
    world.call(world.channels[0].stream_unary(COLLECT, world.requests()))


def private(world: World) -> None:
    world.read(world.channels[0].unary_stream(COUNT, text("x")))


def resumable(world: World) -> None:
    world.read(world.channels[0].unary_stream(RESUME, text("x")))


def both_ways(world: World) -> None:
    world.read(world.channels[0].stream_stream(CHAT, world.requests()))


def shared_on_one_channel(world: World) -> None:
    """The second joins the first, and stays longer."""
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=3)
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=5)


def shared_on_two_channels(world: World) -> None:
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=3)
    world.read(world.channels[1].unary_stream(TICKS, text("x")), leave_after=5)


def shared_one_after_another(world: World) -> None:
    """On one channel, which is connected when the second joins: it subscribes again."""
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=8)
    world.network.advance(0.5)
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=3)


def shared_for_long(world: World) -> None:
    """Longer than any grace for members who may come back."""
    world.read(world.channels[0].unary_stream(TICKS, text("x")), leave_after=60)


KINDS: dict[str, Callable[[World], None]] = {
    "unary": unary,
    "requests": requests,
    "private": private,
    "resumable": resumable,
    "both ways": both_ways,
    "shared on one channel": shared_on_one_channel,
    "shared on two channels": shared_on_two_channels,
    "shared one after another": shared_one_after_another,
    "shared for long": shared_for_long,
}
FAULTS: list[MessageFault] = ["lost", "doubled", "late"]


def play(kind: str, network: MemoryNetwork) -> list[str]:
    """One run; what did not hold in it."""
    world = World(network)
    with captured_log() as logged:
        KINDS[kind](world)
        faults = world.finish()
    return faults + [f"logged: {failure!r}" for failure in logged.failures()]


@cache
def reference(kind: str) -> list[MessageKind]:
    """The kinds of the messages of a run without a fault."""
    script = Script()
    play(kind, MemoryNetwork(script=script))
    return [carried.kind for carried in script.carried]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_fault_all_is_well(kind: str) -> None:
    world = World(MemoryNetwork())
    KINDS[kind](world)
    assert world.finish() == []
    assert set(world.ends) == {"well"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_carries_the_same_messages(kind: str) -> None:
    """Else the k-th message of one would be another of the next."""
    script = Script()
    play(kind, MemoryNetwork(script=script))
    assert [carried.kind for carried in script.carried] == reference(kind)
    assert MessageKind.REPLY in reference(kind)


@pytest.mark.parametrize("of", MessageKind)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_message(kind: str, fault: MessageFault, of: MessageKind) -> None:
    broken: dict[int, list[str]] = {}
    for number, each in enumerate(reference(kind)):
        if each is of:
            faults = play(kind, MemoryNetwork(script=Script({number: fault})))
            if faults:
                broken[number] = faults
    assert broken == {}


class Cutting(Script):
    """Has connections broken when a message is sent."""

    def __init__(self, number: int, address: str) -> None:
        super().__init__()
        self.network = MemoryNetwork(script=self)
        self._number = number
        self._address = address

    def arrivals(self, kind: MessageKind, parts: Sequence[bytes]) -> Sequence[float]:
        if len(self.carried) == self._number:
            self.network.clock.callLater(0, self.network.cut, self._address)
        return super().arrivals(kind, parts)


@pytest.mark.parametrize("address", [ADDRESS, PUBLISHER])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_each_message(kind: str, address: str) -> None:
    broken: dict[int, list[str]] = {}
    for number in range(len(reference(kind))):
        faults = play(kind, Cutting(number, address).network)
        if faults:
            broken[number] = faults
    assert broken == {}


#: What libzmq does all the time, or over some transports.
HABITS: dict[str, Callable[[], MemoryNetwork]] = {
    "strangers": lambda: MemoryNetwork(Faults(strangers=1)),
    "doubled subscriptions": lambda: MemoryNetwork(Faults(subscription_duplication=1)),
    "late subscriptions": lambda: MemoryNetwork(Faults(subscription_delay=0.5)),
    "losses late": lambda: MemoryNetwork(Faults(late_loss=5)),
    "losses not told": lambda: MemoryNetwork(Faults(unreported_loss=1)),
    "losses at the close": lambda: MemoryNetwork(Faults(loss_at_close=1)),
    "inproc": lambda: MemoryNetwork(tells_of_loss=False),
}


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_habit(kind: str, habit: str) -> None:
    assert play(kind, HABITS[habit]()) == []
