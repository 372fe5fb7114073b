"""gRFC A6 in the long run: what holds for the attempts of any number of calls."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.attempting import AT_ONCE, HEDGE, IDEMPOTENT, PLENTY, RETRY, STEADY, error
from txzmq.rpc import Code, RpcError
from txzmq.rpc._client.retry_policy import (
    AttemptPlan,
    Decision,
    GiveUp,
    Progress,
    Send,
    SendAgain,
    Throttle,
    Wait,
)
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy, RetryThrottling


class Simulation:
    """Calls one after the other, each attempt with what *outcome* says; counts what is sent."""

    def __init__(
        self,
        policy: RetryPolicy | HedgingPolicy,
        throttle: Throttle,
        outcome: Callable[[], tuple[float, RpcError | None, Progress]],
    ) -> None:
        self.policy = policy
        self.throttle = throttle
        self.outcome = outcome
        self.random = Random(7)
        self.sent = self.calls = self.successes = self.failures = 0
        self.most_on_their_way = 0

    def call(self) -> RpcError | None:
        """Make a call, in a time of its own; None for success."""
        self.calls += 1
        call = AttemptPlan(self.policy, IDEMPOTENT, self.throttle, self.random)
        events: list[tuple[float, int, RpcError | None, Progress]] = []
        timer: float | None = None
        now, number, steps = 0.0, 0, 0

        def send(count: int) -> None:
            nonlocal number
            for _ in range(count):
                number += 1
                after, error, progress = self.outcome()
                heapq.heappush(events, (now + after, number, error, progress))
            self.sent += count
            self.most_on_their_way = max(self.most_on_their_way, len(events))

        send(1)
        decision: Decision | None = call.start()
        while True:
            steps += 1
            assert steps < 1000, "it ends"
            match decision:
                case GiveUp(error):
                    return error
                case Send(count, then):
                    send(count)
                    timer = None if then is None else now + then
                case SendAgain():
                    send(1)
                case Wait(delay):
                    timer = None if delay is None else now + delay
                case _:
                    pass
            assert events or timer is not None, "something will happen"
            if timer is not None and (not events or timer <= events[0][0]):
                now, timer = timer, None
                decision = call.timer()
                continue
            now, _, failed, progress = heapq.heappop(events)
            if failed is None:
                call.succeeded()
                self.successes += 1
                return None
            self.failures += 1
            decision = call.failed(failed, progress)


@pytest.mark.parametrize("policy", [RETRY, HEDGE])
def test_a_server_that_always_fails_gets_at_most_1_2_attempts_per_call(
    policy: RetryPolicy | HedgingPolicy,
) -> None:
    simulation = Simulation(policy, Throttle(), lambda: (0.01, error(), Progress.UNKNOWN))
    for _ in range(25):
        assert simulation.call() is not None
    assert simulation.sent <= 1.2 * 25
    for _ in range(1000):
        simulation.call()
    assert simulation.sent <= 1025 + 5


@STEADY
@given(
    st.floats(0, 1),
    st.integers(1, 20),
    st.floats(0.001, 1),
    st.integers(2, 5),
    st.integers(0, 2**32),
)
def test_retries_are_paid_for_by_tokens(
    failing: float, most: int, ratio: float, max_attempts: int, seed: int
) -> None:
    random = Random(seed)

    def outcome() -> tuple[float, RpcError | None, Progress]:
        return 0.01, error() if random.random() < failing else None, Progress.UNKNOWN

    policy = RetryPolicy(
        max_attempts=max_attempts,
        initial_backoff=0.1,
        max_backoff=1.0,
        backoff_multiplier=1.6,
        retryable_status_codes=frozenset({Code.UNAVAILABLE}),
    )
    settings = RetryThrottling(max_tokens=most, token_ratio=ratio)
    simulation = Simulation(policy, Throttle(settings), outcome)
    for _ in range(100):
        simulation.call()
    retries = simulation.sent - simulation.calls
    assert retries <= most / 2 + ratio * simulation.successes + 1e-9
    assert simulation.sent <= max_attempts * simulation.calls


@STEADY
@given(
    st.sampled_from([RETRY, HEDGE, AT_ONCE]),
    st.lists(
        st.tuples(
            st.floats(0, 2),
            st.sampled_from([None, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND]),
            st.sampled_from([None, None, "0", "700", "-1", "x"]),
            st.sampled_from(Progress),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_every_call_ends_once_within_its_attempts(
    policy: RetryPolicy | HedgingPolicy,
    outcomes: list[tuple[float, Code | None, str | None, Progress]],
) -> None:
    script = iter(outcomes)
    unsent = 0

    def outcome() -> tuple[float, RpcError | None, Progress]:
        nonlocal unsent
        after, code, pushback, progress = next(
            script, (0.1, Code.UNAVAILABLE, None, Progress.UNKNOWN)
        )
        if code is None:
            return after, None, progress
        unsent += progress in (Progress.NOT_SENT, Progress.NOT_EXECUTED)
        return after, error(code, pushback), progress

    simulation = Simulation(policy, Throttle(PLENTY), outcome)
    simulation.call()
    assert simulation.sent <= policy.max_attempts + unsent
    assert simulation.most_on_their_way <= policy.max_attempts
    if isinstance(policy, RetryPolicy):
        assert simulation.most_on_their_way == 1
