"""Makes the attempts of a call, of whatever kind: the one engine of retries and hedging."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any, Protocol

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
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
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.errors import RpcError
from txzmq.rpc.metadata import PREVIOUS_ATTEMPTS, Metadata
from txzmq.rpc.method import Method
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy

__all__ = ["AttemptOwner", "Attempted", "Attempts", "attempt_head"]


class AttemptOwner(Protocol):
    """What the attempts of one channel's calls share.

    :ivar throttle: the channel's, of all its calls.
    :ivar random: for the jitter of delays.
    :ivar count: counts an event.
    """

    clock: Clock
    throttle: Throttle
    random: Random
    count: Callable[[str], None]


class Attempted(Protocol):
    """A call that is made in attempts."""

    # Any: connections, which only a balancing policy looks at.
    def attempt(self, number: int, used: Collection[Any]) -> None:
        """Make an attempt.

        :param number: which it is, from 1; one that is made in place of another has its number.
        :param used: the connections of attempts that have failed.
        """
        ...

    def attempts_ended(self, error: Exception) -> None:
        """No attempt is made any more, and none is on its way: end with *error*."""
        ...


class Attempts:
    """The attempts of one call: makes those that its plan wants, when it wants them."""

    __slots__ = ("_call", "_hedges", "_owner", "_plan", "_timer", "_used", "made")

    def __init__(
        self,
        owner: AttemptOwner,
        # Any: a channel has calls of any methods.
        method: Method[Any, Any],
        policy: RetryPolicy | HedgingPolicy | None,
        call: Attempted,
    ) -> None:
        """
        :param policy: None for a call that is made again only where a server has refused it
            without having begun with it.
        """
        self._owner = owner
        # None when it has ended: each has the other, and neither is to wait for the collector.
        self._call: Attempted | None = call
        self._hedges = isinstance(policy, HedgingPolicy)
        self._plan = AttemptPlan(policy, method.idempotency_level, owner.throttle, owner.random)
        self._timer: ResettableTimer | None = None
        self._used: list[Any] = []
        #: How many attempts were made here; a first one that was made before is not among them.
        self.made = 0

    def start(self) -> None:
        """Make the first attempt, and what the policy wants besides."""
        match self._plan.start():
            case Send(attempts, then):
                self._do(Send(attempts + 1, then))
            case wait:
                self._do(wait)
                self._send(1)

    def failed(
        self,
        error: RpcError,
        progress: Progress,
        connection: object,
        deadline: float | None,
        number: int | None = None,
    ) -> None:
        """An attempt has failed: make another one, now or after a while, or have the call give up.

        :param progress: how far it had come.
        :param connection: that had it; None if none had.
        :param deadline: when another one would have to have succeeded.
        :param number: of the attempt; None for the last one.
        """
        if connection is not None:
            self._used.append(connection)
        owner, plan = self._owner, self._plan
        left = None if deadline is None else max(0.0, deadline - owner.clock.seconds())
        decision = plan.failed(error, progress, left)
        if isinstance(decision, SendAgain):
            owner.count("sent again")
            self._attempt(number or plan.sent)
        else:
            self._do(decision)

    def note_used(self, connection: object) -> None:
        """An attempt went to a connection, and may still fail."""
        self._used.append(connection)

    def succeeded(self) -> None:
        """An attempt has brought a response, or something of it."""
        self._plan.succeeded()

    def stop(self) -> None:
        """The call has ended: make no more attempts."""
        self._call = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()

    def _do(self, decision: Decision) -> None:
        match decision:
            case Send(attempts, then):
                self._set_timer(then)
                last = self._plan.sent
                for number in range(last - attempts + 1, last + 1):
                    self._send(number)
            case Wait(delay):
                self._set_timer(delay)
            case GiveUp(error):
                if self._call is not None:
                    self._call.attempts_ended(error)
            case SendAgain():
                raise AssertionError("only a failed attempt is sent again")

    def _send(self, number: int) -> None:
        if number > 1 and self._call is not None:
            self._owner.count("hedge" if self._hedges else "retry")
        self._attempt(number)

    def _attempt(self, number: int) -> None:
        if self._call is not None:
            self.made += 1
            self._call.attempt(number, self._used)

    def _set_timer(self, delay: float | None) -> None:
        if delay is not None:
            if self._timer is None:
                self._timer = ResettableTimer(self._owner.clock, self._time_is_up)
            self._timer.start(delay)
        elif self._timer is not None:
            self._timer.stop()

    def _time_is_up(self) -> None:
        self._do(self._plan.timer())


def attempt_head(head: RequestHead, metadata: Metadata, number: int) -> RequestHead:
    """The header of an attempt: it says how many there were before.

    :param metadata: of the call.
    """
    if number == 1:
        return head
    # What a relay's caller says of its own attempts is no longer so.
    others = [pair for pair in metadata if pair[0] != PREVIOUS_ATTEMPTS]
    return head._replace(metadata=(*others, (PREVIOUS_ATTEMPTS, str(number - 1))))
