"""The supervisor of the workers of all addresses: starts, rolls, stops; no process, no socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txzmq._reactor import Clock
from txzmq._serve.control import Failed, Figures, KeysReloaded, ReloadKeys
from txzmq._serve.listener import GivenUp, Launch, Listener
from txzmq._serve.worker_state import Limits, State, Worker

__all__ = ["NotStarted", "Supervisor", "Watching"]

_log = Logger()
#: Seconds that workers have to end when the supervisor is told a second time.
_NOW: Final = 0.0


class NotStarted(Exception):
    """A worker did not become ready when all were started for the first time.

    :ivar traceback: of the user's code; empty without.
    """

    def __init__(self, why: str, traceback: str) -> None:
        super().__init__(why)
        self.traceback = traceback


class Watching:
    """Who is told what a supervisor does; each method does nothing where it is not overridden."""

    def changed(self, supervisor: Supervisor, /) -> None:
        """Something that :attr:`Supervisor.status` tells is another now."""

    def figures(self, worker: Worker, figures: Figures, /) -> None:
        """A worker tells its metrics."""

    def gone(self, worker: Worker, /) -> None:
        """A worker has ended."""

    def imported(self, files: Sequence[str], /) -> None:
        """A worker has imported these files, or has failed to."""


class Supervisor:
    """Keeps a worker ready at each address, until it is stopped.

    :ivar counts: ``restarts``, ``rolls`` and ``rolls_given_up`` so far.
    :ivar is_started: whether all workers have become ready once.
    :ivar is_stopping: whether it has been told to stop, or could not start.
    :ivar is_rolling: whether workers are being replaced.
    :ivar is_reloading: whether workers read the clients' keys again.
    """

    def __init__(
        self,
        clock: Clock,
        addresses: Sequence[str],
        launch: Launch,
        limits: Limits,
        watching: Sequence[Watching],
        random: Random,
    ) -> None:
        self._limits = limits
        self._watching = watching
        self.listeners = [
            Listener(clock, self, launch, limits, number, address, random)
            for number, address in enumerate(addresses, 1)
        ]
        self.counts: Counter[str] = Counter()
        self.is_started = False
        self.is_stopping = False
        self.is_rolling = False
        self.is_reloading = False
        self._ended: Deferred[None] = Deferred()
        self._failure: NotStarted | None = None
        # Whether another roll follows the one that goes on.
        self._rolls_again = False
        # Who waits until all workers but those that serve have ended.
        self._settled: list[Callable[[], None]] = []
        # Workers that have not answered yet whether they have read the keys again.
        self._reloading: dict[Worker, None] = {}

    # -- what it has -------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """Those that have a process."""
        return [worker for listener in self.listeners for worker in listener.workers]

    def number_of(self, state: State) -> int:
        """How many workers are in a state."""
        return sum(worker.state is state for worker in self.workers)

    @property
    def why_not_ready(self) -> str:
        """Empty if clients are served."""
        if self.is_stopping:
            return "the supervisor stops"
        if not self.is_started:
            return "not all workers have been ready yet"
        if not any(listener.is_ready for listener in self.listeners):
            return "no worker is ready"
        return ""

    @property
    def status(self) -> str:
        """What it does, in a few words."""
        ready = f"{sum(each.is_ready for each in self.listeners)} of {len(self.listeners)} ready"
        if self.is_stopping:
            return f"stopping, {len(self.workers)} workers left"
        if not self.is_started:
            return f"starting, {ready}"
        if self.is_rolling:
            return f"rolling, {ready}"
        return ready

    # -- what it is told ---------------------------------------------------------------------

    def run(self) -> Deferred[None]:
        """Start all workers.

        :return: fires when it was stopped and all workers have ended; fails with
            :class:`NotStarted` if one has not become ready.
        """
        for listener in self.listeners:
            listener.start()
        self._changed()
        return self._ended

    def roll(self) -> None:
        """Replace all workers, one after the other; while that is done, once more afterwards.

        If a new worker does not become ready, the roll is given up, and the others stay.
        """
        if self.is_stopping:
            return
        if not self.is_started or self.is_rolling:
            if self.is_rolling and not self._rolls_again:
                _log.info("once this roll has ended, one more follows")
            self._rolls_again = True
            return
        self.is_rolling = True
        self._changed()
        # Nobody waits for it; what it raises is a mistake of ours.
        Deferred.fromCoroutine(self._roll()).addErrback(
            lambda failure: _log.failure("the roll has failed", failure)
        )

    async def _roll(self) -> None:
        while True:
            self._rolls_again = False
            _log.info("rolls: all workers are replaced, one after the other")
            try:
                for listener in self.listeners:
                    await listener.roll()
            except GivenUp as error:
                if not self.is_stopping:
                    self.counts["rolls_given_up"] += 1
                    _log.error(
                        "the roll is given up, and the workers stay that are there: {why}",
                        why=str(error),
                    )
            else:
                self.counts["rolls"] += 1
                _log.info("the roll is done: all workers are new")
            await self._only_current()
            if self.is_stopping or not self._rolls_again:
                break
        self.is_rolling = False
        self._changed()

    def _only_current(self) -> Deferred[None]:
        """Fires when no worker is leaving."""
        settled: Deferred[None] = Deferred()
        self._settled.append(lambda: settled.callback(None))
        self._look_if_settled()
        return settled

    def _look_if_settled(self) -> None:
        if not self.number_of(State.LEAVING):
            settled, self._settled = self._settled, []
            for tell in settled:
                tell()

    def reload_keys(self) -> None:
        """Have all workers read the clients' keys again."""
        if self.is_stopping:
            return
        # Those that start, too: they may have read them just before.
        self._reloading = dict.fromkeys(self.workers)
        self.is_reloading = True
        self._changed()
        for worker in self.workers:
            worker.send(ReloadKeys())
        self._look_if_reloaded()

    def _look_if_reloaded(self) -> None:
        if self.is_reloading and not self._reloading:
            self.is_reloading = False
            self._changed()

    def stop(self) -> None:
        """Drain all workers; told a second time, without grace."""
        grace = _NOW if self.is_stopping else self._limits.grace
        if not self.is_stopping:
            _log.info("stops: all workers drain, for {grace:g} s at most", grace=grace)
        self._stop(grace)

    def _stop(self, grace: float) -> None:
        self.is_stopping = True
        for listener in self.listeners:
            listener.stop(grace)
        self._changed()
        self._look_if_ended()

    def _look_if_ended(self) -> None:
        if self.is_stopping and not self.workers and not self._ended.called:
            if self._failure is None:
                self._ended.callback(None)
            else:
                self._ended.errback(self._failure)

    def _changed(self) -> None:
        for each in self._watching:
            each.changed(self)

    # -- what happens to workers -------------------------------------------------------------

    def worker_ready(self, worker: Worker, files: list[str]) -> None:
        """See :class:`~txzmq._serve.listener.ListenerOwner`."""
        self._imported(files)
        if not self.is_started and all(listener.is_ready for listener in self.listeners):
            self.is_started = True
            _log.info("all workers are ready: {number}", number=len(self.listeners))
            if self._rolls_again:
                self.roll()
        self._changed()

    def worker_gone(self, worker: Worker, why: str) -> None:
        """See :class:`~txzmq._serve.listener.ListenerOwner`."""
        for each in self._watching:
            each.gone(worker)
        failure: Failed | None = worker.failure
        if failure is not None:
            self._imported(failure.files)
        self._answered(worker)
        if not self.is_started and not self.is_stopping and worker.since is None:
            # What is wrong with one is mostly wrong with all.
            trace = "" if failure is None else failure.traceback
            self._failure = NotStarted(why, trace)
            self._stop(_NOW)
        self._look_if_settled()
        self._changed()
        self._look_if_ended()

    def worker_restarts(self) -> None:
        """See :class:`~txzmq._serve.listener.ListenerOwner`."""
        self.counts["restarts"] += 1
        self._changed()

    def _imported(self, files: Sequence[str]) -> None:
        for each in self._watching:
            each.imported(files)

    def keys_reloaded(self, worker: Worker, answer: KeysReloaded) -> None:
        """See :class:`~txzmq._serve.listener.ListenerOwner`."""
        if answer.error:
            _log.error(
                "worker {number} could not reload the clients' keys, and keeps those it has: "
                "{error}",
                number=worker.number,
                error=answer.error,
            )
        elif answer.clients < 0:
            _log.info("worker {number} has no clients' keys to reload", number=worker.number)
        else:
            _log.info(
                "worker {number} has reloaded the clients' keys: it knows {clients} of them",
                number=worker.number,
                clients=answer.clients,
            )
        self._answered(worker)

    def _answered(self, worker: Worker) -> None:
        self._reloading.pop(worker, None)
        self._look_if_reloaded()

    def figures(self, worker: Worker, figures: Figures) -> None:
        """See :class:`~txzmq._serve.listener.ListenerOwner`."""
        for each in self._watching:
            each.figures(worker, figures)
