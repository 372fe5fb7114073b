"""Tells an observer and the log of the changes of one channel or server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from txzmq._escape import escaped
from txzmq._rate_limit import KindLimits, RateLimit
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.call_watch import CallWatch
from txzmq.rpc.watching import (
    Authentication,
    ClientLoss,
    ConnectivityState,
    Count,
    Denial,
    EndpointChange,
    Observer,
    Refusal,
    Watched,
)

__all__ = ["Notifier"]

_log = Logger()
#: The counts that are also logged, since somebody should look into them.
_NOTEWORTHY: Final = frozenset(
    {
        Count.BACKLOG,
        Count.DUPLICATE_REPLY,
        Count.MALFORMED,
        Count.REPLY_TO_NOBODY,
        Count.SHED_REQUEST,
        Count.SLOW_SUBSCRIBER,
        Count.STRAY_SUBSCRIPTIONS,
        Count.UNKNOWN_REPLY,
    }
)


class _EndpointLog:
    """Logs the changes of one endpoint. The last line always has its present state."""

    __slots__ = ("_last", "_limit", "_timer")

    def __init__(self, clock: Clock) -> None:
        self._limit = RateLimit(clock)
        self._last: EndpointChange | None = None
        self._timer = ResettableTimer(clock, self._catch_up)

    def changed(self, change: EndpointChange) -> None:
        """Log a change, now or when there is a token."""
        self._last = change
        if self._timer.is_running:
            self._limit.suppress()
        elif self._limit.take():
            self._write(change)
        else:
            self._limit.suppress()
            self._timer.start(self._limit.wait)

    def _catch_up(self) -> None:
        if self._last is not None and self._limit.take():
            self._write(self._last)

    def _write(self, change: EndpointChange) -> None:
        # The change that is logged now may have been counted among them.
        missed = self._limit.take_suppressed() - 1
        more = f", after {missed} changes that were not logged" if missed > 0 else ""
        write = _log.warn if change.state is ConnectivityState.TRANSIENT_FAILURE else _log.info
        write(
            "{address} is {state}{why}{more}",
            address=change.address,
            state=change.state.name,
            why=f" ({escaped(change.reason)})" if change.reason else "",
            more=more,
        )

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self._timer.stop()


class Notifier:
    """Tells an observer and the log of the changes of one channel or server.

    :ivar calls: tells the observer of calls; None where it does not want to know of them.
    """

    def __init__(
        self, clock: Clock, observer: Observer | None, of_calls: Observer | None = None
    ) -> None:
        """:param of_calls: another one, which is told of calls only."""
        self._clock = clock
        self._observer = observer
        self.calls = CallWatch.of(clock, observer, of_calls)
        # None before the channel or server is made, and after it is closed.
        self._source: Watched | None = None
        # By the address of the endpoint.
        self._logs: dict[str, _EndpointLog] = {}
        # By the name of the count.
        self._limits: dict[str, RateLimit] = {}
        # By user and method.
        self._denials = KindLimits(clock)

    def start(self, source: Watched) -> None:
        """Tell that the channel or server is made, and of its changes from now on."""
        observer = self._observer
        if self.calls is not None:
            self.calls.start(source)
        if observer is not None:
            self._source = source
            self._tell(lambda: observer.started(source))

    def stop(self) -> None:
        """Tell that it is closed, and nothing more."""
        observer, source = self._observer, self._source
        self._source = None
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        if observer is not None and source is not None:
            self._tell(lambda: observer.stopped(source))

    def channel(self, previous: ConnectivityState, state: ConnectivityState) -> None:
        """Tell that the channel's state has changed."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.channel_changed(source, previous, state))

    def endpoint(self, change: EndpointChange) -> None:
        """Tell, and log, that a connection's state has changed."""
        if change.state is ConnectivityState.SHUTDOWN:
            log = self._logs.pop(change.address, None)
            if log is not None:
                log.close()
        elif change.reason or change.state is ConnectivityState.READY:
            log = self._logs.get(change.address)
            if log is None:
                log = self._logs[change.address] = _EndpointLog(self._clock)
            log.changed(change)
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.endpoint_changed(source, change))

    def client_lost(self, address: str, calls: int) -> None:
        """Tell that a client has gone."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            loss = ClientLoss(address=address, calls=calls)
            self._tell(lambda: observer.client_lost(source, loss))

    def authenticated(self, authentication: Authentication) -> None:
        """Tell that a client was let in; who has let it in has logged it."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.authenticated(source, authentication))

    def refused(self, refusal: Refusal) -> None:
        """Tell that a client or a channel was refused; that is logged elsewhere."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.refused(source, refusal))

    def denied(self, denial: Denial, *, is_served: bool) -> None:
        """Tell that a call was denied, and log it if that is the first one of a minute.

        :param is_served: whether the server has the method; all others are of one kind, since who
            calls can think up any number of them.
        """
        left_out = self._denials.take((denial.user, denial.method if is_served else ""))
        if left_out is not None:
            _log.warn(
                "denied {who} a call of {method} ({code}{where}){more}",
                who=escaped(denial.user) or "somebody unknown",
                where=f", from {escaped(denial.address)}" if denial.address else "",
                identity=escaped(denial.user),
                public_key=denial.public_key,
                address=escaped(denial.address),
                method=escaped(denial.method),
                code=denial.code.name,
                reason=escaped(denial.reason),
                more=f"; {left_out} more since the last such line" if left_out else "",
            )
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.denied(source, denial))

    def counted(self, name: str, where: str = "") -> None:
        """Log that something was counted, if it is noteworthy and the rate limit allows it."""
        if name in _NOTEWORTHY:
            where = f" ({where})" if where else ""
            self._warn(name, "dropped: {name}{where}{more}", name=name, where=where)

    def blocked(self, seconds: float, method: str, handler: str, call_id: str) -> None:
        """Log that a handler blocked the reactor, if the rate limit allows it.

        :param method: the path of the handler's method.
        :param handler: what it is called.
        :param call_id: of the call that it served.
        """
        self._warn(
            Count.REACTOR_BLOCKED,
            "the reactor was blocked for {seconds:.1f} s by the handler of {method}{more}",
            seconds=seconds,
            method=method,
            handler=handler,
            call_id=call_id,
        )

    def stood_still(self, seconds: float) -> None:
        """Log that the reactor stood still, and nobody knows why, if the rate limit allows it."""
        self._warn(
            Count.REACTOR_BLOCKED,
            "the reactor stood still for up to {seconds:.1f} s: the process was stopped, or "
            "something else than the start of a handler blocked it{more}",
            seconds=seconds,
        )

    def _warn(self, subject: str, text: str, **values: object) -> None:
        """Log a line about a subject, unless there were too many."""
        limit = self._limits.get(subject)
        if limit is None:
            limit = self._limits[subject] = RateLimit(self._clock)
        if not limit.take():
            limit.suppress()
            return
        missed = limit.take_suppressed()
        more = f", and {missed} more since the last such line" if missed else ""
        _log.warn(text, more=more, **values)

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except BaseException:  # noqa: BLE001 - whatever an observer raises, the channel goes on
            _log.failure("an observer raised an exception")
