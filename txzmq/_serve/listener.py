"""One address, and the workers that serve there: one, or two while one takes the other's place."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txzmq._reactor import Clock
from txzmq._serve.control import Figures, KeysReloaded
from txzmq._serve.worker_state import Exit, Limits, Process, State, Worker
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.backoff import Backoff

__all__ = ["GivenUp", "Launch", "Listener", "ListenerOwner"]

_log = Logger()

#: Seconds of the first wait before a worker is started again, and of the longest one.
_FIRST: Final = 0.1
_LONGEST: Final = 30.0
#: Seconds after which a worker counts as one that works: the next wait is a first one again.
_WORKS: Final = 60.0
#: Seconds after which a worker that drains by itself has served: another one is started at once.
_SERVED: Final = 5.0
#: Workers of one address at a time.
_SLOTS: Final = (0, 1)

#: Starts a process for a worker.
#: Raises OSError if the system has none.
Launch = Callable[[Worker], Process]


class GivenUp(Exception):
    """A worker did not take another's place; the message says why."""


class ListenerOwner(Protocol):
    """Who is told what happens to the workers of an address."""

    def worker_ready(self, worker: Worker, files: list[str], /) -> None:
        """One takes calls."""
        ...

    def worker_gone(self, worker: Worker, why: str, /) -> None:
        """One has ended; whether it is started again is decided when this returns."""
        ...

    def worker_restarts(self, /) -> None:
        """One is going to be started in the place of one that has ended."""
        ...

    def keys_reloaded(self, worker: Worker, answer: KeysReloaded, /) -> None:
        """One has read the clients' keys again."""
        ...

    def figures(self, worker: Worker, figures: Figures, /) -> None:
        """One tells its metrics."""
        ...


class Listener:
    """An address and its workers.

    :ivar address: where they listen.
    :ivar workers: those that have a process.
    """

    def __init__(
        self,
        clock: Clock,
        owner: ListenerOwner,
        launch: Launch,
        limits: Limits,
        number: int,
        address: str,
        random: Random,
    ) -> None:
        """:param number: from 1."""
        self._clock = clock
        self._owner = owner
        self._launch = launch
        self._limits = limits
        self._number = number
        self.address = address
        self.workers: list[Worker] = []
        # The one that serves, or starts to; and the one that is to take its place.
        self._current: Worker | None = None
        self._next: Worker | None = None
        self._backoff = Backoff(_FIRST, _LONGEST, random)
        self._restart = ResettableTimer(clock, self._settle)
        self._is_stopping = False
        # Who waits for a new worker, and that, once it is started.
        self._rolling: Deferred[None] | None = None
        self._new: Worker | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a worker takes calls."""
        return any(worker.state is State.READY for worker in self.workers)

    # -- what it is told ---------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker, and another one whenever it ends."""
        self._settle()

    def roll(self) -> Deferred[None]:
        """Have a new worker take the place of the one that serves.

        :return: fires when the new one is ready, and the old one hands over; fails with
            :class:`GivenUp` if it has not become ready.
        """
        assert self._rolling is None, "one at a time"
        rolling = self._rolling = Deferred()
        self._settle()
        return rolling

    def stop(self, grace: float) -> None:
        """Drain, and start no other; may be called again, with a shorter grace."""
        self._is_stopping = True
        self._restart.stop()
        for worker in [*self.workers]:
            worker.drain(grace)
        self._end_roll(GivenUp("the supervisor stops"))

    # -- which workers there are to be -------------------------------------------------------

    def _settle(self) -> None:
        """Start whoever is to run and does not, if there is room."""
        if self._is_stopping or len(self.workers) == len(_SLOTS):
            return
        if self._rolling is not None and self._new is None:
            self._restart.stop()
            self._new = self._started()
            if self._current is None:
                self._current = self._new
            else:
                self._next = self._new
        elif self._current is None and not self._restart.is_running:
            self._current = self._started()

    def _started(self) -> Worker:
        (slot, *_) = (slot for slot in _SLOTS if slot not in [each.slot for each in self.workers])
        worker = Worker(self._clock, self, self._limits, self._number, slot)
        self.workers.append(worker)
        try:
            worker.started(self._launch(worker))
        except OSError as error:
            # Later: nobody expects it to have ended already.
            self._clock.callLater(0, worker.exited, Exit(f"no process could be started: {error}"))
        return worker

    def _end_roll(self, error: GivenUp | None = None) -> None:
        rolling, self._rolling, self._new = self._rolling, None, None
        if rolling is None:
            return
        if error is None:
            rolling.callback(None)
        else:
            rolling.errback(error)

    # -- what happens to them ----------------------------------------------------------------

    def worker_ready(self, worker: Worker, files: list[str]) -> None:
        """See :class:`~txzmq._serve.worker_state.WorkerOwner`."""
        _log.info(
            "worker {number} is ready at {address}: process {pid}",
            **self._which(worker),
        )
        if worker is self._next:
            old, self._current, self._next = self._current, worker, None
            assert old is not None, "there is a next one only where there is one"
            old.hand_over(self._limits.grace)
        self._owner.worker_ready(worker, files)
        if worker is self._new:
            self._end_roll()

    def worker_drains(self, worker: Worker) -> None:
        """See :class:`~txzmq._serve.worker_state.WorkerOwner`: another one is started."""
        _log.info(
            "worker {number} at {address} drains by itself: process {pid}; another one is started",
            **self._which(worker),
        )
        if worker is self._current:
            self._current, self._next = self._next, None
            if self._current is None and not self._is_stopping:
                if self._seconds_of(worker) < _SERVED:
                    self._start_again(worker)
                else:
                    self._owner.worker_restarts()
            self._settle()

    def worker_gone(self, worker: Worker, why: str) -> None:
        """See :class:`~txzmq._serve.worker_state.WorkerOwner`."""
        self.workers.remove(worker)
        was_expected = worker not in (self._current, self._next) or self._is_stopping
        if worker is self._next:
            self._next = None
        elif worker is self._current:
            self._current, self._next = self._next, None
        self._owner.worker_gone(worker, why)
        was_expected = was_expected or self._is_stopping  # of the first start, which has failed
        restarts = self._current is None and not self._is_stopping and not was_expected
        if restarts:
            self._start_again(worker)
        self._tell_end(worker, why, was_expected=was_expected, restarts=restarts)
        self._settle()
        if worker is self._new:
            self._end_roll(GivenUp(f"at {self.address}: {why}"))

    def _start_again(self, worker: Worker) -> None:
        if self._seconds_of(worker) >= _WORKS:
            self._backoff.reset()
        self._restart.start(self._backoff.next())
        self._owner.worker_restarts()

    def _seconds_of(self, worker: Worker) -> float:
        """How long a worker has taken calls."""
        return 0.0 if worker.since is None else self._clock.seconds() - worker.since

    def _tell_end(self, worker: Worker, why: str, *, was_expected: bool, restarts: bool) -> None:
        if was_expected:
            _log.info(
                "worker {number} at {address} has ended: {why}; process {pid}",
                why=why,
                **self._which(worker),
            )
            return
        trace = "" if worker.failure is None else worker.failure.traceback
        _log.error(
            "worker {number} at {address} has ended: {why}; process {pid}{then}{trace}",
            why=why,
            then="; another one is started" if restarts else "",
            trace=f"\n{trace}" if trace else "",
            **self._which(worker),
        )

    def _which(self, worker: Worker) -> dict[str, object]:
        """What a line of the log says of a worker."""
        return {"number": worker.number, "pid": worker.pid, "address": self.address}

    def keys_reloaded(self, worker: Worker, answer: KeysReloaded) -> None:
        """See :class:`~txzmq._serve.worker_state.WorkerOwner`."""
        self._owner.keys_reloaded(worker, answer)

    def figures(self, worker: Worker, figures: Figures) -> None:
        """See :class:`~txzmq._serve.worker_state.WorkerOwner`."""
        self._owner.figures(worker, figures)
