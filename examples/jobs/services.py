"""The two services of the queue: one for those who have work, one for workers."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from examples.jobs.job_queue import Job, JobQueue, Worker
from generated.demo.jobs.v1.jobs_pb2 import RunRequest, RunResponse, WorkRequest, WorkResponse
from generated.demo.jobs.v1.jobs_txzmq import JobsBase, WorkersBase
from txzmq.rpc import Aborted, Context, RequestStream, RpcError, StreamWriter


class Jobs(JobsBase):
    """Queues jobs, and answers when they are done."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def run(self, request: RunRequest, context: Context) -> RunResponse:
        # When the caller goes, this is cancelled, and takes the job out of the queue.
        job = self._queue.add(request.input)
        output = await job.result
        return RunResponse(output=output, attempts=job.attempts)


class Workers(WorkersBase):
    """Gives jobs to the workers that call."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def work(
        self, requests: RequestStream[WorkRequest], context: Context
    ) -> StreamWriter[WorkResponse]:
        jobs: StreamWriter[WorkResponse] = StreamWriter()

        def give(job: Job) -> None:
            lease_ms = round(self._queue.lease * 1000)
            jobs.write(
                WorkResponse(
                    job=job.number, input=job.input, attempt=job.attempts, lease_ms=lease_ms
                )
            )

        def lost() -> None:
            jobs.fail(Aborted("the worker has not renewed its leases"))

        worker = self._queue.join(give, lost)
        context.cancelled.addCallback(lambda _: self._queue.leave(worker))
        Deferred.fromCoroutine(self._listen(worker, requests, jobs))
        return jobs

    async def _listen(
        self,
        worker: Worker,
        requests: RequestStream[WorkRequest],
        jobs: StreamWriter[WorkResponse],
    ) -> None:
        """Do what the worker says, until it has nothing more to say, or is gone."""
        try:
            async for request in requests:
                self._hear(worker, request)
        except CancelledError:
            pass  # the worker is gone
        except RpcError as error:
            jobs.fail(error)
        finally:
            self._queue.leave(worker)
            jobs.finish()

    def _hear(self, worker: Worker, request: WorkRequest) -> None:
        match request.WhichOneof("said"):
            case "room":
                self._queue.ask(worker, request.room)
            case "done":
                self._queue.done(worker, request.done.job, request.done.output)
            case "failed":
                self._queue.failed(worker, request.failed.job, request.failed.reason)
            case _:
                pass
        self._queue.renew(worker)
