"""The job queue, in memory, in virtual time: nothing is lost, whatever workers do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater

from examples.jobs.job_queue import MOST_ROOM, Job, JobQueue, Worker
from examples.jobs.services import Jobs, Workers
from examples.jobs.working import Worker as WorkerClient
from generated.demo.jobs.v1.jobs_pb2 import (
    Done,
    Failed,
    RunRequest,
    RunResponse,
    WorkRequest,
    WorkResponse,
)
from generated.demo.jobs.v1.jobs_txzmq import JobsClient, WorkersClient
from txzmq.rpc import Aborted, Channel, InvalidArgument, ResponseStream, StreamWriter
from txzmq.testing import ServeInMemory

LEASE = 2.0


class Office:
    """A queue with its server, and a client of it."""

    def __init__(self, serve: ServeInMemory) -> None:
        self.network = serve.network
        self.queue = JobQueue(serve.network.clock, LEASE, most_attempts=3)
        self.channel = serve(Jobs(self.queue), Workers(self.queue))
        self.client = JobsClient(self.channel)
        self._serve = serve

    def run(self, text: str) -> Deferred[RunResponse]:
        call = self.client.run(RunRequest(input=text), timeout=100)
        self.network.run()
        return call

    def new_channel(self) -> Channel:
        return self._serve.connect(self.channel.target)


@pytest.fixture
def office(serve: ServeInMemory) -> Office:
    return Office(serve)


class Hands:
    """A worker that does what a test says."""

    def __init__(self, office: Office) -> None:
        self.says: StreamWriter[WorkRequest] = StreamWriter()
        self.jobs: list[WorkResponse] = []
        self.stream: ResponseStream[WorkResponse] = WorkersClient(office.new_channel()).work(
            self.says
        )
        self.ended = self.stream.each(self.jobs.append)
        self._office = office

    def say(self, **said: int | Done | Failed) -> None:
        self.says.write(WorkRequest(**said))  # type: ignore[arg-type]  # the fields are the callers'
        self._office.network.run()

    def go(self) -> None:
        self.stream.cancel()
        with pytest.raises(CancelledError):
            self._office.network.result(self.ended)


def test_a_job_is_done(office: Office) -> None:
    worker = Hands(office)
    worker.say(room=1)
    call = office.run("one")
    (job,) = worker.jobs
    assert (job.input, job.attempt, job.lease_ms) == ("one", 1, 2000)
    worker.say(done=Done(job=job.job, output="1"))
    assert office.network.result(call) == RunResponse(output="1", attempts=1)
    worker.go()


def test_a_worker_gets_no_more_than_it_has_asked_for(office: Office) -> None:
    worker = Hands(office)
    calls = [office.run(str(number)) for number in range(5)]
    assert worker.jobs == []
    worker.say(room=2)
    assert [job.input for job in worker.jobs] == ["0", "1"]
    worker.say(done=Done(job=worker.jobs[0].job, output="done"))
    assert len(worker.jobs) == 2  # it has not asked for another one
    worker.say(room=1)
    assert [job.input for job in worker.jobs] == ["0", "1", "2"]
    assert office.queue.waiting == 2
    for call in calls:
        call.addErrback(lambda _: None).cancel()
    office.network.run()
    worker.go()


def test_what_a_worker_had_goes_to_one_that_comes_later(office: Office) -> None:
    first = Hands(office)
    first.say(room=2)
    calls = [office.run(text) for text in ("a", "b", "c")]
    first.go()
    second = Hands(office)
    second.say(room=3)
    assert [(job.input, job.attempt) for job in second.jobs] == [("a", 2), ("b", 2), ("c", 1)]
    for job in second.jobs:
        second.say(done=Done(job=job.job, output=job.input.upper()))
    assert [office.network.result(call).output for call in calls] == ["A", "B", "C"]
    second.go()


def test_a_silent_worker_loses_its_jobs_and_is_told(office: Office) -> None:
    silent, other = Hands(office), Hands(office)
    silent.say(room=1)
    call = office.run("one")
    other.say(room=1)
    office.network.advance(LEASE - 0.1)
    assert other.jobs == []
    office.network.advance(0.2)
    with pytest.raises(Aborted, match="has not renewed"):
        office.network.result(silent.ended)
    (job,) = other.jobs
    other.say(done=Done(job=job.job, output="by the other"))
    assert office.network.result(call) == RunResponse(output="by the other", attempts=2)
    other.go()


def test_a_job_that_fails_too_often_is_given_up(office: Office) -> None:
    worker = Hands(office)
    worker.say(room=5)
    call = office.run("impossible")
    for attempt in (1, 2, 3):
        assert [job.attempt for job in worker.jobs] == list(range(1, attempt + 1))
        worker.say(failed=Failed(job=worker.jobs[-1].job, reason="cannot be done"))
    with pytest.raises(Aborted, match="3 workers have tried; the last: cannot be done"):
        office.network.result(call)
    assert len(worker.jobs) == 3
    worker.go()


def test_a_job_goes_when_its_caller_goes(office: Office) -> None:
    call = office.run("for nobody")
    assert office.queue.waiting == 1
    call.cancel()
    with pytest.raises(CancelledError):
        office.network.result(call)
    office.network.run()
    assert office.queue.waiting == 0


@pytest.mark.parametrize("room", [0, MOST_ROOM + 1])
def test_wrong_room_is_refused(office: Office, room: int) -> None:
    worker = Hands(office)
    worker.say(room=room)
    with pytest.raises(InvalidArgument, match=f"room for {room} more jobs"):
        office.network.result(worker.ended)


def test_the_workers_of_the_example_renew_their_leases(office: Office) -> None:
    clock: Any = office.network.clock  # Twisted types reactors with zope interfaces

    async def slow(job: WorkResponse) -> str:
        if job.input == "bad":
            raise ValueError("not this one")
        await deferLater(clock, 5 * LEASE, lambda: None)
        return job.input.upper()

    worker = WorkerClient(clock, WorkersClient(office.new_channel()), slow, at_once=1)
    working = Deferred.fromCoroutine(worker.work())
    good, bad = office.run("good"), office.run("bad")
    assert office.network.result(good, within=6 * LEASE) == RunResponse(output="GOOD", attempts=1)
    with pytest.raises(Aborted, match="ValueError: not this one"):
        office.network.result(bad)
    working.cancel()
    with pytest.raises(CancelledError):
        office.network.result(working)


def finish_all(queue: JobQueue, workers: list[Worker]) -> None:
    """Have all workers leave, and a last one do what is left."""

    def do(job: Job) -> None:
        queue.done(last, job.number, "late")

    for worker in workers:
        queue.leave(worker)
    last = queue.join(do, lambda: None)
    while queue.waiting:
        queue.ask(last, 1)


STEPS = st.tuples(
    st.sampled_from(["add", "join", "ask", "done", "failed", "leave", "renew", "time"]),
    st.integers(0, 5),
)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60))
def test_each_job_ends_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    queue = JobQueue(clock, LEASE, most_attempts=3)
    outcomes: dict[int, int] = {}

    def ended(_: object, number: int) -> None:
        outcomes[number] += 1

    workers: list[Worker] = []
    for what, which in steps:
        if what == "add":
            job = queue.add("work")
            outcomes[job.number] = 0
            job.result.addBoth(ended, job.number)
        elif what == "join":
            workers.append(queue.join(lambda _: None, lambda: None))
        elif what == "time":
            clock.advance(LEASE / 2)
        elif workers:
            act(queue, workers[which % len(workers)], what)
    finish_all(queue, workers)
    assert all(count == 1 for count in outcomes.values())
    assert not clock.getDelayedCalls()


def act(queue: JobQueue, worker: Worker, what: str) -> None:
    jobs: list[Job] = list(worker.jobs.values())
    if what == "leave":
        queue.leave(worker)
    elif what == "renew":
        queue.renew(worker)
    elif what == "ask":
        queue.ask(worker, 1)
    elif jobs and what == "done":
        queue.done(worker, jobs[0].number, "done")
        queue.done(worker, jobs[0].number, "a second result does not count")
    elif jobs:
        queue.failed(worker, jobs[0].number, "failed")
