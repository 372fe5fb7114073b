"""Which attempts a call is made of: retries and hedging.

The rules are those of gRFC A6 (https://github.com/grpc/proposal/blob/master/A6-client-retries.md),
with the jitter of its revision of 2024 (https://github.com/grpc/proposal/pull/452): a delay is
20 % shorter or longer than computed, not a random part of it. Where gRPC's implementations differ,
these are Go's and C-core's.

One rule is stricter than gRPC's: what may have been executed is repeated only where the method is
marked ``idempotency_level = IDEMPOTENT`` or ``NO_SIDE_EFFECTS``, whatever the policy says.

Nothing here sends, waits or knows the time: a channel tells a :class:`AttemptPlan` what happened,
and does what it answers.
"""

from __future__ import annotations

import enum
import re
from random import Random
from typing import Final, NamedTuple, TypeAlias

from txzmq.rpc.errors import Code, RpcError, TrailingMetadata
from txzmq.rpc.metadata import PUSHBACK
from txzmq.rpc.method import IdempotencyLevel
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy, RetryThrottling

__all__ = [
    "AttemptPlan",
    "Decision",
    "GiveUp",
    "Progress",
    "Send",
    "SendAgain",
    "Throttle",
    "Wait",
    "is_repeatable",
    "pushback_of",
]

_MILLISECONDS: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_MAX_INT32: Final = 2**31 - 1
_JITTER: Final = 0.2


def is_repeatable(level: IdempotencyLevel) -> bool:
    """Whether a method may be executed twice."""
    return level is not IdempotencyLevel.IDEMPOTENCY_UNKNOWN


class Progress(enum.Enum):
    """How far a failed attempt had come, as far as the client can prove."""

    #: No endpoint was ready; nothing was sent.
    NOT_PICKED = enum.auto()
    #: An endpoint was chosen, but the request never left.
    NOT_SENT = enum.auto()
    #: The server says that no handler has seen it.
    NOT_EXECUTED = enum.auto()
    #: It may have been executed.
    UNKNOWN = enum.auto()


class Throttle:
    """A channel's tokens: many failures, and calls are not repeated any more.

    Counted in thousandths, so that ten successes at 0.1 make exactly one token.
    """

    __slots__ = ("_gain", "_most", "_tokens")

    def __init__(self, settings: RetryThrottling | None = None) -> None:
        """:param settings: None for the defaults."""
        settings = settings or RetryThrottling()
        self._most = settings.max_tokens * 1000
        # Rounded before it is cut, because 0.29 * 1000 is 289.99...
        self._gain = int(round(settings.token_ratio * 1000, 6))
        self._tokens = self._most

    @property
    def tokens(self) -> float:
        """How many there are."""
        return self._tokens / 1000

    @property
    def allows(self) -> bool:
        """Whether calls may be repeated: more than half of the tokens are there."""
        return self._tokens * 2 > self._most

    def succeeded(self) -> None:
        """An attempt succeeded."""
        if self._tokens < self._most:
            self._tokens = min(self._most, self._tokens + self._gain)

    def failed(self) -> None:
        """An attempt failed in a way that speaks of the server, not of the request."""
        self._tokens = max(0, self._tokens - 1000)


class Send(NamedTuple):
    """Make so many *attempts* now; call :meth:`AttemptPlan.timer` after *then* seconds.

    A timer that was asked for before is off. *then* is None where none is wanted.
    """

    attempts: int
    then: float | None


class Wait(NamedTuple):
    """Call :meth:`AttemptPlan.timer` after *delay* seconds, and not as asked for before.

    Where it is None, no timer is wanted: the attempts on their way will end the call.
    """

    delay: float | None


class GiveUp(NamedTuple):
    """Cancel the attempts on their way, and end the call with *error*."""

    error: RpcError


class SendAgain(NamedTuple):
    """Make an attempt now in place of the one that failed; a timer stays as it is."""


Decision: TypeAlias = Send | SendAgain | Wait | GiveUp


def pushback_of(metadata: TrailingMetadata) -> float | None:
    """What a server's answer says about trying again.

    :return: seconds to wait; below 0 for "do not", which is also what cannot be understood means;
        None where it says nothing.
    """
    values = [value for key, value in metadata if key == PUSHBACK]
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not _MILLISECONDS.fullmatch(value):
        return -1.0
    return int(value) / 1000 if int(value) <= _MAX_INT32 else -1.0


class AttemptPlan:
    """The attempts of one call; the first is on its way when this is made.

    Tell it once how each attempt ended, and when a timer is up that it asked for. After
    :meth:`succeeded`, a :class:`GiveUp`, or when the call was cancelled or its time was up, tell it
    nothing more, cancel the attempts on their way, and forget it.

    :ivar sent: attempts so far, but for those that were repeated because nothing had been executed.
    """

    __slots__ = (
        "_backoff",
        "_error",
        "_may_send",
        "_on_their_way",
        "_policy",
        "_random",
        "_refused",
        "_repeatable",
        "_throttle",
        "sent",
    )

    def __init__(
        self,
        policy: RetryPolicy | HedgingPolicy | None,
        level: IdempotencyLevel,
        throttle: Throttle,
        random: Random,
    ) -> None:
        """
        :param policy: of the method; None for none. Hedging is off where *level* forbids it.
        :param level: of the method.
        :param throttle: the channel's.
        :param random: for the jitter.
        """
        self._repeatable = is_repeatable(level)
        if isinstance(policy, HedgingPolicy) and not self._repeatable:
            policy = None
        self._policy = policy
        self._throttle = throttle
        self._random = random
        self._backoff = policy.initial_backoff if isinstance(policy, RetryPolicy) else 0.0
        self._on_their_way = 1
        self.sent = 1
        #: Whether a server's "not executed" has been answered with an attempt at once.
        self._refused = False
        #: Whether further attempts are allowed: not after a server has forbidden them, where too
        #: little time is left, after what must not be repeated, and after a throttled hedge.
        self._may_send = True
        self._error: RpcError | None = None

    def start(self) -> Decision:
        """What to do besides the first attempt; needed for hedging only."""
        policy = self._policy
        if not isinstance(policy, HedgingPolicy):
            return Wait(None)
        if policy.hedging_delay:
            return Wait(policy.hedging_delay)
        return self._send(policy) if self._can_send(policy) else Wait(None)

    def succeeded(self) -> None:
        """An attempt brought the response: the call is over."""
        self._throttle.succeeded()

    def failed(
        self, error: RpcError, progress: Progress, time_left: float | None = None
    ) -> Decision:
        """An attempt failed.

        :param error: as the caller would see it; its metadata may have a server's pushback.
        :param progress: how far it had come.
        :param time_left: seconds until the call's deadline; None for no deadline. A retry that
            would come later is not waited for: the caller learns at once, and learns the cause.
        """
        pushback = pushback_of(error.metadata)
        if self._is_transparent(error, progress, pushback):
            return SendAgain()
        self._on_their_way -= 1
        self._error = error
        policy = self._policy
        if policy is None:
            return GiveUp(error)
        if isinstance(policy, RetryPolicy):
            may_fail = error.code in policy.retryable_status_codes
        else:
            may_fail = error.code in policy.non_fatal_status_codes
        refused = pushback is not None and pushback < 0
        if (
            may_fail or refused
        ) and progress is not Progress.NOT_PICKED:  # which burdened no server
            self._throttle.failed()
        if refused:
            self._may_send = False
        if not may_fail:
            return GiveUp(error)
        delay = self._delay(policy, pushback)
        too_late = time_left is not None and delay >= time_left
        if too_late or (progress is Progress.UNKNOWN and not self._repeatable):
            self._may_send = False
        if not self._can_send(policy):
            return self._no_more()
        return Wait(delay) if delay else self._send(policy)

    def timer(self) -> Decision:
        """The time is up that a :class:`Send` or :class:`Wait` asked for."""
        policy = self._policy
        assert policy is not None
        if isinstance(policy, HedgingPolicy) and not self._throttle.allows:
            self._may_send = False
        return self._send(policy) if self._may_send else self._no_more()

    def _is_transparent(self, error: RpcError, progress: Progress, pushback: float | None) -> bool:
        """Whether an attempt is made again at once, as if it had not been (gRFC A6, "Transparent").

        A server that refuses a call gets away with it once, and only if it is about to go: one that
        is overloaded (RESOURCE_EXHAUSTED) must not get each call twice.
        """
        if progress is Progress.NOT_SENT:
            return True
        if (
            progress is Progress.NOT_EXECUTED
            and error.code is Code.UNAVAILABLE
            and pushback is None
            and not self._refused
        ):
            self._refused = True
            return True
        return False

    def _can_send(self, policy: RetryPolicy | HedgingPolicy) -> bool:
        return self._may_send and self.sent < policy.max_attempts and self._throttle.allows

    def _no_more(self) -> Decision:
        """No attempt will be made any more; those on their way may still succeed."""
        if self._on_their_way:
            return Wait(None)
        assert self._error is not None
        return GiveUp(self._error)

    def _delay(self, policy: RetryPolicy | HedgingPolicy, pushback: float | None) -> float:
        """Seconds from a failure to the next attempt."""
        if isinstance(policy, HedgingPolicy):
            return max(0.0, pushback or 0.0)
        if pushback is not None:
            self._backoff = policy.initial_backoff
            return max(0.0, pushback)
        backoff = min(self._backoff, policy.max_backoff)
        self._backoff = backoff * policy.backoff_multiplier
        return backoff * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    def _send(self, policy: RetryPolicy | HedgingPolicy) -> Decision:
        if isinstance(policy, RetryPolicy):
            return self._count(1, None)
        rest = policy.max_attempts - self.sent
        delay = policy.hedging_delay
        if not delay:
            return self._count(rest, None)
        return self._count(1, delay if rest > 1 else None)

    def _count(self, count: int, then: float | None) -> Send:
        self.sent += count
        self._on_their_way += count
        return Send(count, then)
