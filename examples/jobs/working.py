"""The worker's side: takes jobs from the queue, and gives results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater

from generated.demo.jobs.v1.jobs_pb2 import Alive, Done, Failed, WorkRequest, WorkResponse
from generated.demo.jobs.v1.jobs_txzmq import WorkersClient
from txzmq.rpc import RpcError, StreamWriter

#: Seconds until a worker that has lost the queue calls it again.
RETRY = 1.0


class Worker:
    """Does jobs, some at once."""

    # Any: Twisted types reactors with zope interfaces.
    def __init__(
        self,
        clock: Any,
        client: WorkersClient,
        do: Callable[[WorkResponse], Awaitable[str]],
        *,
        at_once: int = 2,
        tell: Callable[[str], object] = print,
    ) -> None:
        """
        :param do: does a job; if it raises an exception, another worker gets the job.
        :param tell: called with a line, when the worker has lost the queue.
        """
        self._clock = clock
        self._client = client
        self._do = do
        self._at_once = at_once
        self._tell = tell

    async def work(self) -> None:
        """Work until cancelled; when the queue is gone, call it until it is back."""
        while True:
            try:
                await self._work_once()
            except RpcError as error:
                self._tell(f"the queue is lost: {error}")
            await deferLater(self._clock, RETRY, lambda: None)

    async def _work_once(self) -> None:
        says: StreamWriter[WorkRequest] = StreamWriter()
        says.write(WorkRequest(room=self._at_once))
        alive = LoopingCall(says.write, WorkRequest(alive=Alive()))
        alive.clock = self._clock
        doing: set[Deferred[None]] = set()
        try:
            async with self._client.work(says) as jobs:
                async for job in jobs:
                    if not alive.running:
                        alive.start(job.lease_ms / 3_000, now=False)
                    done = Deferred.fromCoroutine(self._do_one(job, says))
                    doing.add(done)
                    done.addBoth(_forget, done, doing)
        finally:
            # Others have these jobs now.
            for each in list(doing):
                each.cancel()
            if alive.running:
                alive.stop()

    async def _do_one(self, job: WorkResponse, says: StreamWriter[WorkRequest]) -> None:
        try:
            output = await self._do(job)
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, the queue is told
            reason = f"{type(error).__name__}: {error}"
            says.write(WorkRequest(failed=Failed(job=job.job, reason=reason)))
        else:
            says.write(WorkRequest(done=Done(job=job.job, output=output)))
        says.write(WorkRequest(room=1))


def _forget(_: object, done: Deferred[None], doing: set[Deferred[None]]) -> None:
    doing.discard(done)
