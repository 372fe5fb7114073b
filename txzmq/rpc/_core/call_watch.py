"""Tells an observer of the calls of one channel or server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from twisted.logger import Logger

from txzmq._rate_limit import RateLimit
from txzmq._reactor import Clock
from txzmq.rpc.records import CallRecord, StartedCall
from txzmq.rpc.watching import Observer, Observers, Watched

__all__ = ["CallWatch"]

_log = Logger()


def _own(method: Callable[..., Any], base: object) -> Callable[..., Any] | None:
    """A method of an observer; None where it is that of :class:`Observer`, which does nothing."""
    return None if getattr(method, "__func__", None) is base else method


@final
class CallWatch:
    """Tells an observer of calls: each costs what the observer does, and little more."""

    __slots__ = ("_call_ended", "_call_started", "_limit", "_source")

    def __init__(self, clock: Clock, observer: Observer) -> None:
        """Look once, which of the two events it wants."""
        self._call_started = _own(observer.call_started, Observer.call_started)
        self._call_ended = _own(observer.call_ended, Observer.call_ended)
        self._limit = RateLimit(clock)
        # None before the channel or server is made.
        self._source: Watched | None = None

    @classmethod
    def of(
        cls, clock: Clock, observer: Observer | None, also: Observer | None = None
    ) -> CallWatch | None:
        """What tells an observer, after another one; None if neither wants to know of calls."""
        both = [each for each in (also, observer) if each is not None]
        if not both:
            return None
        watch = cls(clock, both[0] if len(both) == 1 else Observers(*both))
        return watch if watch._call_started or watch._call_ended else None

    def start(self, source: Watched) -> None:
        """Tell of calls from now on, also of those that are made when all is closed."""
        self._source = source

    def started(self, call: StartedCall) -> None:
        """A call has begun."""
        tell = self._call_started
        if tell is None or self._source is None:
            return
        try:
            tell(self._source, call)
        except BaseException:  # noqa: BLE001 - whatever an observer raises, the call goes on
            self._log_failure()

    def ended(self, record: CallRecord) -> None:
        """A call has ended."""
        tell = self._call_ended
        if tell is None or self._source is None:
            return
        try:
            tell(self._source, record)
        except BaseException:  # noqa: BLE001 - as above
            self._log_failure()

    def _log_failure(self) -> None:
        """An observer may fail with each call, and must not fill the disk."""
        if not self._limit.take():
            self._limit.suppress()
            return
        missed = self._limit.take_suppressed()
        more = f", and {missed} more since the last such line" if missed else ""
        _log.failure("an observer raised an exception{more}", more=more)
