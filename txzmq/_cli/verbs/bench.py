"""``txzmq bench``: puts load on a method, and says how it bears it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal, TypeAlias, get_args

import click
from google.protobuf.descriptor import MethodDescriptor
from twisted.internet.defer import CancelledError

from txzmq._cli.load import Load, Plan
from txzmq._cli.load_calls import Calls, encoded
from txzmq._cli.load_report import Limits, Report
from txzmq._cli.output import Output
from txzmq._cli.problems import FAILED, Problem
from txzmq._cli.progress import State, show_progress
from txzmq._cli.quantities import (
    LatencyLimit,
    NumberRange,
    duration,
    duration_or_none,
    latency_limits,
)
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target, TypeSources, target_options, type_options
from txzmq._cli.types import find_method, to_method
from txzmq._reactor import monotonic
from txzmq._timer import ResettableTimer
from txzmq.rpc.watching import Count

__all__ = ["command"]

_Format: TypeAlias = Literal["summary", "json", "csv"]
_CONCURRENCY: Final = 50
#: Seconds where neither a number of calls nor a time is given.
_SECONDS: Final = 10.0
_SENT_AGAIN: Final = (Count.RETRY, Count.HEDGE, Count.SENT_AGAIN)


@click.command("bench")
@click.argument("endpoint", metavar="ENDPOINT[,ENDPOINT...]")
@click.argument("method", metavar="PACKAGE.SERVICE/METHOD")
@click.option(
    "-d",
    "--data",
    metavar="DATA",
    help="The request, or several, which are sent in turn; where the method takes a stream, those "
    "of each call. JSON; @ reads standard input, @FILE a file. Without it, the request is empty.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    metavar="NUMBER",
    help=f"Calls that are in flight; {_CONCURRENCY} unless --rps is given. With --rps, no more "
    "than these.",
)
@click.option(
    "-r",
    "--rps",
    type=NumberRange(0, min_open=True, max=1e6),
    metavar="RATE",
    help="Begin so many calls a second, whatever the answers do; latencies count from when a call "
    "was due.",
)
@click.option("-n", "--total", type=click.IntRange(1), metavar="NUMBER", help="Make so many calls.")
@click.option(
    "-z",
    "--duration",
    "seconds",
    callback=duration,
    metavar="DURATION",
    help="Begin calls for so long, such as 30s or 1m30s; 10s where --total is not given. Calls in "
    "flight are waited for.",
)
@click.option(
    "--warm-up",
    callback=duration_or_none,
    default="0",
    metavar="DURATION",
    help="Make calls for so long before, and do not count them.",
)
@click.option(
    "-t",
    "--timeout",
    callback=duration,
    default="20s",
    show_default=True,
    metavar="DURATION",
    help="How long each call may take.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Connections to each endpoint, which calls use in turn.",
)
@click.option(
    "--stream-call-count",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Leave a stream of responses after so many; otherwise it is read to its end.",
)
@click.option(
    "--max-error-rate",
    type=NumberRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="PART",
    help="The part of the calls that may fail; 0.01 is one of a hundred. If more do, the exit "
    "status is 1.",
)
@click.option(
    "--max-latency",
    multiple=True,
    callback=latency_limits,
    metavar="p99=10ms",
    help="What a percentile, mean or max may be at most; otherwise the exit status is 1. May be "
    "given several times.",
)
@click.option(
    "--min-rps",
    type=NumberRange(0),
    metavar="RATE",
    help="Calls a second that have to end well at least; otherwise the exit status is 1.",
)
@click.option(
    "-O",
    "--format",
    "wanted",
    type=click.Choice(get_args(_Format)),
    default="summary",
    show_default=True,
    help="Of the report; csv has percentiles alone.",
)
@target_options
@type_options
@click.pass_obj
def command(
    runtime: Callable[[], Any],
    endpoint: str,
    method: str,
    data: str | None,
    concurrency: int | None,
    rps: float | None,
    total: int | None,
    seconds: float | None,
    warm_up: float,
    timeout: float,
    connections: int,
    stream_call_count: int | None,
    max_error_rate: float,
    max_latency: Sequence[LatencyLimit],
    min_rps: float | None,
    wanted: _Format,
    target: Target,
    sources: TypeSources,
) -> int:
    """Put load on a method, and report how it bears it.

    The exit status is 1 where a limit does not hold; without one, where any call fails. Ctrl-C ends
    the load, and reports what was done.
    """
    if concurrency is None and rps is None:
        concurrency = _CONCURRENCY
    if total is None and seconds is None:
        seconds = _SECONDS
    plan = Plan(concurrency=concurrency, rate=rps, total=total, seconds=seconds, warm_up=warm_up)
    limits = Limits(error_rate=max_error_rate, latencies=max_latency, rps=min_rps)
    metadata = target.metadata()
    made: Runtime = runtime()
    types = sources.from_files() if sources.are_files else None
    output = Output()

    async def run() -> int:
        with ExitStack() as sessions:
            opened = [
                sessions.enter_context(Session(made, endpoint, target)) for _ in range(connections)
            ]
            for session in opened:
                await session.connect_well()
            found = types or sources.of_server(opened[0], target)
            described = await find_method(found, method)
            _check_kind(described, stream_call_count)
            calls = Calls(
                [session.channel for session in opened],
                to_method(described, found.pool),
                await encoded(made, described, found.pool, data),
                timeout=timeout,
                metadata=metadata,
                most_responses=stream_call_count,
            )
            bench = _Bench(made, plan, calls, opened, output)
            try:
                await bench.run()
            except CancelledError:
                bench.cancel()
                bench.report(limits).show_as(wanted, output)
                raise
            report = bench.report(limits)
            report.show_as(wanted, output)
            return FAILED if report.broken else 0

    return made.run(run)


def _check_kind(method: MethodDescriptor, stream_call_count: int | None) -> None:
    if stream_call_count is not None and not method.server_streaming:
        raise Problem(f"--stream-call-count: {method.full_name} has no stream of responses")


class _Bench:
    """The load, and what is read before and after it."""

    def __init__(
        self,
        runtime: Runtime,
        plan: Plan,
        calls: Calls,
        sessions: Sequence[Session],
        output: Output,
    ) -> None:
        self._runtime = runtime
        self._clock = monotonic(runtime.clock)
        self._plan = plan
        self._calls = calls
        self._sessions = sessions
        self._output = output
        self._load = Load(self._clock, plan, calls.call, self._counting)
        self._cpu = runtime.cpu_seconds()
        self._responses = self._sent_again = 0

    def _counting(self) -> None:
        """The warm-up is over."""
        self._cpu = self._runtime.cpu_seconds()
        self._responses = self._calls.responses
        self._sent_again = self._count_sent_again()

    def _count_sent_again(self) -> int:
        counters = [session.channel.counters for session in self._sessions]
        return sum(each[name] for each in counters for name in _SENT_AGAIN)

    async def run(self) -> None:
        left = self._sessions[0].left(None)
        timer = ResettableTimer(self._clock, self.cancel)
        if left is not None:
            timer.start(max(0.0, left))
        stop = show_progress(self._output.beside, self._clock, self._state)
        try:
            await self._load.start()
        finally:
            timer.stop()
            stop()

    def cancel(self) -> None:
        """End it now, with the calls that are in flight."""
        self._load.cancel()
        for session in self._sessions:
            session.channel.close()

    def _state(self) -> State:
        plan, tally = self._plan, self._load.tally
        done = tally.succeeded + tally.failed
        if not self._load.is_counting:
            return State(0.0, "warming up")
        passed = self._clock.seconds() - tally.began
        parts = [
            0.0 if plan.seconds is None else passed / plan.seconds,
            0.0 if plan.total is None else done / plan.total,
        ]
        rate = tally.succeeded / passed if passed > 0 else 0.0
        failed = f"  {tally.failed:,} errors" if tally.failed else ""
        return State(min(1.0, max(parts)), f"{done:,} calls  {rate:,.0f}/s{failed}")

    def report(self, limits: Limits) -> Report:
        """What it has shown, until now."""
        streams = self._calls.are_streams
        return Report(
            method=self._calls.path,
            plan=self._plan,
            tally=self._load.tally,
            limits=limits,
            responses=self._calls.responses - self._responses if streams else None,
            cpu=self._runtime.cpu_seconds() - self._cpu,
            sent_again=self._count_sent_again() - self._sent_again,
        )
