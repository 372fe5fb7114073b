"""Calls that are made of several attempts: retries and hedging."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

from txzmq._reactor import Clock, Timer
from txzmq.rpc._client.call import Call, CallBook, Carrier, end_of
from txzmq.rpc._client.retry_policy import (
    PREVIOUS_ATTEMPTS,
    CallAttempts,
    Decision,
    Fate,
    GiveUp,
    Send,
    SendAgain,
    Throttle,
    Wait,
    is_repeatable,
)
from txzmq.rpc._wire.headers import REQUEST_KEY_SIZE, RequestHead, ResponseHead
from txzmq.rpc.client import ResponseMetadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import RpcError
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy

__all__ = ["AttemptsOwner", "RepeatedCall", "StreamAttempts", "fate_of"]


class AttemptsOwner:
    """What the repeated calls of one channel share."""

    def __init__(
        self,
        book: CallBook,
        clock: Clock,
        throttle: Throttle,
        random: Random,
        start: Callable[[Call], None],
        count: Callable[[str], None],
    ) -> None:
        """
        :param start: gives an attempt to a connection.
        :param count: told of what is worth counting.
        """
        self.book = book
        self.clock = clock
        self.throttle = throttle
        self.random = random
        self.start = start
        self.count = count


class _Attempt(Call):
    """One attempt of a call; nothing sends it again but the call."""

    __slots__ = ("answered", "number", "unexecuted")

    #: Whether a server has said why it failed.
    answered: bool
    #: Which of the call's attempts it is, from 1.
    number: int
    #: Whether that server had not begun with it.
    unexecuted: bool

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        self.answered = True
        self.unexecuted = head.not_executed
        self.fail(error)


def fate_of(call: Call, *, unexecuted: bool) -> Fate:
    """How far an attempt had come when it failed.

    :param unexecuted: whether a server says that it had not begun with it.
    """
    if unexecuted:
        return Fate.NOT_EXECUTED
    return Fate.UNKNOWN if call.counter else Fate.NOT_PICKED


class RepeatedCall:
    """A call with a policy: what its caller waits for, however many attempts it takes."""

    __slots__ = (
        "_attempts",
        "_body",
        "_head",
        "_hedges",
        "_key",
        "_live",
        "_made",
        "_method",
        "_owner",
        "_parent",
        "_response_metadata",
        "_response_size",
        "_timer",
        "_wait_for_ready",
        "deadline",
        "deferred",
        "over",
        "tick",
    )

    def __init__(
        self,
        owner: AttemptsOwner,
        policy: RetryPolicy | HedgingPolicy,
        method: Method[Any, Any],
        head: RequestHead,
        body: bytes,
        deadline: float | None,
        wait_for_ready: bool,
        parent: Context | None,
        response_metadata: ResponseMetadata | None,
        response_size: int,
    ) -> None:
        self._owner = owner
        self._method = method
        self._head = head
        self._body = body
        self.deadline = deadline
        self.tick = 0
        self._wait_for_ready = wait_for_ready
        self._parent = parent
        self._response_metadata = response_metadata
        self._response_size = response_size
        self._hedges = isinstance(policy, HedgingPolicy)
        self._attempts = CallAttempts(
            policy, method.idempotency_level, owner.throttle, owner.random
        )
        # Those on their way. An ordered set.
        self._live: dict[_Attempt, None] = {}
        self._made: list[_Attempt] = []
        # By which a server tells that an attempt is another of a call it knows.
        self._key = b""
        self._timer: Timer | None = None
        self.over = False
        self.deferred = end_of(self._cancelled)

    def start(self) -> None:
        """Make the first attempt, and what the policy wants besides."""
        self._new_key()
        match self._attempts.start():
            case Send(attempts, then):
                self._do(Send(attempts + 1, then))
            case wait:
                self._do(wait)
                self._send(1)

    def give_up(self, error: Exception) -> None:
        """End it whatever the attempts do; they are cancelled."""
        if self._end():
            self.deferred.errback(error)

    def too_late(self) -> None:
        """Its time is up, which its attempts have noticed before."""

    def _new_key(self) -> None:
        if is_repeatable(self._method.idempotency_level):
            self._key = os.urandom(REQUEST_KEY_SIZE)

    def _do(self, decision: Decision) -> None:
        match decision:
            case Send(attempts, then):
                self._set_timer(then)
                for number in range(self._attempts.sent - attempts + 1, self._attempts.sent + 1):
                    if not self.over:
                        self._send(number)
            case Wait(delay):
                self._set_timer(delay)
            case GiveUp(error):
                self.give_up(error)
            case SendAgain():
                raise AssertionError("only a failed attempt is sent again")

    def _send(self, number: int, *, again: bool = False) -> None:
        """Make an attempt, the *number*-th; *again* if one has been made that came to nothing."""
        owner = self._owner
        head = self._head._replace(request_key=self._key)
        if number > 1 and not again:
            owner.count("hedge" if self._hedges else "retry")
        if number > 1:
            previous = (PREVIOUS_ATTEMPTS, str(number - 1))
            head = head._replace(metadata=(*head.metadata, previous))
        wanted = None if self._response_metadata is None else ResponseMetadata()
        attempt = _Attempt(
            owner.book,
            self._method,
            head,
            self._body,
            self.deadline,
            self._wait_for_ready,
            None,
            wanted,
            self._response_size,
        )
        attempt.answered = attempt.unexecuted = False
        attempt.number = number
        if self._made:
            attempt.used = [made.carrier for made in self._made]
            attempt.has_waited(owner.clock.seconds())
        self._made.append(attempt)
        self._live[attempt] = None
        owner.book.begun(attempt)
        attempt.deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,)
        )
        owner.start(attempt)

    def _succeeded(self, response: object, attempt: _Attempt) -> None:
        self._attempts.succeeded()
        self._keep_metadata(attempt)
        if self._end(attempt):
            self.deferred.callback(response)

    # Any: pyright knows a Failure in parts only.
    def _failed(self, failure: Any, attempt: _Attempt) -> None:
        self._live.pop(attempt, None)
        if self.over:
            return
        error: BaseException = failure.value
        self._keep_metadata(attempt)
        if not isinstance(error, RpcError):
            if self._end():
                self.deferred.errback(failure)
            return
        if attempt.answered:
            # So that a server which keeps replies does not give this one to the next attempt.
            self._new_key()
        left = None
        if self.deadline is not None:
            left = max(0.0, self.deadline - self._owner.clock.seconds())
        fate = fate_of(attempt, unexecuted=attempt.unexecuted)
        decision = self._attempts.failed(error, fate, left)
        if isinstance(decision, SendAgain):
            self._owner.count("sent again")
            self._send(attempt.number, again=True)
        else:
            self._do(decision)

    def _keep_metadata(self, attempt: _Attempt) -> None:
        mine, its = self._response_metadata, attempt.response_metadata
        if mine is not None and its is not None:
            mine.initial, mine.trailing = its.initial, its.trailing

    def _set_timer(self, delay: float | None) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if delay is not None:
            self._timer = self._owner.clock.callLater(delay, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._do(self._attempts.timer())

    def _cancelled(self, _: object) -> None:
        self._owner.book.guard.check()
        self._end()  # Twisted fires the Deferred

    def _end(self, winner: _Attempt | None = None) -> bool:
        """Leave nothing behind; whether there was something to end."""
        if self.over:
            return False
        self.over = True
        self._set_timer(None)
        self._owner.book.compound_ended(self)
        if self._parent is not None:
            self._parent.release(self.deferred)
        live, self._live = self._live, {}
        for attempt in live:
            if attempt is not winner:
                attempt.deferred.cancel()
        return True


class StreamAttempts:
    """The attempts of a call that streams, until something of its response is there.

    :ivar used: the connections of those that were made.
    :ivar opened_by: when the next one has to have been answered; None for no such time.
    """

    __slots__ = (
        "_again",
        "_attempts",
        "_before",
        "_metadata",
        "_owner",
        "_timer",
        "opened_by",
        "used",
    )

    def __init__(
        self,
        owner: AttemptsOwner,
        policy: RetryPolicy,
        # Any: a channel has calls of any methods.
        method: Method[Any, Any],
        metadata: Metadata,
        again: Callable[[], None],
    ) -> None:
        """
        :param metadata: of the call.
        :param again: makes another attempt.
        """
        self._owner = owner
        self._attempts = CallAttempts(
            policy, method.idempotency_level, owner.throttle, owner.random
        )
        self._metadata = metadata
        self._again = again
        self._before = 0
        self._timer: Timer | None = None
        self.used: list[Carrier] = []
        self.opened_by: float | None = None

    def failed(
        self, error: RpcError, fate: Fate, carrier: Carrier | None, deadline: float | None
    ) -> bool:
        """An attempt came to nothing.

        :param carrier: the connection that had it.
        :param deadline: when another one would have to have succeeded.
        :return: whether another one is made, now or after a while.
        """
        owner = self._owner
        if carrier is not None:
            self.used.append(carrier)
        left = None if deadline is None else max(0.0, deadline - owner.clock.seconds())
        decision = self._attempts.failed(error, fate, left)
        if isinstance(decision, GiveUp):
            return False
        if isinstance(decision, Wait):
            assert decision.delay is not None, "no attempt is on its way"
            self._timer = owner.clock.callLater(decision.delay, self._time_is_up)
        elif isinstance(decision, Send):
            self._retry()
        else:
            owner.count("sent again")
            self._again()
        return True

    def _time_is_up(self) -> None:
        self._timer = None
        self._attempts.timer()
        self._retry()

    def _retry(self) -> None:
        self._before += 1
        self._owner.count("retry")
        self._again()

    def head(self, head: RequestHead) -> RequestHead:
        """That of the attempt that is made now: it says how many there were before."""
        if not self._before:
            return head
        previous = (PREVIOUS_ATTEMPTS, str(self._before))
        return head._replace(metadata=(*self._metadata, previous))

    def start(self, call: Call) -> None:
        """Give an attempt to a connection."""
        self._owner.start(call)

    def succeeded(self) -> None:
        """Something of the response is there: there will be no other attempt."""
        self._attempts.succeeded()

    def stop(self) -> None:
        """The call has ended."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
