"""The queue: who waits, who works, and whose lease runs out. It knows no network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from txzmq.rpc import Aborted, InvalidArgument

#: Jobs that one worker may ask for at most.
MOST_ROOM = 1_000


class Job:
    """Something to do, for somebody who waits for it."""

    def __init__(self, number: int, work: str, result: Deferred[str]) -> None:
        self.number = number
        self.input = work
        self.result = result
        #: To how many workers it was given.
        self.attempts = 0


class Worker:
    """A worker as the queue sees it."""

    def __init__(self, give: Callable[[Job], object], lost: Callable[[], object]) -> None:
        self.give = give
        self.lost = lost
        self.room = 0
        #: The jobs that it has, by number.
        self.jobs: dict[int, Job] = {}
        #: Ends its leases; there is one while it has jobs.
        self.timer: Any = None


class JobQueue:
    """Gives jobs to workers that have room, the oldest first, until one has done them."""

    # Any: Twisted types reactors with zope interfaces.
    def __init__(self, clock: Any, lease: float, most_attempts: int) -> None:
        """
        :param lease: seconds in which a worker with jobs has to say something.
        :param most_attempts: how many workers get a job until it fails.
        """
        self.lease = lease
        self._clock = clock
        self._most_attempts = most_attempts
        self._waiting: deque[Job] = deque()
        # In the order in which they get the next job.
        self._workers: deque[Worker] = deque()
        self._last = 0

    @property
    def waiting(self) -> int:
        """How many jobs no worker has."""
        return len(self._waiting)

    def add(self, work: str) -> Job:
        """Queue a job; to cancel its `result` takes it out of the queue.

        Its `result` fails with ``Aborted`` if it was tried too often.
        """
        self._last += 1
        job = Job(self._last, work, Deferred(lambda _: self._forget(job)))
        self._waiting.append(job)
        self._hand_out()
        return job

    def join(self, give: Callable[[Job], object], lost: Callable[[], object]) -> Worker:
        """Take a worker.

        :param give: called with each job that it gets.
        :param lost: called when it has let its leases run out; it has left then.
        """
        worker = Worker(give, lost)
        self._workers.append(worker)
        return worker

    def leave(self, worker: Worker) -> None:
        """Give a worker's jobs to others; does nothing if it has left."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        for job in reversed(worker.jobs.values()):
            self._try_again(job, "the worker was lost")
        worker.jobs.clear()
        self._set_timer(worker)
        self._hand_out()

    def ask(self, worker: Worker, room: int) -> None:
        """A worker can take more jobs.

        :raises InvalidArgument: if it asks for none, or has room for too many.
        """
        if not 1 <= room <= MOST_ROOM - worker.room:
            raise InvalidArgument(f"room for {room} more jobs: from 1, to {MOST_ROOM} in all")
        worker.room += room
        self._hand_out()

    def renew(self, worker: Worker) -> None:
        """A worker lives."""
        self._set_timer(worker)

    def done(self, worker: Worker, number: int, output: str) -> None:
        """A worker gives a result; that of a job which it has not, any more, does not count."""
        if job := self._take_back(worker, number):
            job.result.callback(output)

    def failed(self, worker: Worker, number: int, reason: str) -> None:
        """A worker cannot do a job; another one may."""
        if job := self._take_back(worker, number):
            self._try_again(job, reason)
            self._hand_out()

    def _take_back(self, worker: Worker, number: int) -> Job | None:
        job = worker.jobs.pop(number, None)
        self._set_timer(worker)
        return job

    def _try_again(self, job: Job, reason: str) -> None:
        if job.attempts < self._most_attempts:
            self._waiting.appendleft(job)
        else:
            job.result.errback(Aborted(f"{job.attempts} workers have tried; the last: {reason}"))

    def _hand_out(self) -> None:
        # At most once around without a worker that has room.
        without_room = 0
        while self._waiting and without_room < len(self._workers):
            worker = self._workers[0]
            self._workers.rotate(-1)
            if not worker.room:
                without_room += 1
                continue
            without_room = 0
            job = self._waiting.popleft()
            job.attempts += 1
            worker.room -= 1
            worker.jobs[job.number] = job
            if worker.timer is None:
                self._set_timer(worker)
            worker.give(job)

    def _set_timer(self, worker: Worker) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        if worker.jobs:
            worker.timer = self._clock.callLater(self.lease, self._expire, worker)

    def _expire(self, worker: Worker) -> None:
        worker.timer = None
        self.leave(worker)
        worker.lost()

    def _forget(self, job: Job) -> None:
        """Nobody waits for a job any more; the result of a worker that has it will not count."""
        if job in self._waiting:
            self._waiting.remove(job)
        for worker in self._workers:
            if worker.jobs.pop(job.number, None):
                self._set_timer(worker)
