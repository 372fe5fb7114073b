"""Signs of life of a server: notices silence, and asks before an endpoint gets calls again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.logger import Logger

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc.liveness import Liveness

__all__ = ["Keepalive", "KeepaliveOwner", "Probe", "ProbeOwner"]

_log = Logger()
#: Looks at the connection per ``ping_interval``: a ping is late by one look at most.
_LOOKS: Final = 4


class KeepaliveOwner(Protocol):
    """A connection that is watched.

    :ivar messages: how many have arrived on it.
    """

    messages: int

    @property
    def waits(self) -> bool:
        """Whether something is waited for on it."""
        ...

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        ...

    def stopped_answering(self) -> None:
        """Nothing has arrived for ``dead_after`` seconds while something was waited for."""
        ...


class Keepalive:
    """Looks at a connection a few times per interval, while something is waited for on it.

    Counting messages is all that it costs per message.

    :ivar idle: whether it has to be started when something is sent.
    """

    __slots__ = (
        "_clock",
        "_due",
        "_liveness",
        "_owner",
        "_period",
        "_seen",
        "_silent",
        "_timer",
        "idle",
    )

    def __init__(self, clock: Clock, liveness: Liveness, owner: KeepaliveOwner) -> None:
        self._clock = clock
        self._liveness = liveness
        self._owner = owner
        self._period = (liveness.ping_interval or 0.0) / _LOOKS
        self._timer = ResettableTimer(clock, self._look)
        # When the next look is due.
        self._due = 0.0
        # How many messages there were at the last look, and looks since then that found no more.
        self._seen = 0
        self._silent = 0
        self.idle = liveness.ping_interval is not None

    def start(self) -> None:
        """Something is waited for from now on."""
        self.idle = False
        self._silent = 0
        self._seen = self._owner.messages
        self._look_later()

    def stop(self) -> None:
        """The connection is gone: leave nothing in the reactor."""
        if self._timer.is_running:
            self._timer.stop()
            self.idle = True

    def _look_later(self) -> None:
        self._due = self._clock.seconds() + self._period
        self._timer.start(self._period)

    def _look(self) -> None:
        owner = self._owner
        if not owner.waits:
            self.idle = True
            return
        late = self._clock.seconds() - self._due
        blocked = late > self._period
        if blocked:
            _log.warn("the reactor was blocked for {late:.1f} s", late=late)
        if owner.messages != self._seen:
            self._seen = owner.messages
            self._silent = 0
        elif blocked:
            self._silent = 0  # what arrived meanwhile is still to be read
        else:
            self._silent += 1
        if self._silent * self._period >= self._liveness.dead_after:
            self.idle = True
            owner.stopped_answering()
            return
        self._look_later()
        if self._silent and self._silent % _LOOKS == 0:
            owner.ping()


class ProbeOwner(Protocol):
    """A connection on which a server is probed.

    :ivar messages: how many have arrived on it.
    """

    messages: int

    @property
    def waits_for_probe(self) -> bool:
        """Whether the answer to a probe makes it ready."""
        ...

    def send_probe(self, answered: Callable[[], None]) -> None:
        """Send a ping, and call *answered* with the answer."""
        ...

    def probe_succeeded(self) -> None:
        """The server has answered: it may get calls."""
        ...

    def probe_failed(self) -> None:
        """The server has not answered for ``probe_timeout`` seconds."""
        ...


class Probe:
    """Asks a server that is doubted for a sign of life, before it gets calls again.

    :ivar is_wanted: whether it is doubted.
    """

    __slots__ = ("_liveness", "_messages_then", "_owner", "_timeouts", "_timer", "is_wanted")

    def __init__(self, clock: Clock, liveness: Liveness, owner: ProbeOwner) -> None:
        self._liveness = liveness
        self._owner = owner
        self._timer = ResettableTimer(clock, owner.probe_failed)
        self.is_wanted = False
        # Calls that ran out of time since something arrived, and how much had arrived then.
        self._timeouts = 0
        self._messages_then = 0

    def call_timed_out(self) -> bool:
        """Count a call that ran out of time; whether the server is doubted for it."""
        messages = self._owner.messages
        if messages != self._messages_then:
            self._messages_then = messages
            self._timeouts = 0
        self._timeouts += 1
        if self._timeouts < self._liveness.suspect_after:
            return False
        self._timeouts = 0
        self.is_wanted = True
        return True

    def want(self) -> None:
        """Doubt the server: it has to answer before it gets calls."""
        self.is_wanted = True

    def start(self) -> None:
        """Ask, and wait for the answer."""
        self._timer.start(self._liveness.probe_timeout)
        self._owner.send_probe(self._answered)

    def _answered(self) -> None:
        if self.is_wanted and self._owner.waits_for_probe:
            self.dismiss()
            self._owner.probe_succeeded()

    def dismiss(self) -> None:
        """Do not doubt the server any more."""
        self.is_wanted = False
        self._timer.stop()

    def stop(self) -> None:
        """The connection is gone: leave nothing in the reactor."""
        self._timeouts = 0
        self._timer.stop()
