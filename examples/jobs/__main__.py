"""A job queue, and a worker that is killed: ``python -m examples.jobs``, ``make example-jobs``."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack

#: Seconds: of a lease, and of a job.
LEASE, WORK = "2", "0.3"
JOBS = "20"


def main() -> int:
    with ExitStack() as stack:
        server = start(stack, "server", "tcp://127.0.0.1:*", LEASE)
        _, listening, endpoint = next_line(server).partition("listening on ")
        if not listening:
            sys.exit("the server did not start")
        say("queue", f"listening on {endpoint}")
        client = start(stack, "client", endpoint, JOBS)
        copies = [copy("client", client)]
        first = start(stack, "worker", endpoint, WORK)
        for _ in range(5):
            say("worker 1", next_line(first))
        first.kill()
        first.wait()
        say("worker 1", "was killed, with jobs that it had not done")
        for number in (2, 3):
            worker = start(stack, "worker", endpoint, WORK)
            copies.append(copy(f"worker {number}", worker))
        status = client.wait()
    for each in copies:
        each.join()
    return status


def start(stack: ExitStack, module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a part of the example, which ends when the stack does."""
    command = [sys.executable, "-m", f"examples.jobs.{module}", *arguments]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    return process


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def copy(name: str, process: subprocess.Popen[str]) -> threading.Thread:
    """Print what a process says, until it ends."""

    def run() -> None:
        while line := next_line(process):
            say(name, line)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def say(name: str, line: str) -> None:
    # Line end and all in one: several threads write.
    print(f"{name} | {line}\n", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
