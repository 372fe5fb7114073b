"""Policies and attempts for the tests of gRFC A6."""

from __future__ import annotations

from random import Random

from hypothesis import settings

from txzmq.rpc import Code, IdempotencyLevel, RpcError
from txzmq.rpc._client.retry_policy import AttemptPlan, Decision, Throttle, Wait
from txzmq.rpc.metadata import PUSHBACK
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy, RetryThrottling

STEADY = settings(derandomize=True, database=None, deadline=None, max_examples=200)
RETRY = RetryPolicy(
    max_attempts=4,
    initial_backoff=0.1,
    max_backoff=0.3,
    backoff_multiplier=2.0,
    retryable_status_codes=frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}),
)
HEDGE = HedgingPolicy(
    max_attempts=3,
    hedging_delay=0.5,
    non_fatal_status_codes=frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}),
)
AT_ONCE = HedgingPolicy(max_attempts=3, non_fatal_status_codes=frozenset({Code.UNAVAILABLE}))
IDEMPOTENT, UNMARKED = IdempotencyLevel.IDEMPOTENT, IdempotencyLevel.IDEMPOTENCY_UNKNOWN
PLENTY = RetryThrottling(max_tokens=1000)


def error(code: Code = Code.UNAVAILABLE, pushback: str | None = None) -> RpcError:
    return RpcError(code, "no", metadata=[] if pushback is None else [(PUSHBACK, pushback)])


def attempts(
    policy: RetryPolicy | HedgingPolicy | None = RETRY,
    level: IdempotencyLevel = IDEMPOTENT,
    throttle: Throttle | None = None,
) -> AttemptPlan:
    return AttemptPlan(policy, level, throttle or Throttle(PLENTY), Random(1))


def delay_of(decision: Decision) -> float:
    assert isinstance(decision, Wait)
    assert decision.delay is not None
    return decision.delay
