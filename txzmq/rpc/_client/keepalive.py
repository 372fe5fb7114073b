"""Notices that a connection is silent while something is waited for on it."""

from __future__ import annotations

from typing import Final, Protocol

from twisted.logger import Logger

from txzmq._reactor import Clock, Timer
from txzmq.rpc.liveness import Liveness

__all__ = ["Heartbeat", "HeartbeatOwner"]

_log = Logger()
#: Looks at the connection per interval: what is done is done so much of it late at most.
_LOOKS: Final = 4


class HeartbeatOwner(Protocol):
    """A connection that is watched.

    :ivar messages: how many have arrived on it.
    """

    messages: int

    @property
    def waits(self) -> bool:
        """Whether something is waited for."""
        ...

    def ping(self) -> None:
        """Ask for a sign of life."""
        ...

    def stopped_answering(self) -> None:
        """There was none."""
        ...


class Heartbeat:
    """Looks at a connection a few times per interval, while something is waited for on it.

    So a message costs no more than to be counted.

    :ivar idle: whether it has to be started when something is sent.
    """

    __slots__ = (
        "_clock",
        "_due",
        "_owner",
        "_period",
        "_seen",
        "_settings",
        "_silent",
        "_timer",
        "idle",
    )

    def __init__(self, clock: Clock, settings: Liveness, owner: HeartbeatOwner) -> None:
        self._clock = clock
        self._settings = settings
        self._owner = owner
        self._period = (settings.ping_interval or 0.0) / _LOOKS
        self._timer: Timer | None = None
        # When it runs.
        self._due = 0.0
        # How many messages there were at the last look.
        self._seen = 0
        # Looks since then that found no more.
        self._silent = 0
        self.idle = settings.ping_interval is not None

    def start(self) -> None:
        """Something is waited for."""
        self.idle = False
        self._silent = 0
        self._seen = self._owner.messages
        self._arm()

    def stop(self) -> None:
        """Leave nothing in the reactor."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self.idle = True

    def _arm(self) -> None:
        self._due = self._clock.seconds() + self._period
        self._timer = self._clock.callLater(self._period, self._look)

    def _look(self) -> None:
        self._timer = None
        owner = self._owner
        if not owner.waits:
            self.idle = True
            return
        late = self._clock.seconds() - self._due
        if late > self._period:
            _log.warn("the reactor was blocked for {late:.1f} s", late=late)
        if owner.messages != self._seen:
            self._seen = owner.messages
            self._silent = 0
        elif late > self._period:
            self._silent = 0  # what has arrived meanwhile is still to be read
        else:
            self._silent += 1
        if self._silent * self._period >= self._settings.dead_after:
            self.idle = True
            owner.stopped_answering()
            return
        self._arm()
        if self._silent and self._silent % _LOOKS == 0:
            owner.ping()
