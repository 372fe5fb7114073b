"""A worker: ``python -m examples.jobs.worker ENDPOINT SECONDS_PER_JOB``.

It listens nowhere: it calls the queue, also from behind a firewall.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater, react

from examples.jobs.working import Worker
from generated.demo.jobs.v1.jobs_pb2 import WorkResponse
from generated.demo.jobs.v1.jobs_txzmq import WorkersClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel


async def main(reactor: Any, endpoint: str, seconds: str) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()

    async def digest(job: WorkResponse) -> str:
        print(f"does job {job.job}, attempt {job.attempt}", flush=True)
        await deferLater(reactor, float(seconds), lambda: None)  # as if it were hard
        return hashlib.sha256(job.input.encode()).hexdigest()

    channel = Channel(factory, endpoint, wait_for_ready=True)
    with suppress(CancelledError):  # at Ctrl-C, when the channel is closed
        await Worker(reactor, WorkersClient(channel), digest).work()


if __name__ == "__main__":
    react(main, sys.argv[1:])
