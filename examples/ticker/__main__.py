"""A ticker with 1,000 subscribers: ``python -m examples.ticker``, or ``make example-ticker``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.ticker", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=20, help="prices per second (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="how long (%(default)s)")
    asked = parser.parse_args(arguments)
    if asked.subscribers < 2 or asked.rate <= 0 or asked.seconds < 1:
        parser.error("there must be 2 subscribers, a rate above 0 and 1 second, at least")

    with ExitStack() as stack:
        server = start(stack, "server", "tcp://127.0.0.1:*", str(asked.rate))
        assert server.stdout is not None
        _, listening, endpoint = server.stdout.readline().strip().partition("listening on ")
        if not listening:
            sys.exit("the server did not start")
        say("server", f"listening on {endpoint}, {asked.rate:g} prices each second")
        half = asked.subscribers // 2
        counts = [half, asked.subscribers - half]
        clients: list[subprocess.Popen[str]] = []
        copies: list[threading.Thread] = []
        for number, count in enumerate(counts, 1):
            slow = ["--slow"] if number == 1 else []
            client = start(stack, "client", endpoint, str(count), str(asked.seconds), *slow)
            clients.append(client)
            copies.append(threading.Thread(target=copy, args=[f"client {number}", client.stdout]))
            copies[-1].start()
        stati = [client.wait() for client in clients]
        for each in copies:
            each.join()
    return max(map(abs, stati))


def start(stack: ExitStack, module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a part of the example, which ends when the stack does."""
    command = [sys.executable, "-m", f"examples.ticker.{module}", *arguments]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    return process


def copy(name: str, output: IO[str]) -> None:
    for line in output:
        say(name, line.rstrip("\n"))


def say(name: str, line: str) -> None:
    # Line end and all in one: several threads write.
    print(f"{name} | {line}\n", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
