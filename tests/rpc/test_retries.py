"""gRFC A6: which attempts a call is made of, rule by rule."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.attempting import (
    AT_ONCE,
    HEDGE,
    IDEMPOTENT,
    PLENTY,
    RETRY,
    STEADY,
    UNMARKED,
    attempts,
    delay_of,
    error,
)
from txzmq.rpc import Code, IdempotencyLevel, RpcError
from txzmq.rpc._client.retry_policy import (
    AttemptPlan,
    GiveUp,
    Progress,
    Send,
    SendAgain,
    Throttle,
    Wait,
    pushback_of,
)
from txzmq.rpc.metadata import PUSHBACK
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy, RetryThrottling

# -- retries -----------------------------------------------------------------------------------


def test_a_call_is_retried_with_growing_delays_up_to_its_attempts() -> None:
    call = attempts()
    assert call.start() == Wait(None)
    for number, delay in ((2, 0.1), (3, 0.2), (4, 0.3)):
        assert 0.8 * delay <= delay_of(call.failed(error(), Progress.UNKNOWN)) <= 1.2 * delay
        assert call.timer() == Send(1, None)
        assert call.sent == number
    last = error()
    assert call.failed(last, Progress.UNKNOWN) == GiveUp(last)


@STEADY
@given(
    st.floats(1e-9, 1e6),
    st.floats(1e-9, 1e6),
    st.floats(1e-3, 1e8),
    st.integers(2, 60),
    st.integers(),
)
def test_delays_are_those_of_a6(
    initial: float, longest: float, multiplier: float, most: int, seed: int
) -> None:
    policy = RetryPolicy(
        max_attempts=most,
        initial_backoff=initial,
        max_backoff=longest,
        backoff_multiplier=multiplier,
        retryable_status_codes=frozenset({Code.ABORTED}),
    )
    call = AttemptPlan(policy, IDEMPOTENT, Throttle(PLENTY), Random(seed))
    expected = initial
    for _ in range(most - 1):
        expected = min(expected, longest)
        delay = delay_of(call.failed(error(Code.ABORTED), Progress.UNKNOWN))
        assert 0.8 * expected <= delay <= 1.2 * expected * (1 + 1e-9)
        expected *= multiplier
        call.timer()
    assert isinstance(call.failed(error(Code.ABORTED), Progress.UNKNOWN), GiveUp)


def test_delays_differ_from_client_to_client() -> None:
    delays = {
        delay_of(
            AttemptPlan(RETRY, IDEMPOTENT, Throttle(), Random(i)).failed(error(), Progress.UNKNOWN)
        )
        for i in range(100)
    }
    assert len(delays) == 100
    assert min(delays) < 0.083
    assert max(delays) > 0.117


def test_other_codes_end_the_call() -> None:
    wrong = error(Code.INVALID_ARGUMENT)
    throttle = Throttle(RetryThrottling(max_tokens=10))
    assert attempts(throttle=throttle).failed(wrong, Progress.UNKNOWN) == GiveUp(wrong)
    assert throttle.tokens == 10, "it says nothing of the server"


def test_without_a_policy_a_failure_ends_the_call() -> None:
    why = error()
    assert attempts(None).failed(why, Progress.UNKNOWN) == GiveUp(why)
    assert attempts(None).failed(why, Progress.NOT_PICKED) == GiveUp(why)


@pytest.mark.parametrize(("left", "waits"), [(None, True), (0.13, True), (0.07, False)])
def test_a_retry_that_would_be_too_late_is_not_waited_for(left: float | None, waits: bool) -> None:
    assert isinstance(attempts().failed(error(), Progress.UNKNOWN, left), Wait) is waits


# -- at most once ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, RETRY, HEDGE, AT_ONCE])
@STEADY
@given(st.sampled_from(Code), st.sampled_from([None, "0", "7", "-1"]))
def test_what_may_have_been_executed_is_never_repeated_unless_marked(
    policy: RetryPolicy | HedgingPolicy | None, code: Code, pushback: str | None
) -> None:
    if code is Code.OK:
        return
    call = attempts(policy, UNMARKED)
    assert call.start() == Wait(None), "nothing is hedged"
    why = error(code, pushback)
    assert call.failed(why, Progress.UNKNOWN) == GiveUp(why)


@pytest.mark.parametrize("progress", [Progress.NOT_PICKED, Progress.NOT_EXECUTED])
def test_what_was_not_executed_is_retried_whatever_the_method(progress: Progress) -> None:
    shed = error(Code.RESOURCE_EXHAUSTED)
    assert isinstance(attempts(RETRY, UNMARKED).failed(shed, progress), Wait)
    for level in (IdempotencyLevel.NO_SIDE_EFFECTS, IDEMPOTENT):
        assert isinstance(attempts(RETRY, level).failed(shed, Progress.UNKNOWN), Wait)


# -- transparent retries -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, RETRY, HEDGE])
@pytest.mark.parametrize("level", [UNMARKED, IDEMPOTENT])
def test_what_never_left_is_sent_again_and_not_counted(
    policy: RetryPolicy | HedgingPolicy | None, level: IdempotencyLevel
) -> None:
    throttle = Throttle()
    call = attempts(policy, level, throttle)
    for _ in range(20):
        assert call.failed(error(), Progress.NOT_SENT) == SendAgain()
    assert (call.sent, throttle.tokens) == (1, 10)


def test_a_server_that_is_going_may_refuse_once() -> None:
    why, throttle = error(), Throttle()
    call = attempts(None, UNMARKED, throttle)
    assert call.failed(why, Progress.NOT_EXECUTED) == SendAgain()
    assert call.failed(why, Progress.NOT_EXECUTED) == GiveUp(why)
    call = attempts(RETRY, UNMARKED, throttle)
    assert call.failed(why, Progress.NOT_EXECUTED) == SendAgain()
    assert throttle.tokens == 10
    assert isinstance(call.failed(why, Progress.NOT_EXECUTED), Wait)
    assert throttle.tokens == 9


@pytest.mark.parametrize("why", [error(Code.RESOURCE_EXHAUSTED), error(pushback="100")])
def test_an_overloaded_server_does_not_get_each_call_twice(why: RpcError) -> None:
    assert attempts(None, UNMARKED).failed(why, Progress.NOT_EXECUTED) == GiveUp(why)
    assert isinstance(attempts(RETRY, UNMARKED).failed(why, Progress.NOT_EXECUTED), Wait)


# -- pushback ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["0"], 0.0),
        (["1500"], 1.5),
        (["2147483647"], 2147483.647),
        (["2147483648"], -1),
        (["-1"], -1),
        (["007"], -1),
        ([" 7"], -1),
        (["soon"], -1),
        ([""], -1),
        (["1", "1"], -1),
    ],
)
def test_pushback_is_read_as_a6_says(values: list[str], seconds: float | None) -> None:
    metadata = (("x", "1"), *((PUSHBACK, value) for value in values))
    assert pushback_of(metadata) == seconds


def test_a_server_says_when_and_the_backoff_begins_anew() -> None:
    call = attempts()
    call.failed(error(), Progress.UNKNOWN)
    call.timer()
    assert call.failed(error(pushback="2500"), Progress.UNKNOWN) == Wait(2.5)
    call.timer()
    assert delay_of(call.failed(error(), Progress.UNKNOWN)) <= 0.12
    call.timer()
    no_more = call.failed(error(pushback="0"), Progress.UNKNOWN)
    assert isinstance(no_more, GiveUp), "no attempt is left"


def test_a_server_may_say_now_or_never() -> None:
    assert attempts().failed(error(pushback="0"), Progress.UNKNOWN) == Send(1, None)
    never, throttle = error(Code.INTERNAL, "-1"), Throttle()
    assert attempts(throttle=throttle).failed(never, Progress.UNKNOWN) == GiveUp(never)
    assert throttle.tokens == 9, "it counts, whatever the code"


# -- throttling --------------------------------------------------------------------------------


def test_tokens_go_and_come_and_repeating_stops_at_the_half() -> None:
    throttle = Throttle(RetryThrottling(max_tokens=10, token_ratio=0.1))
    for _ in range(4):
        throttle.failed()
        assert throttle.allows
    throttle.failed()
    assert (throttle.tokens, throttle.allows) == (5, False)
    throttle.succeeded()
    assert (throttle.tokens, throttle.allows) == (5.1, True)
    for _ in range(100):
        throttle.failed()
    assert throttle.tokens == 0
    for _ in range(50):
        throttle.succeeded()
    assert (throttle.tokens, throttle.allows) == (5, False), "fifty tenths are five, exactly"
    for _ in range(1000):
        throttle.succeeded()
    assert throttle.tokens == 10


@pytest.mark.parametrize(("ratio", "after"), [(0.29, 0.29), (0.0019, 0.001), (3, 3)])
def test_the_ratio_counts_to_a_thousandth(ratio: float, after: float) -> None:
    throttle = Throttle(RetryThrottling(max_tokens=4, token_ratio=ratio))
    for _ in range(4):
        throttle.failed()
    throttle.succeeded()
    assert throttle.tokens == after


def test_without_tokens_the_failure_is_the_callers_at_once() -> None:
    throttle = Throttle(RetryThrottling(max_tokens=2))
    why = error()
    assert attempts(throttle=throttle).failed(why, Progress.UNKNOWN) == GiveUp(why)
    assert attempts(HEDGE, throttle=throttle).failed(why, Progress.UNKNOWN) == GiveUp(why)


def test_no_endpoint_at_all_takes_no_tokens() -> None:
    throttle = Throttle()
    assert isinstance(attempts(throttle=throttle).failed(error(), Progress.NOT_PICKED), Wait)
    assert throttle.tokens == 10


# -- hedging -----------------------------------------------------------------------------------


def test_hedges_go_out_one_by_one() -> None:
    call = attempts(HEDGE)
    assert call.start() == Wait(0.5)
    assert call.timer() == Send(1, 0.5)
    assert call.timer() == Send(1, None), "the last"
    why = error()
    assert call.failed(why, Progress.UNKNOWN) == Wait(None)
    assert call.failed(why, Progress.UNKNOWN) == Wait(None)
    assert call.failed(why, Progress.UNKNOWN) == GiveUp(why)


def test_all_hedges_at_once() -> None:
    assert attempts(AT_ONCE).start() == Send(2, None)


def test_a_failure_that_is_not_fatal_brings_the_next_hedge_at_once() -> None:
    call = attempts(HEDGE)
    call.start()
    assert call.failed(error(), Progress.UNKNOWN) == Send(1, 0.5)
    assert call.timer() == Send(1, None)


def test_a_fatal_failure_ends_all() -> None:
    call = attempts(HEDGE)
    call.start()
    call.timer()
    why = error(Code.NOT_FOUND)
    assert call.failed(why, Progress.UNKNOWN) == GiveUp(why)


def test_pushback_moves_the_next_hedge_and_the_later_ones() -> None:
    call = attempts(HEDGE)
    call.start()
    assert call.failed(error(pushback="2000"), Progress.UNKNOWN) == Wait(2.0)
    assert call.timer() == Send(1, 0.5)


def test_pushback_may_end_hedging_but_not_what_is_on_its_way() -> None:
    call = attempts(HEDGE)
    call.start()
    call.timer()
    assert call.failed(error(pushback="-1"), Progress.UNKNOWN) == Wait(None)
    last = error()
    assert call.failed(last, Progress.UNKNOWN) == GiveUp(last)


def test_a_throttled_hedge_is_not_sent() -> None:
    throttle = Throttle(RetryThrottling(max_tokens=2))
    throttle.failed()
    assert attempts(AT_ONCE, throttle=throttle).start() == Wait(None)
    call = attempts(HEDGE, throttle=throttle)
    assert call.start() == Wait(0.5)
    assert call.timer() == Wait(None)
    why = error()
    assert call.failed(why, Progress.UNKNOWN) == GiveUp(why)


def test_a_throttled_hedge_after_all_have_failed_ends_the_call() -> None:
    throttle = Throttle(RetryThrottling(max_tokens=4))
    call, why = attempts(HEDGE, throttle=throttle), error(pushback="100")
    call.start()
    assert call.failed(why, Progress.UNKNOWN) == Wait(0.1)
    throttle.failed()
    assert call.timer() == GiveUp(why)
