"""One worker process as its supervisor sees it: what it was told, and how long it may take."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import Final, Protocol

from txzmq._reactor import Clock
from txzmq._serve.control import (
    Drain,
    Draining,
    Failed,
    Figures,
    HandOver,
    KeysReloaded,
    Message,
    Ping,
    Pong,
    Ready,
)
from txzmq._timer import ResettableTimer

__all__ = ["Exit", "Limits", "Process", "State", "Worker", "WorkerOwner"]

#: Seconds that a worker has to end after its grace.
OVER_GRACE: Final = 5.0
#: Seconds that a worker which is aborted has to say where it stood.
_LAST_WORDS: Final = 2.0
#: How often within its time limit a worker is asked whether its reactor turns.
_ASKED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long workers may take, in seconds.

    :ivar grace: for calls to end, when a worker ends.
    :ivar start: until it is ready.
    :ivar silence: its reactor may stand still; 0 for any time.
    """

    grace: float = 10.0
    start: float = 60.0
    silence: float = 60.0


class Exit(str):
    """How a process has ended, in words: ``exit status 3``, ``signal SIGKILL``."""

    __slots__ = ()


class Process(Protocol):
    """A process of the system."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def send(self, message: Message, /) -> None:
        """Write to it; nothing happens if it has ended."""
        ...

    def signal(self, number: signal.Signals, /) -> None:
        """Send a signal; nothing happens if it has ended."""
        ...


class State(enum.Enum):
    """Of a worker."""

    STARTING = "starting"
    READY = "ready"
    #: It takes no more calls, or no more clients.
    LEAVING = "leaving"
    GONE = "gone"


class WorkerOwner(Protocol):
    """Who is told what happens to a worker."""

    def worker_ready(self, worker: Worker, files: list[str], /) -> None:
        """It takes calls."""
        ...

    def worker_drains(self, worker: Worker, /) -> None:
        """It drains without having been told to."""
        ...

    def worker_gone(self, worker: Worker, why: str, /) -> None:
        """Its process has ended."""
        ...

    def keys_reloaded(self, worker: Worker, answer: KeysReloaded, /) -> None:
        """It has read the clients' keys again."""
        ...

    def figures(self, worker: Worker, figures: Figures, /) -> None:
        """It tells its metrics."""
        ...


class Worker:
    """A worker process, from its start to its end.

    :ivar number: that of its address, from 1.
    :ivar slot: which of the places of its address it has, 0 or 1.
    :ivar failure: what it has said of why it cannot serve.
    :ivar since: when it became ready; None if it has not.
    """

    def __init__(
        self, clock: Clock, owner: WorkerOwner, limits: Limits, number: int, slot: int
    ) -> None:
        self._clock = clock
        self._owner = owner
        self._limits = limits
        self.number = number
        self.slot = slot
        self.state = State.STARTING
        self.failure: Failed | None = None
        self.since: float | None = None
        self._process: Process | None = None
        # What happens if it does not do in time what is expected of it.
        self._timer = ResettableTimer(clock, self._too_late)
        self._due = 0.0
        self._heard = 0.0
        self._pings = ResettableTimer(clock, self._ask)
        # Why it was killed, if it was.
        self._reason = ""
        self._is_aborted = False

    @property
    def pid(self) -> int:
        """Of its process; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    def started(self, process: Process) -> None:
        """This is its process."""
        self._process = process
        self._wait(self._limits.start)

    # -- what it is told ---------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Write to it, if it is there."""
        if self._process is not None and self.state is not State.GONE:
            self._process.send(message)

    def drain(self, grace: float) -> None:
        """Have it take no more calls, and end; a second time, within a shorter grace."""
        self._leave(Drain(grace=grace), grace)

    def hand_over(self, grace: float) -> None:
        """Have it send its clients to another worker, and end."""
        self._leave(HandOver(grace=grace), grace)

    def _leave(self, message: Message, grace: float) -> None:
        if self._process is None or self.state is State.GONE:
            return
        if self.state is State.STARTING:
            # It may be in the middle of an import, where it reads no messages.
            self._process.signal(signal.SIGTERM)
        else:
            self._process.send(message)
        is_first = self.state is not State.LEAVING
        self.state = State.LEAVING
        self._pings.stop()
        if not self._reason and (
            is_first or self._clock.seconds() + grace + OVER_GRACE < self._due
        ):
            self._wait(grace + OVER_GRACE)

    # -- how long it takes -------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        self._due = self._clock.seconds() + seconds
        self._timer.start(seconds)

    def _too_late(self) -> None:
        if self._is_aborted or self.state is State.LEAVING:
            self._kill(self._reason or "it did not end within its grace")
        else:
            self._abort(f"it was not ready within {self._limits.start:g} s")

    def _abort(self, reason: str) -> None:
        """Have it say where it stands, and end."""
        assert self._process is not None, "it has started"
        self._reason = reason
        self._is_aborted = True
        self._process.signal(signal.SIGABRT)
        self._wait(_LAST_WORDS)

    def _kill(self, reason: str) -> None:
        assert self._process is not None, "it has started"
        self._reason = reason
        self._process.signal(signal.SIGKILL)

    def _ask(self) -> None:
        silence = self._clock.seconds() - self._heard
        if silence >= self._limits.silence:
            self._abort(f"its reactor stood still for {silence:.0f} s")
        else:
            self.send(Ping())
            self._pings.start(self._limits.silence / _ASKED)

    # -- what it says ------------------------------------------------------------------------

    def received(self, message: Message) -> None:
        """It has said something."""
        if self.state is State.GONE:
            return
        self._heard = self._clock.seconds()
        if isinstance(message, Ready):
            self._ready(message)
        elif isinstance(message, Failed):
            self.failure = message
        elif isinstance(message, Draining):
            if self.state is State.READY:
                self._drains()
        elif isinstance(message, KeysReloaded):
            self._owner.keys_reloaded(self, message)
        elif isinstance(message, Figures):
            self._owner.figures(self, message)
        else:
            assert isinstance(message, Pong), f"no worker says {message}"

    def _ready(self, message: Ready) -> None:
        if self.state is not State.STARTING or self._is_aborted:
            return  # it was told to end meanwhile
        self.state = State.READY
        self.since = self._clock.seconds()
        self._timer.stop()
        if self._limits.silence:
            self._pings.start(self._limits.silence / _ASKED)
        self._owner.worker_ready(self, message.files)

    def _drains(self) -> None:
        self.state = State.LEAVING
        self._pings.stop()
        self._wait(self._limits.grace + OVER_GRACE)
        self._owner.worker_drains(self)

    def exited(self, how: Exit) -> None:
        """Its process has ended."""
        if self.state is State.GONE:
            return
        self.state = State.GONE
        self._timer.stop()
        self._pings.stop()
        why = f"{how}: {self._reason}" if self._reason else how
        if self.failure is not None:
            why = self.failure.why
        self._owner.worker_gone(self, why)
