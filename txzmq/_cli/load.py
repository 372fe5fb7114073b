"""Calls at a rate, or so many at once, and what became of them.

*Closed* load has so many calls in flight: one that ends makes room for the next, so that a slow
server gets fewer. *Open* load begins calls by a schedule, whatever the answers do, and a call's
latency counts from when it was due, not from when it was sent: what waits because others are slow
is seen (else there is *coordinated omission*).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from txzmq._cli.latencies import Latencies
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc.errors import Code, RpcError

__all__ = ["Load", "Plan", "Tally"]

#: Seconds between two looks at the schedule, and how much later than due a call may begin for that:
#: the reactor's timers wait for whole milliseconds, and one more.
_TICK: Final = 1e-3
_RESOLUTION: Final = 2e-3
#: Calls that begin in one turn of the reactor, so that replies are read between them.
_BURST: Final = 256
#: Seconds until the next call where one could not even be sent, as when there is no server.
_REST: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    :ivar concurrency: how many calls are in flight at most; None for no end.
    :ivar rate: calls a second that begin, for open load; None for closed load.
    :ivar total: how many calls are made; None for no end.
    :ivar seconds: for how long calls begin; None for no end.
    :ivar warm_up: seconds before, in which calls are made and not counted.
    """

    concurrency: int | None
    rate: float | None = None
    total: int | None = None
    seconds: float | None = None
    warm_up: float = 0.0


class Tally:
    """What became of the calls that count.

    :ivar begun: calls that have begun.
    :ivar latencies: of those that have ended well.
    :ivar errors: how many have failed, by code, and the first message of each.
    :ivar cancelled: calls that were in flight when all was ended.
    :ivar not_begun: calls that were due and had not begun by the end.
    :ivar waited: calls that were due when all that may be in flight were.
    :ivar late: seconds that a call began too late because this process was busy, at most.
    :ivar began: when counting began; and when it ended, 0 before.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.latencies = Latencies()
        self.errors: dict[Code, tuple[int, str]] = {}
        self.cancelled = 0
        self.not_begun = 0
        self.waited = 0
        self.late = 0.0
        self.began = 0.0
        self.ended = 0.0

    @property
    def succeeded(self) -> int:
        """Calls that have ended well."""
        return self.latencies.count

    @property
    def failed(self) -> int:
        """Calls that have ended with an error."""
        return sum(count for count, _ in self.errors.values())

    @property
    def seconds(self) -> float:
        """How long it took, from the first call to the last answer."""
        return max(0.0, self.ended - self.began)

    def fail(self, error: RpcError) -> None:
        """Count a call that has failed."""
        count, message = self.errors.get(error.code, (0, error.message))
        self.errors[error.code] = count + 1, message


class Load:
    """Makes calls as a plan says.

    :ivar tally: what became of those that have ended.
    :ivar is_counting: whether the warm-up is over.
    """

    def __init__(
        self,
        clock: Clock,
        plan: Plan,
        call: Callable[[], Deferred[Any]],
        counting: Callable[[], None] = lambda: None,
    ) -> None:
        """
        :param clock: goes only forward.
        :param call: makes a call; the Deferred fires when it has ended, with whatever.
        :param counting: called when the warm-up is over.
        """
        self.tally = Tally()
        self.is_counting = False
        self._clock = clock
        self._seconds = clock.seconds
        self._plan = plan
        self._call = call
        self._tell_counting = counting
        self._in_flight = 0
        # Calls of this phase that have begun, and by the schedule those that were due.
        self._begun = 0
        self._noticed = 0
        # When calls were due that have not begun.
        self._due: deque[float] = deque()
        self._phase_began = 0.0
        self._most = 10**18 if plan.concurrency is None else plan.concurrency
        self._left = 10**18
        self._over = False
        self._cancelled = False
        self._has_ended = False
        self._filling = False
        self._tick = ResettableTimer(clock, self._look)
        self._more = ResettableTimer(clock, self._fill)
        self._phase = ResettableTimer(clock, self._next_phase)
        self._done: Deferred[None] = Deferred()

    @property
    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return self._in_flight

    def start(self) -> Deferred[None]:
        """Begin; fires when all calls have ended.

        It fails with what a call raises that is no RPC error.
        """
        if self._plan.warm_up:
            self._phase_began = self._seconds()
            self._phase.start(self._plan.warm_up)
            self._go()
        else:
            self._next_phase()
        return self._done

    def finish(self) -> None:
        """Begin no more calls, and wait for those in flight."""
        if self._over:
            return
        self._over = True
        for timer in (self._tick, self._more, self._phase):
            timer.stop()
        if self.is_counting:
            self.tally.not_begun = len(self._due)
        self._end_if_done()

    def cancel(self) -> None:
        """Begin no more calls, and count those that are cancelled from now on as such."""
        self._cancelled = True
        self.finish()

    # -- phases ------------------------------------------------------------------------------

    def _next_phase(self) -> None:
        """The warm-up is over, or what comes after it."""
        if self.is_counting:
            if self._plan.rate is not None:
                self._notice(self._phase_began + (self._plan.seconds or 0.0))
                self._fill()
            self.finish()
            return
        self.is_counting = True
        self.tally.began = self._phase_began = self._seconds()
        self._noticed = 0
        # What was due before is still made, and is none of those that follow.
        self._begun = -len(self._due)
        if self._plan.total is not None:
            self._left = self._plan.total
        if self._plan.seconds is not None:
            self._phase.start(self._plan.seconds)
        self._tell_counting()
        self._go()

    def _go(self) -> None:
        if self._plan.rate is None:
            self._fill()
        else:
            self._look()

    # -- the schedule ------------------------------------------------------------------------

    def _look(self) -> None:
        """Begin what is due by now."""
        now = self._seconds()
        self._notice(now)
        self._fill()
        if not self._over:
            assert self._plan.rate is not None
            following = self._phase_began + self._noticed / self._plan.rate
            self._tick.start(max(_TICK, following - now))

    def _notice(self, until: float) -> None:
        rate = self._plan.rate
        assert rate is not None
        now = self._seconds()
        due = self._phase_began + self._noticed / rate
        if self.is_counting and self._noticed < self._left:
            self.tally.late = max(self.tally.late, now - due)
        # Not after the end: a call that is due then is not due any more.
        seconds = self._plan.seconds if self.is_counting else None
        end = self._phase_began + (seconds or float("inf")) - 1e-9
        while due <= until and due < end and self._noticed < self._left:
            self._due.append(min(now, due + _RESOLUTION))
            self._noticed += 1
            due = self._phase_began + self._noticed / rate

    # -- calls -------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin as many calls as there is room for."""
        if self._filling or self._over:
            return
        self._filling = True
        try:
            if self._plan.rate is None:
                self._fill_closed()
            else:
                self._fill_open()
        finally:
            self._filling = False
        self._end_if_done()

    def _fill_closed(self) -> None:
        while self._in_flight < self._most and self._begun < self._left:
            if self._more.is_running:
                return  # one has failed without being sent
            self._begin(self._seconds())

    def _fill_open(self) -> None:
        for _ in range(_BURST):
            if not self._due or self._more.is_running:
                return
            if self._in_flight >= self._most:
                if self.is_counting:
                    self.tally.waited = max(self.tally.waited, len(self._due))
                return
            due = self._due.popleft()
            if self.is_counting and self._plan.concurrency is None:
                self.tally.late = max(self.tally.late, self._seconds() - due)
            self._begin(due)
        if self._due:
            self._more.start(0.0)

    def _begin(self, due: float) -> None:
        self._in_flight += 1
        self._begun += 1
        if self.is_counting and due >= self.tally.began:
            self.tally.begun += 1
        try:
            call = self._call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the load
            call = fail(error)
        call.addCallbacks(self._succeeded, self._failed, callbackArgs=(due,), errbackArgs=(due,))

    def _succeeded(self, _: object, due: float) -> None:
        self._in_flight -= 1
        if self.is_counting and due >= self.tally.began:
            self.tally.latencies.add(self._seconds() - due)
        if self._over:
            self._end_if_done()
        else:
            self._fill()

    def _failed(self, failure: Failure, due: float) -> None:
        self._in_flight -= 1
        error = cast("object", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        counts = self.is_counting and due >= self.tally.began
        if isinstance(error, RpcError):
            if counts:
                self.tally.fail(error)
        elif self._cancelled and isinstance(error, CancelledError):
            self.tally.cancelled += counts
        elif not self._done.called:
            self._done.errback(failure)
            self.cancel()
        if self._filling:
            if self._plan.rate is None:
                self._more.start(_REST)
        elif self._over:
            self._end_if_done()
        else:
            self._fill()

    def _end_if_done(self) -> None:
        all_begun = self.is_counting and self._begun >= self._left
        if self._in_flight or self._has_ended or not (self._over or all_begun):
            return
        self._has_ended = self._over = True
        for timer in (self._tick, self._more, self._phase):
            timer.stop()
        self.tally.ended = self._seconds()
        if not self.is_counting:
            self.tally.began = self.tally.ended
        if not self._done.called:
            self._done.callback(None)
