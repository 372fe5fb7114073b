"""The queue's server: ``python -m examples.jobs.server ENDPOINT LEASE_SECONDS``."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from examples.jobs.job_queue import JobQueue
from examples.jobs.services import Jobs, Workers
from txzmq import ZmqFactory
from txzmq.rpc import Server


def main(reactor: Any, endpoint: str, lease: str) -> Deferred[None]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    queue = JobQueue(reactor, float(lease), most_attempts=3)
    server = Server(factory, [Jobs(queue), Workers(queue)])
    reactor.addSystemEventTrigger("before", "shutdown", server.stop, grace=0)
    print(f"listening on {server.listen(endpoint)}", flush=True)
    return Deferred()  # until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
