"""Streams of all kinds over a network that loses, doubles, delays and breaks, in any order.

What is read is what was sent, once each and in order, up to where the stream ended; it ends once;
and when all is over nothing is left. ``make test-long`` plays many more games.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.observing import Calls
from tests.rpc.retried_streams import config
from tests.rpc.service import ADDRESS, text
from tests.rpc.sharing import Group
from tests.rpc.streaming import CHAT, COLLECT, COUNT, PUBLISHER, RESUME, TICKS, Reader, StreamWorld
from tests.support import captured_log, error_of, examples
from txzmq.rpc import (
    Code,
    Context,
    IdempotencyLevel,
    Method,
    RequestStream,
    RpcError,
    Server,
    ServerLimits,
)
from txzmq.testing import Faults, assert_all_given_back

#: What may befall a stream whose network is bad.
ANY_STREAM = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}
WINDOW = 8
LIMITS = ServerLimits(streams=6, stream_window=WINDOW, stream_window_bytes=60, message_size=100)
FAULTS = st.builds(
    Faults,
    seed=st.integers(0, 1000),
    loss=st.sampled_from([0, 0.1, 0.5]),
    duplication=st.sampled_from([0, 0.3]),
    delay=st.sampled_from([0, 0.1, 2]),
    blocked=st.sampled_from([0, 0.3]),
)


class Handlers:
    """Count; a number of items waits for time to pass before the next."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.running = 0

    def __call__(self, request: Any, context: Context) -> Any:
        if context.method == COLLECT.path:
            return self.collect(request)
        if context.method == CHAT.path:
            return self.chat(request)
        return self.count(request, context)

    async def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.running += 1
        try:
            count, burst = map(int, request.value.split())
            for number in range(context.first_item - 1, count):
                if number % burst == burst - 1:
                    await self.world.sleep(0.5)
                yield text(str(number))
        finally:
            self.running -= 1

    async def collect(self, requests: RequestStream[StringValue]) -> StringValue:
        self.running += 1
        try:
            return text(",".join([request.value async for request in requests]))
        finally:
            self.running -= 1

    async def chat(self, requests: RequestStream[StringValue]) -> AsyncIterator[StringValue]:
        self.running += 1
        try:
            async for request in requests:
                yield request
        finally:
            self.running -= 1


class Game(RuleBasedStateMachine):
    """Clients and a server."""

    world_type: ClassVar[type[StreamWorld]] = StreamWorld
    service_config: ClassVar[dict[str, Any] | None] = None
    level: ClassVar[IdempotencyLevel] = IdempotencyLevel.IDEMPOTENCY_UNKNOWN
    #: Whether an observer is told of calls.
    observed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.handlers = Handlers(None)
        self.observer = Calls() if self.observed else None
        self.world = self.world_type(
            self.handlers,
            limits=LIMITS,
            observer=self.observer,
            stream_window=WINDOW,
            stream_window_bytes=60,
            service_config=self.service_config,
        )
        self.handlers.world = self.world
        self.readers: list[tuple[Reader, int, bool]] = []
        self.uploads: list[tuple[Deferred[Any], int]] = []
        self.results: list[tuple[object, int]] = []
        self.servers: list[Server] = []
        self.log = captured_log()
        self.logged = self.log.__enter__()

    # -- what clients do -----------------------------------------------------------------------

    @rule(
        count=st.integers(0, 40),
        burst=st.integers(2, 30),
        method=st.sampled_from([COUNT, TICKS, RESUME]),
        timeout=st.sampled_from([None, None, 1, 30]),
    )
    def watch(
        self,
        count: int,
        burst: int,
        method: Method[StringValue, StringValue],
        timeout: float | None,
    ) -> None:
        stream = self.world.channel.unary_stream(
            self.of_level(method), text(f"{count} {burst}"), timeout=timeout
        )
        self.readers.append((Reader(stream), count, method is TICKS))

    @rule(count=st.integers(0, 40), pause=st.booleans(), timeout=st.sampled_from([None, 1, 30]))
    def chat(self, count: int, pause: bool, timeout: float | None) -> None:
        stream = self.world.channel.stream_stream(
            self.of_level(CHAT), self.requests(count, pause), timeout=timeout
        )
        reader = Reader(stream)
        self.readers.append((reader, count, False))

    @rule(count=st.integers(0, 40), pause=st.booleans(), timeout=st.sampled_from([1, 30]))
    def upload(self, count: int, pause: bool, timeout: float) -> None:
        deferred = self.world.channel.stream_unary(
            self.of_level(COLLECT), self.requests(count, pause), timeout=timeout
        )
        self.uploads.append((deferred, count))

        def succeeded(value: StringValue) -> None:
            self.results.append((value.value, count))

        def failed(failure: Any) -> None:
            self.results.append((error_of(failure), count))

        deferred.addCallbacks(succeeded, failed)

    def of_level(
        self, method: Method[StringValue, StringValue]
    ) -> Method[StringValue, StringValue]:
        return replace(method, idempotency_level=self.level)

    async def requests(self, count: int, pause: bool) -> AsyncIterator[StringValue]:
        for number in range(count):
            if pause and number % 5 == 4:
                await self.world.sleep(0.3)
            yield text(str(number))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.readers))[0].stream.cancel()

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def cancel_upload(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.uploads))[0].cancel()

    # -- what befalls them ---------------------------------------------------------------------

    @rule(faults=FAULTS)
    def disturb(self, faults: Faults) -> None:
        self.world.network.faults = faults

    @rule(address=st.sampled_from([ADDRESS, PUBLISHER]))
    def cut(self, address: str) -> None:
        self.world.network.cut(address)

    @precondition(lambda self: len(self.servers) < 4)
    @rule(dies=st.booleans())
    def restart(self, dies: bool) -> None:
        """What the old server still runs ends by itself, when it misses its clients."""
        self.servers.append(self.world.server)
        if dies:
            self.world.die()
        else:
            self.world.server.stop(0)
            self.world.network.advance(0)
        self.world.die()
        self.world.serve()

    @rule(seconds=st.sampled_from([0, 0, 0.1, 0.3, 1, 1, 4, 10]))
    def pass_time(self, seconds: float) -> None:
        self.world.network.advance(seconds)

    # -- what holds ----------------------------------------------------------------------------

    @invariant()
    def what_is_read_is_what_was_sent(self) -> None:
        for reader, count, shared in self.readers:
            items = [int(item) for item in reader.items]
            if shared and items:  # late joiners begin later
                assert items == list(range(items[0], items[0] + len(items)))
            else:
                assert items == list(range(len(items)))
            if reader.ended == "well":
                assert not items or items[-1] == count - 1
                assert shared or len(items) == count
            elif isinstance(reader.ended, RpcError):
                lost = {Code.DATA_LOSS} if shared else set[Code]()
                assert reader.ended.code in ANY_STREAM | lost, reader.ended
            elif reader.ended is not None:
                assert isinstance(reader.ended, CancelledError)

    @invariant()
    def uploads_are_whole(self) -> None:
        for result, count in self.results:
            if isinstance(result, str):
                assert result == ",".join(map(str, range(count)))
            else:
                assert isinstance(result, CancelledError) or (
                    isinstance(result, RpcError) and result.code in ANY_STREAM
                ), result

    def teardown(self) -> None:
        # Better times: everything comes to its end.
        self.world.network.faults = Faults()
        self.world.network.advance(200)
        for reader, _, _ in self.readers:
            assert reader.has_ended
        assert len(self.results) == len(self.uploads)
        assert not self.handlers.running
        self.what_is_read_is_what_was_sent()
        self.uploads_are_whole()
        assert not self.world.server.running
        for server in self.servers:
            server.stop(0)
        self.world.close()
        if self.observer is not None:
            assert (self.observer.problems, self.observer.open) == ([], {})
        assert_all_given_back(self.world.channel, self.world.server)
        self.log.__exit__(None, None, None)
        assert not self.logged.failures()


class GameWithPolicies(Game):
    """The same with calls that are made again, and with an observer."""

    observed = True

    service_config = config(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
    level = IdempotencyLevel.IDEMPOTENT


class GameInGroup(GameWithPolicies):
    """The same with shared streams that go to a multicast group."""

    world_type = Group


TestStreams = Game.TestCase
TestStreamsWithPolicies = GameWithPolicies.TestCase
TestStreamsInGroup = GameInGroup.TestCase
for each in (TestStreams, TestStreamsWithPolicies, TestStreamsInGroup):
    each.settings = settings(
        max_examples=examples(30),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
