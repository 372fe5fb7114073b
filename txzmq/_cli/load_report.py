"""What a load has shown: for people, for programs, and whether it is good enough."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from txzmq._cli.latencies import Latencies
from txzmq._cli.load import Plan, Tally
from txzmq._cli.output import Output
from txzmq._cli.quantities import LatencyLimit, parse_percentile
from txzmq._cli.units import seconds_of
from txzmq._escape import escaped

__all__ = ["Limits", "Report"]

PERCENTILES: Final = tuple(map(parse_percentile, "p50 p75 p90 p95 p99 p99.9".split()))
#: Those of a file that a program plots.
_FINE: Final = (
    *map(parse_percentile, (f"p{number}" for number in range(1, 100))),
    *map(parse_percentile, ("p99.5", "p99.9", "p99.95", "p99.99", "p99.999", "p100")),
)
_BARS: Final = 10
_WIDTH: Final = 20
#: Seconds that the schedule may be looked at too late, and the share of a core, before it is said.
_LATE: Final = 0.01
_BUSY: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must hold for the exit status to be 0.

    :ivar error_rate: failed calls, of all that have ended, at most.
    :ivar latencies: of the calls that have ended well, at most.
    :ivar rps: calls a second that end well, at least; None for any.
    """

    error_rate: float = 0.0
    latencies: Sequence[LatencyLimit] = ()
    rps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a load has shown.

    :ivar method: its path.
    :ivar responses: of streams; None where a call has one.
    :ivar cpu: seconds of processor that this process took meanwhile.
    :ivar sent_again: requests that the channels sent once more.
    """

    method: str
    plan: Plan
    tally: Tally
    limits: Limits
    responses: int | None
    cpu: float
    sent_again: int

    @property
    def ended(self) -> int:
        """Calls that have ended, well or not."""
        return self.tally.succeeded + self.tally.failed

    @property
    def rps(self) -> float:
        """Calls a second that have ended well."""
        seconds = self.tally.seconds
        return self.tally.succeeded / seconds if seconds else 0.0

    @property
    def error_rate(self) -> float:
        """Failed calls, of all that have ended; 0 where none has."""
        return self.tally.failed / self.ended if self.ended else 0.0

    @property
    def broken(self) -> list[str]:
        """Which limits do not hold, in words."""
        limits, found = self.limits, list[str]()
        if not self.ended:
            found.append("no call has ended")
        if self.error_rate > limits.error_rate:
            found.append(
                f"{_percent(self.error_rate)} of the calls failed, and "
                f"{_percent(limits.error_rate)} may (--max-error-rate)"
            )
        for limit in limits.latencies:
            seconds = _value(self.tally.latencies, limit)
            if seconds > limit.seconds:
                found.append(
                    f"the latency {limit.name} is {seconds_of(seconds)}, above "
                    f"{seconds_of(limit.seconds)} (--max-latency)"
                )
        if limits.rps is not None and self.rps < limits.rps:
            found.append(f"{_rate(self.rps)} calls/s, below {_rate(limits.rps)} (--min-rps)")
        return found

    @property
    def notes(self) -> list[str]:
        """What whoever reads the figures has to know of this process itself."""
        tally, found = self.tally, list[str]()
        if self.plan.rate is not None:
            if tally.late > _LATE:
                found.append(
                    f"this process fell behind its schedule by up to {seconds_of(tally.late)}: "
                    "the latencies have that in them"
                )
            if tally.not_begun:
                found.append(
                    f"{tally.not_begun:,} calls were due and did not begin: instead of "
                    f"{_rate(self.plan.rate)} calls/s, {_rate(self._begun_rate)} did"
                )
            if tally.waited:
                found.append(
                    f"up to {tally.waited:,} calls waited, since {self.plan.concurrency:,} were "
                    "in flight (-c)"
                )
        share = self.cpu / tally.seconds if tally.seconds else 0.0
        if share > _BUSY:
            found.append(
                f"this process was busy for {_percent(share)} of the time, and may be what limits "
                "the rate: a server that could do more needs more processes like it"
            )
        return found

    @property
    def _begun_rate(self) -> float:
        seconds = self.plan.seconds or self.tally.seconds
        return self.tally.begun / seconds if seconds else 0.0

    def show_as(self, form: str, output: Output) -> None:
        """Print it.

        :param form: ``summary``, ``json`` or ``csv``.
        """
        if form == "json":
            output.json(self.json())
        elif form == "csv":
            for line in self.csv():
                output.line(line)
        else:
            self._show(output)
        for note in self.notes:
            output.note(f"note: {note}")
        for broken in self.broken:
            output.error("FAILED:", broken)

    # -- for people --------------------------------------------------------------------------

    def _show(self, output: Output) -> None:
        tally, latencies = self.tally, self.tally.latencies
        took = f" in {seconds_of(tally.seconds)}" if tally.seconds else ""
        output.line(f"calls       {self.ended:,}{took}")
        output.line(f"rate        {_rate(self.rps)} calls/s")
        if self.responses is not None and tally.seconds:
            each = _rate(self.responses / tally.seconds)
            output.line(f"responses   {self.responses:,}, {each} a second")
        share = f" ({_percent(self.error_rate)})" if tally.failed else ""
        output.line(f"errors      {tally.failed:,}{share}", "red" if tally.failed else "")
        for code, (count, message) in sorted(tally.errors.items()):
            output.line(f"  {code.name}  {count:,}  {escaped(message)}")
        if tally.cancelled:
            output.line(f"cancelled   {tally.cancelled:,} that were in flight at the end")
        if self.sent_again:
            output.line(f"sent again  {self.sent_again:,} requests that a server had not taken")
        if latencies.count:
            output.line("latency")
            for name, seconds in self._latencies():
                output.line(f"  {name:<6}{_latency(seconds):>8}")
            output.line("histogram")
            for line in _bars(latencies):
                output.line(line)

    def _latencies(self) -> Iterator[tuple[str, float]]:
        latencies = self.tally.latencies
        yield "mean", latencies.mean
        yield "min", latencies.least
        for each in PERCENTILES:
            yield each.name, latencies.percentile(each.part)
        yield "max", latencies.most

    # -- for programs ------------------------------------------------------------------------

    def json(self) -> str:
        """As an object, with times in seconds."""
        tally, plan = self.tally, self.plan
        # Any: of JSON.
        document: dict[str, Any] = {
            "method": self.method,
            "concurrency": plan.concurrency,
            "target_rps": plan.rate,
            "seconds": tally.seconds,
            "calls": self.ended,
            "succeeded": tally.succeeded,
            "rps": self.rps,
            "error_rate": self.error_rate,
            "errors": {
                code.name: {"count": count, "message": message}
                for code, (count, message) in sorted(tally.errors.items())
            },
            "cancelled": tally.cancelled,
            "not_begun": tally.not_begun,
            "responses": self.responses,
            "sent_again": self.sent_again,
            "latency": dict(self._latencies()) if tally.succeeded else None,
            "histogram": [
                {"seconds": each.seconds, "calls": each.calls}
                for each in tally.latencies.bars(_BARS)
            ],
            "client": {"cpu_seconds": self.cpu, "late_seconds": tally.late, "notes": self.notes},
            "broken": self.broken,
        }
        return json.dumps(document)

    def csv(self) -> Iterator[str]:
        """Lines of percentiles, in seconds."""
        yield "percentile,seconds"
        if self.tally.succeeded:
            for each in _FINE:
                seconds = self.tally.latencies.percentile(each.part)
                yield f"{each.name.removeprefix('p')},{seconds:.9f}"


def _value(latencies: Latencies, limit: LatencyLimit) -> float:
    if limit.percentile is not None:
        return latencies.percentile(limit.percentile.part)
    return latencies.mean if limit.name == "mean" else latencies.most


def _bars(latencies: Latencies) -> Iterator[str]:
    bars = latencies.bars(_BARS)
    most = max(each.calls for each in bars)
    for each in bars:
        # One that has any call is seen.
        length = -(-_WIDTH * each.calls // most)
        yield f"  {_latency(each.seconds):>8} {'#' * length:<{_WIDTH}} {each.calls:,}".rstrip()


def _latency(seconds: float) -> str:
    return seconds_of(seconds) if seconds else "0 s"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:,.3g}"


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
