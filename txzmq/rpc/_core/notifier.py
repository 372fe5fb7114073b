"""Tells an observer, and the log, what happens to one channel or server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from txzmq._reactor import Clock, Timer
from txzmq.rpc.watching import (
    ClientLoss,
    ConnectivityState,
    Count,
    EndpointChange,
    Observer,
    Watched,
)

__all__ = ["Notifier"]

_log = Logger()
#: Lines that may be logged at once about one thing.
_BURST: Final = 4
#: Seconds until there may be another.
_PAUSE: Final = 30.0
#: What is logged when it is counted, for it tells of something that somebody should look at.
_NOTEWORTHY: Final = frozenset(
    {
        Count.BACKLOG,
        Count.DUPLICATE_REPLY,
        Count.MALFORMED,
        Count.REPLY_TO_NOBODY,
        Count.SHED_REQUEST,
        Count.UNKNOWN_REPLY,
    }
)


class _Limit:
    """How many lines may be logged about one thing: some at once, then few."""

    __slots__ = ("_at", "_tokens", "clock", "kept_back")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._tokens = float(_BURST)
        self._at = clock.seconds()
        #: What was not logged since the last line.
        self.kept_back = 0

    def allows(self) -> bool:
        """Take a line, if there is one."""
        now = self.clock.seconds()
        self._tokens = min(_BURST, self._tokens + (now - self._at) / _PAUSE)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def wait(self) -> float:
        """Seconds until the next line; never too few, whatever is lost in rounding."""
        return (1 - self._tokens) * _PAUSE + 0.001


class _Log:
    """The lines about one endpoint. The last of them always tells the state that it is in."""

    __slots__ = ("_last", "_limit", "_logged", "_timer")

    def __init__(self, clock: Clock) -> None:
        self._limit = _Limit(clock)
        self._logged = ConnectivityState.IDLE
        self._last: EndpointChange | None = None
        self._timer: Timer | None = None

    def changed(self, change: EndpointChange) -> None:
        self._last = change
        if self._timer is not None:
            self._limit.kept_back += 1
        elif self._limit.allows():
            self._write(change)
        else:
            self._limit.kept_back += 1
            self._timer = self._limit.clock.callLater(self._limit.wait, self._catch_up)

    def _catch_up(self) -> None:
        self._timer = None
        if self._last is not None and self._limit.allows():
            self._write(self._last)

    def _write(self, change: EndpointChange) -> None:
        missed, self._limit.kept_back = self._limit.kept_back, 0
        # What is logged now is among those that were kept back.
        more = f", after {missed - 1} changes that were not logged" if missed > 1 else ""
        write = _log.warn if change.state is ConnectivityState.TRANSIENT_FAILURE else _log.info
        write(
            "{address} is {state}{why}{more}",
            address=change.address,
            state=change.state.name,
            why=f" ({change.reason})" if change.reason else "",
            more=more,
        )

    def close(self) -> None:
        """Leave nothing in the reactor."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class Notifier:
    """What one channel or server tells of itself."""

    def __init__(self, clock: Clock, observer: Observer | None) -> None:
        self._clock = clock
        self._observer = observer
        # None before it is made, and after it is closed.
        self._source: Watched | None = None
        # By address, and by name: as many as there are endpoints and counts.
        self._logs: dict[str, _Log] = {}
        self._limits: dict[str, _Limit] = {}

    def start(self, source: Watched) -> None:
        """It is made: tell from now on."""
        observer = self._observer
        if observer is not None:
            self._source = source
            self._tell(lambda: observer.started(source))

    def stop(self) -> None:
        """It is closed: tell nothing more."""
        observer, source = self._observer, self._source
        self._source = None
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        if observer is not None and source is not None:
            self._tell(lambda: observer.stopped(source))

    def channel(self, previous: ConnectivityState, state: ConnectivityState) -> None:
        """The channel's state is another."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.channel_changed(source, previous, state))

    def endpoint(self, change: EndpointChange) -> None:
        """A connection's state is another."""
        if change.state is ConnectivityState.SHUTDOWN:
            log = self._logs.pop(change.address, None)
            if log is not None:
                log.close()
        elif change.reason or change.state is ConnectivityState.READY:
            log = self._logs.get(change.address)
            if log is None:
                log = self._logs[change.address] = _Log(self._clock)
            log.changed(change)
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            self._tell(lambda: observer.endpoint_changed(source, change))

    def client_lost(self, address: str, calls: int) -> None:
        """A client has gone."""
        observer, source = self._observer, self._source
        if observer is not None and source is not None:
            loss = ClientLoss(address=address, calls=calls)
            self._tell(lambda: observer.client_lost(source, loss))

    def counted(self, name: str, where: str = "") -> None:
        """Something was counted: log it if it is worth it, and has not been just now."""
        if name not in _NOTEWORTHY:
            return
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = _Limit(self._clock)
        if not limit.allows():
            limit.kept_back += 1
            return
        missed, limit.kept_back = limit.kept_back, 0
        _log.warn(
            "dropped: {name}{where}{more}",
            name=name,
            where=f" ({where})" if where else "",
            more=f", and {missed} since the last of these lines" if missed else "",
        )

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # noqa: BLE001 - whatever an observer raises, the channel goes on
            _log.failure("an observer has failed")
