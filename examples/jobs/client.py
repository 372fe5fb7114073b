"""Somebody who has work: ``python -m examples.jobs.client ENDPOINT JOBS``."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from generated.demo.jobs.v1.jobs_pb2 import RunRequest
from generated.demo.jobs.v1.jobs_txzmq import JobsClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, RpcError


async def main(reactor: Any, endpoint: str, jobs: str) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    channel = Channel(factory, endpoint)
    client = JobsClient(channel)
    names = [f"text {number}" for number in range(1, int(jobs) + 1)]
    right = await gatherResults([Deferred.fromCoroutine(run(client, name)) for name in names])
    channel.close()
    print(f"{sum(right)} of {len(right)} jobs are done", flush=True)
    if not all(right):
        sys.exit(1)


async def run(client: JobsClient, text: str) -> bool:
    """Have a worker do a job, and say how it ended; whether the result is right."""
    try:
        # The time that the job may wait and take, with all workers that try.
        response = await client.run(RunRequest(input=text), timeout=120)
    except RpcError as error:
        print(f"{text}: {error}", flush=True)
        return False
    print(f"{text}: {response.output[:8]}, attempts: {response.attempts}", flush=True)
    return response.output == hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    react(main, sys.argv[1:])
