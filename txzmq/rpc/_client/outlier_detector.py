"""Ejects endpoints whose calls fail (gRFC A50); see :mod:`txzmq.rpc.outlier_detection`.

Nothing here knows the connections of a channel but by what is told of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import sqrt
from random import Random
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._client.call import Call
from txzmq.rpc._client.stream_opening import OpeningCall
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.outlier_detection import OutlierDetection

__all__ = ["Ejectable", "OutlierDetector"]

#: What speaks of the server, and not of the request: Envoy takes these for HTTP's 5xx.
_FAILURES: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)


class Ejectable(Protocol):
    """A connection that can be ejected."""

    def eject(self, why: str) -> None:
        """Give it no calls, until it is readmitted."""
        ...

    def readmit(self) -> None:
        """Give it calls again."""
        ...


class _Record:
    """What is known of one connection."""

    __slots__ = ("ejected_at", "endpoint", "failures", "in_a_row", "successes", "times", "why")

    def __init__(self, endpoint: Ejectable) -> None:
        self.endpoint = endpoint
        # In this interval.
        self.successes = 0
        self.failures = 0
        #: Failures since the last success.
        self.in_a_row = 0
        #: When it was ejected; None if it is not.
        self.ejected_at: float | None = None
        #: Why; empty as long as it never was.
        self.why = ""
        #: How often it was ejected, less the intervals that it did well.
        self.times = 0

    def goes_on_with(self, endpoint: Ejectable) -> None:
        """Another connection to the same server has taken the place of this one."""
        self.endpoint = endpoint

    @property
    def volume(self) -> int:
        """Calls in this interval."""
        return self.successes + self.failures

    def succeeded(self) -> None:
        """A call has ended well."""
        self.successes += 1
        self.in_a_row = 0

    def failed(self) -> None:
        """A call has failed by a fault of the server's."""
        self.failures += 1
        self.in_a_row += 1

    def begin_interval(self) -> None:
        """Count anew."""
        self.successes = self.failures = 0

    def eject(self, now: float) -> None:
        """It is ejected."""
        self.ejected_at = now
        self.in_a_row = 0
        self.times += 1

    def readmit(self) -> None:
        """It is not ejected any more."""
        self.ejected_at = None

    def says(self, why: str) -> None:
        """Why it is ejected."""
        self.why = why

    def did_well(self) -> None:
        """It was not ejected for a whole interval."""
        self.times = max(0, self.times - 1)


class OutlierDetector:
    """Counts how the calls of a channel's connections end, and ejects those that stand out."""

    def __init__(
        self,
        config: OutlierDetection,
        clock: Clock,
        random: Random,
        count: Callable[[str], None],
    ) -> None:
        """:param count: counts an event."""
        self._config = config
        self._clock = clock
        self._random = random
        self._count = count
        self._records: dict[Ejectable, _Record] = {}
        # The calls on their way, each with the connection that has it.
        self._calls: dict[Call, Ejectable] = {}
        self._timer = ResettableTimer(clock, self._look)
        self._closed = False

    def endpoints(self, endpoints: Collection[Ejectable]) -> None:
        """These are the channel's endpoints now."""
        known = self._records
        self._records = {one: known.get(one) or _Record(one) for one in endpoints}
        for one, record in known.items():
            if one not in self._records and record.ejected_at is not None:
                one.readmit()  # it may come back

    def replaced(self, endpoint: Ejectable, successor: Ejectable) -> None:
        """Another connection to the same server has taken the place of one: it is judged on."""
        record = self._records.pop(endpoint, None)
        if record is None:
            return
        record.goes_on_with(successor)
        self._records[successor] = record
        if record.ejected_at is not None:
            successor.eject(record.why)

    def picked(self, call: Call, endpoint: Ejectable) -> None:
        """A call is given to a connection; another one may have had it before."""
        if isinstance(call, OpeningCall):
            return  # of a stream the end counts
        is_new = call not in self._calls
        self._calls[call] = endpoint
        if is_new:
            call.deferred.addBoth(self._ended, call)

    # Any: a response, or a failure.
    def _ended(self, result: Any, call: Call) -> Any:
        endpoint = self._calls.pop(call)
        if isinstance(result, Failure):
            self._outcome(endpoint, cast("BaseException", result.value))  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        else:
            self._outcome(endpoint, None)
        return result

    def stream_ended(self, endpoint: Ejectable, outcome: BaseException) -> None:
        """A stream of responses has ended on a connection, or could not be opened."""
        self._outcome(endpoint, None if isinstance(outcome, StopAsyncIteration) else outcome)

    def _outcome(self, endpoint: Ejectable, error: BaseException | None) -> None:
        """A call to an endpoint has ended, well if *error* is None."""
        record = self._records.get(endpoint)
        if record is None or self._closed or isinstance(error, CancelledError):
            return
        failed = isinstance(error, RpcError) and error.code in _FAILURES
        if failed:
            record.failed()
        else:
            record.succeeded()
        if not self._timer.is_running:
            self._timer.start(self._config.interval)
        limit = self._config.consecutive_errors
        if failed and limit and record.in_a_row >= limit and record.ejected_at is None:
            self._eject(record, f"{record.in_a_row} calls in a row failed")

    # -- at the end of an interval -----------------------------------------------------------

    def _look(self) -> None:
        """See who stands out, and who may come back."""
        now = self._clock.seconds()
        counted = [record for record in self._records.values() if record.volume]
        self._by_success_rate(counted)
        self._by_failure_percentage(counted)
        for record in counted:
            record.begin_interval()
        for record in list(self._records.values()):
            if record.ejected_at is None:
                record.did_well()
            elif now >= record.ejected_at + self._seconds(record):
                record.readmit()
                record.endpoint.readmit()
        # Nothing is left in the reactor while nothing happens.
        if not self._closed and (counted or any(record.times for record in self._records.values())):
            self._timer.start(self._config.interval)

    def _by_success_rate(self, counted: Sequence[_Record]) -> None:
        rule = self._config.success_rate
        if rule is None:
            return
        records = [one for one in counted if one.volume >= rule.request_volume]
        if len(records) < rule.minimum_hosts or not records:
            return
        rates = [one.successes / one.volume for one in records]
        mean = sum(rates) / len(rates)
        deviation = sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))
        least = mean - deviation * rule.stdev_factor / 1000
        for record, rate in zip(records, rates, strict=True):
            if rate < least:
                why = f"{rate:.0%} of its calls succeeded, where {mean:.0%} do on average"
                self._enforce(record, rule.enforcement_percentage, why)

    def _by_failure_percentage(self, counted: Sequence[_Record]) -> None:
        rule = self._config.failure_percentage
        if rule is None:
            return
        records = [one for one in counted if one.volume >= rule.request_volume]
        if len(records) < rule.minimum_hosts:
            return
        for record in records:
            if record.failures * 100 > rule.threshold * record.volume:
                why = f"{record.failures} of its {record.volume} calls failed"
                self._enforce(record, rule.enforcement_percentage, why)

    def _enforce(self, record: _Record, percentage: int, why: str) -> None:
        if record.ejected_at is None and self._random.random() * 100 < percentage:
            self._eject(record, why)

    # -- ejecting ----------------------------------------------------------------------------

    def _eject(self, record: _Record, why: str) -> None:
        if not self._may_eject_another() or self._records.get(record.endpoint) is not record:
            return
        record.eject(self._clock.seconds())
        self._count("ejected")
        seconds = self._seconds(record)
        record.says(f"it gets no calls for {seconds:g} s or more, since {why}")
        record.endpoint.eject(record.why)

    def _seconds(self, record: _Record) -> float:
        """How long an endpoint is ejected."""
        base = self._config.base_ejection_time
        return min(base * record.times, max(base, self._config.max_ejection_time))

    def _may_eject_another(self) -> bool:
        percent, total = self._config.max_ejection_percent, len(self._records)
        if total < 2 or not percent:
            return False
        ejected = sum(record.ejected_at is not None for record in self._records.values())
        return ejected < max(1, total * percent // 100)

    def close(self) -> None:
        """The channel is closed: leave nothing in the reactor."""
        self._closed = True
        self._timer.stop()
