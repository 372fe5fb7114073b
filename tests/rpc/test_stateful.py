"""Clients, servers and a wire that loses, doubles, delays and breaks, in any order of events.

Each call ends once, with the answer to its own request; nothing is executed twice; what is said not
to have been executed was not; and when all is over nothing is left. ``make test-long`` plays many
more games.
"""

from __future__ import annotations

import gc
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from tests.rpc.acting import LEAVES, NESTED, Actor, Crash, Job, answer
from tests.rpc.observing import Calls as Observed
from tests.rpc.service import ECHO, text
from tests.support import Logged, error_of, examples
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    NotFound,
    RpcError,
    Server,
    ServerLimits,
    ServerProceed,
)
from txzmq.testing import Faults, MemoryNetwork, assert_all_given_back
from txzmq.testing._leftovers import leftovers

OUTER, INNER = "inproc://outer", "inproc://inner"
#: Where the channels of the test's own go; a third one is the outer server's, to the inner one.
CHANNELS: list[list[str]] = [[OUTER], [OUTER, INNER]]
LIMITS = ServerLimits(running=4, running_per_peer=3, queued=4, queued_per_peer=3, message_size=1000)
#: What a call may end with beside what any call may, by what its handler does.
CODES: dict[str, set[Code]] = {
    "error": {Code.NOT_FOUND},
    "crash": {Code.UNKNOWN},
    "wrong": {Code.INTERNAL},
    "later": {Code.NOT_FOUND},
    "coroutine": {Code.NOT_FOUND},
    "stubborn": {Code.NOT_FOUND},
    "nested": {Code.ABORTED, Code.CANCELLED},
}
ANY_CALL = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}


class Plan(NamedTuple):
    """A call to make."""

    channel: int
    behaviour: str
    timeout: float | None
    wait_for_ready: bool
    #: What its caller does when it ends.
    then: str


PLANS = st.builds(
    Plan,
    st.integers(0, len(CHANNELS) - 1),
    st.one_of(
        st.sampled_from(LEAVES),
        st.sampled_from(LEAVES),
        st.tuples(st.sampled_from(NESTED), st.sampled_from(LEAVES)).map(" ".join),
    ),
    st.sampled_from([None, None, None, 0.005, 0.3, 2.0, float("inf")]),
    st.booleans(),
    st.sampled_from(["nothing"] * 6 + ["call", "cancel", "cancel", "close", "stop"]),
)


@dataclass(eq=False)
class Call:
    """A call as its caller sees it."""

    name: str
    plan: Plan
    channel: Channel
    deadline: float
    deferred: Deferred[StringValue] | None = None
    cancelled: bool = False
    outcomes: list[object] = field(default_factory=list[object])
    ended_at: float = 0.0


class Calls(RuleBasedStateMachine):
    """Everything that may happen to a call, in any order."""

    #: For variants of the game: what channels and servers are made with besides.
    channel_options: ClassVar[dict[str, Any]] = {}
    server_options: ClassVar[dict[str, Any]] = {}
    #: Whether an observer is told of calls, of all channels and servers.
    observed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.log = Logged()
        # pyright takes no function for a zope interface
        globalLogPublisher.addObserver(self.log.append)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.calls: list[Call] = []
        self.jobs: list[Job] = []
        self.executed: Counter[str] = Counter()
        self.not_executed: set[str] = set()
        self.channels: list[Channel] = []
        self.servers: dict[str, Server] = {}
        self.stopped: dict[str, Deferred[None]] = {}
        self.all_channels: list[Channel] = []
        self.all_servers: list[Server] = []
        self.closed: set[Channel] = set()
        self.problems: list[str] = []
        self.observer = Observed() if self.observed else None

    @initialize(
        seed=st.integers(0, 2**16),
        loss=st.sampled_from([0.0, 0.0, 0.1]),
        duplication=st.sampled_from([0.0, 0.0, 0.2]),
        delay=st.sampled_from([0.0, 0.0, 0.01, 0.3]),
        blocked=st.sampled_from([0.0, 0.0, 0.5]),
    )
    def begin(
        self, seed: int, loss: float, duplication: float, delay: float, blocked: float
    ) -> None:
        self.lossless = not (loss or delay or blocked)
        self.network = MemoryNetwork(
            Faults(seed=seed, loss=loss, duplication=duplication, delay=delay, blocked=blocked)
        )
        self.listen(OUTER)
        self.listen(INNER)
        self.channels = [self.connect(addresses) for addresses in CHANNELS]
        self.nested = self.connect([INNER])

    def listen(self, address: str) -> None:
        actor = Actor(self)
        observer = self.observer
        options = self.server_options
        server = Server(self.network, [actor], limits=LIMITS, observer=observer, **options)
        actor.server = self.servers[address] = server
        self.all_servers.append(server)
        server.listen(address)

    def connect(self, addresses: list[str]) -> Channel:
        observer = self.observer
        channel = Channel(self.network, addresses, observer=observer, **self.channel_options)
        self.all_channels.append(channel)
        return channel

    @property
    def now(self) -> float:
        return self.network.clock.seconds()

    # -- callers -----------------------------------------------------------------------------

    @rule(plans=st.lists(PLANS, min_size=1, max_size=4), run=st.sampled_from([True, True, False]))
    def call(self, plans: list[Plan], run: bool) -> None:
        for plan in plans:
            self.make(plan)
        if run:
            self.network.run()

    def make(self, plan: Plan) -> None:
        timeout = 30.0 if plan.timeout is None else plan.timeout
        channel = self.channels[plan.channel]
        name = f"call-{len(self.calls)}"
        call = Call(name, plan, channel, self.now + timeout)
        self.calls.append(call)
        call.deferred = channel.unary_unary(
            ECHO,
            text(f"{name} {plan.behaviour}"),
            timeout=plan.timeout,
            wait_for_ready=plan.wait_for_ready,
        )
        call.deferred.addBoth(self.ended, call)

    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if not call.outcomes]

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancel_call(data.draw(st.sampled_from(self.open_calls()), "call"))

    def cancel_call(self, call: Call) -> None:
        call.cancelled = True
        if call.deferred is not None:  # not where the call is still being made
            call.deferred.cancel()

    def ended(self, result: StringValue | Failure, call: Call) -> None:
        call.outcomes.append(result)
        call.ended_at = self.now
        try:
            self.check(call, result)
        except AssertionError as error:  # the Deferred would keep it
            self.problems.append(f"{call.name}: {error}")
        # Callers do as they like in their callbacks.
        then = call.plan.then
        if then == "call":
            self.make(Plan(0, "later", None, False, "nothing"))
        elif then == "cancel":
            for other in self.open_calls()[:2]:
                self.cancel_call(other)
        elif then == "close":
            self.close_channel(0)
        elif then == "stop":
            self.stop_server(OUTER, 1.0)

    def check(self, call: Call, result: StringValue | Failure) -> None:
        if isinstance(result, StringValue):
            inner = f" answer to {call.name}-inner" if "nested" in call.plan.behaviour else ""
            assert result == answer(f"{call.name}{inner}")
            assert self.executed[call.name] == 1
            return
        error = error_of(result)
        if isinstance(error, CancelledError):
            assert call.cancelled or call.channel in self.closed
            return
        assert isinstance(error, RpcError), error
        own = CODES.get(call.plan.behaviour.split("-")[0], set())
        assert error.code in ANY_CALL | own, error
        if error.code is Code.NOT_FOUND:
            assert error.message == call.name
        if error.code is Code.DEADLINE_EXCEEDED:
            assert self.now >= call.deadline - 0.001
        # A nested call's message comes with ABORTED.
        denied = "not executed" in error.message or "not sent" in error.message
        if denied and error.code is not Code.ABORTED:
            self.not_executed.add(call.name)

    def close_channel(self, index: int) -> None:
        """A channel is closed, and another one takes its place."""
        channel = self.channels[index]
        self.closed.add(channel)
        self.channels[index] = self.connect(CHANNELS[index])
        channel.close()

    # -- handlers ----------------------------------------------------------------------------

    def waiting_jobs(self) -> list[Job]:
        return [
            job
            for job in self.jobs
            if job.behaviour != "never" and job.step is not None and not job.step.called
        ]

    @precondition(lambda self: self.waiting_jobs())
    @rule(data=st.data(), well=st.booleans(), run=st.booleans())
    def finish(self, data: st.DataObject, well: bool, run: bool) -> None:
        self.finish_job(data.draw(st.sampled_from(self.waiting_jobs()), "job"), well)
        if run:
            self.network.run()

    def finish_job(self, job: Job, well: bool) -> None:
        assert job.step is not None
        if well:
            job.step.callback(answer(job.name))
        else:
            job.step.errback(NotFound(job.name))

    def stop_server(self, address: str, grace: float) -> None:
        stopped = self.servers[address].stop(grace)
        self.stopped.setdefault(address, stopped)

    def restart(self) -> None:
        """Where a server has stopped, another one begins."""
        for address, stopped in list(self.stopped.items()):
            if stopped.called:
                del self.stopped[address]
                self.listen(address)

    # -- the wire ----------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([0.0, 0.0, 0.004, 0.15, 0.15, 1.0, 10.0]),
        restart=st.sampled_from([True, True, False]),
    )
    def advance(self, seconds: float, restart: bool) -> None:
        self.network.advance(seconds)
        if restart:
            self.restart()
        if self.lossless:
            # A handler runs for somebody who waits, or does not let itself be cancelled.
            names = {call.name for call in self.calls if self.is_awaited(call)}
            forgotten = [
                job
                for job in self.jobs
                if job.behaviour != "stubborn" and job.name.removesuffix("-inner") not in names
            ]
            assert not forgotten

    def is_awaited(self, call: Call) -> bool:
        # The server's deadline may be a tick later.
        return not call.outcomes or self.now - call.ended_at < 0.005

    @rule(
        what=st.sampled_from(["close", "cut", "cut", "stop"]),
        which=st.sampled_from([0, 1]),
        grace=st.sampled_from([0.0, 0.5, 5.0]),
    )
    def break_something(self, what: str, which: int, grace: float) -> None:
        """Rarer than the rest, or every game would be over before it has begun."""
        address = [OUTER, INNER][which]
        if what == "close":
            self.close_channel(which)
        elif what == "cut":
            self.network.cut(address)
        else:
            self.stop_server(address, grace)

    # -- what must be ------------------------------------------------------------------------

    @invariant()
    def each_call_ends_at_most_once_and_rightly(self) -> None:
        assert not self.problems
        assert all(len(call.outcomes) <= 1 for call in self.calls)

    @invariant()
    def nothing_is_executed_twice_or_against_what_was_said(self) -> None:
        assert all(count == 1 for count in self.executed.values())
        assert not self.not_executed & set(self.executed)

    @invariant()
    def limits_are_kept(self) -> None:
        for server in self.all_servers:
            running = sum(job.server is server for job in self.jobs)
            assert server.running == running <= LIMITS.running
            assert server.queued <= LIMITS.queued

    @invariant()
    def nothing_unexpected_is_logged(self) -> None:
        unexpected = [error for error in self.log.failures() if not isinstance(error, Crash)]
        assert not unexpected

    def teardown(self) -> None:
        try:
            if self.channels:
                self.end()
        finally:
            globalLogPublisher.removeObserver(self.log.append)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def end(self) -> None:
        for call in self.open_calls():
            self.cancel_call(call)
        self.let_all_end()
        # Clients are still known, and the latest id and ping of each.
        left = leftovers(*self.all_channels, *self.all_servers)
        kept = re.compile(r"(_peers|latest|_addresses|_pings): ")
        assert [path for path in left if not kept.search(path)] == [], left

        for channel in self.all_channels:
            self.closed.add(channel)
            channel.close()
        stopped = [server.stop(0.0) for server in self.all_servers]
        self.network.advance(1)
        assert all(deferred.called for deferred in stopped)
        if self.observer is not None:
            assert (self.observer.problems, self.observer.open) == ([], {})
        assert_all_given_back(*self.all_channels, *self.all_servers)
        assert not self.network.clock.getDelayedCalls()

    def let_all_end(self) -> None:
        """Nobody waits any more; only handlers that do not let themselves be cancelled go on."""
        self.network.advance(1)  # what is on its way arrives
        self.network.clock.advance(4_000)  # in one step; more than any deadline
        self.network.advance(31)  # and that of a Cancel
        assert {job.behaviour for job in self.jobs} <= {"stubborn"}
        for _ in range(len(self.calls)):  # one may make another one start
            for job in self.waiting_jobs():
                self.finish_job(job, True)
            self.network.advance(1)
            if not self.jobs and not self.open_calls():
                break
        assert not self.jobs
        assert all(len(call.outcomes) == 1 for call in self.calls)
        self.each_call_ends_at_most_once_and_rightly()
        self.nothing_is_executed_twice_or_against_what_was_said()
        self.limits_are_kept()
        self.nothing_unexpected_is_logged()


async def client_interceptor(call: ClientCall, proceed: ClientProceed) -> Any:
    """Goes on, in a coroutine."""
    return await proceed(call)


def looking_interceptor(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    """Goes on, and has nothing to do with the outcome."""
    return proceed(call)


def server_interceptor(request: Any, context: Context, proceed: ServerProceed) -> Deferred[Any]:
    """Goes on."""
    return proceed(request)


class InterceptedCalls(Calls):
    """The same through interceptors."""

    channel_options: ClassVar[dict[str, Any]] = {"interceptors": [client_interceptor] * 2}
    server_options: ClassVar[dict[str, Any]] = {"interceptors": [server_interceptor]}


class WatchedCalls(Calls):
    """The same through interceptors that leave the outcome alone, and with an observer."""

    observed: ClassVar[bool] = True

    channel_options: ClassVar[dict[str, Any]] = {"interceptors": [looking_interceptor] * 2}


class SingleCalls(Calls):
    """The same with a message for each request and reply, and with an observer."""

    observed: ClassVar[bool] = True

    channel_options: ClassVar[dict[str, Any]] = {"batching": False}
    server_options: ClassVar[dict[str, Any]] = {"batching": False}


PLAYED = settings(
    max_examples=examples(80),
    stateful_step_count=40,
    derandomize=examples(1) == 1,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(name="alone")
def of_no_other_test(logged: Logged) -> None:
    """What earlier tests left for the garbage collector is not logged in the middle of a game."""
    gc.collect()


# What handlers crash with is logged, and the game itself looks at what is.
TestCalls = pytest.mark.usefixtures("logged", "alone")(Calls.TestCase)
TestCalls.settings = PLAYED
TestInterceptedCalls = pytest.mark.usefixtures("logged", "alone")(InterceptedCalls.TestCase)
TestInterceptedCalls.settings = PLAYED
TestWatchedCalls = pytest.mark.usefixtures("logged", "alone")(WatchedCalls.TestCase)
TestWatchedCalls.settings = PLAYED
TestSingleCalls = pytest.mark.usefixtures("logged", "alone")(SingleCalls.TestCase)
TestSingleCalls.settings = PLAYED
