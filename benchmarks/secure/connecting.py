"""What connections cost: how many a second, and how long many take to come back."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.secure.orders import Connected, Order
from benchmarks.streams.loads import SECURED

__all__ = ["VARIANTS", "Cost", "as_text", "measure_again", "measure_rate"]

#: What is compared: the name in the table, the module, and whether it has credentials. The first
#: is what the others are compared with.
VARIANTS: Final = (
    ("txzmq, keys", "txzmq_", True),
    ("txzmq", "txzmq_", False),
    ("grpc.aio, mutual TLS", "grpc_aio", True),
    ("grpc.aio", "grpc_aio", False),
)
#: Seconds for anything that a process is asked for, beyond what it is to take.
_PATIENCE: Final = 120.0


class Cost(NamedTuple):
    """What one measurement came to."""

    connected: Connected
    #: Seconds of processor time of the server.
    server: float


class _Process:
    """A server or its clients."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.secure.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def read(self) -> str:
        assert self._process.stdout is not None
        watchdog = threading.Timer(_PATIENCE, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended")
        return line.strip()

    def cpu(self) -> float:
        """Seconds, of all threads."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def _serve(module: str, *, secured: bool, line: str = "") -> _Process:
    server = _Process(module, "serve", *([SECURED] if secured else []))
    server.tell(line)
    return server


@contextmanager
def _clients(module: str, line: str) -> Generator[_Process]:
    clients = _Process(module, "drive")
    try:
        clients.tell(line)
        yield clients
    finally:
        clients.end()


def _ask(clients: _Process, what: str, *, seconds: float = 0, count: int = 0) -> Connected:
    clients.tell(json.dumps(Order(what=what, seconds=seconds, clients=count)))
    answer: Connected = json.loads(clients.read())
    return answer


def measure_rate(seconds: float, rounds: int) -> Mapping[str, Sequence[Cost]]:
    """Clients that connect, call once and leave, again and again; by the name of the variant."""
    costs: dict[str, list[Cost]] = {name: [] for name, _, _ in VARIANTS}
    with ExitStack() as ends:
        pairs: dict[str, tuple[_Process, _Process]] = {}
        for name, module, secured in VARIANTS:
            server = _serve(module, secured=secured)
            ends.callback(server.end)
            clients = ends.enter_context(_clients(module, server.read()))
            pairs[name] = server, clients
            _ask(clients, "rate", seconds=0.3)
        for number in range(rounds):
            for name in list(pairs)[:: -1 if number % 2 else 1]:
                server, clients = pairs[name]
                before = server.cpu()
                came = _ask(clients, "rate", seconds=seconds)
                costs[name].append(Cost(came, server.cpu() - before))
    return costs


def measure_again(count: int, rounds: int) -> Mapping[str, Sequence[Cost]]:
    """Clients whose server is killed and started anew; times are from when it listens again."""
    costs: dict[str, list[Cost]] = {name: [] for name, _, _ in VARIANTS}
    for number in range(rounds):
        for name, module, secured in VARIANTS[:: -1 if number % 2 else 1]:
            costs[name].append(_again(module, count, secured=secured))
    return costs


def _again(module: str, count: int, *, secured: bool) -> Cost:
    server = _serve(module, secured=secured)
    try:
        line = server.read()
        with _clients(module, line) as clients:
            _ask(clients, "hold", count=count)
            server.end()
            time.sleep(0.2)  # until all clients have noticed; none tells so
            server = _serve(module, secured=secured, line=line)
            server.read()
            before = server.cpu()
            came = _ask(clients, "again")
            return Cost(came, server.cpu() - before)
    finally:
        server.end()


def as_text(title: str, costs: Mapping[str, Sequence[Cost]], *, rate: bool) -> str:
    """A table.

    :param rate: whether connections per second count, or how long all of them took.
    """
    head = "connections/s" if rate else "all, s"
    columns = f"{head:>14}{'p50 ms':>10}{'p99 ms':>10}{'clients us':>12}{'server us':>11}"
    lines = [f"{title:36}{columns}{'first : this':>14}"]
    lines.append("-" * len(lines[0]))
    first = next(iter(costs.values()))
    for name, several in costs.items():
        figures = [_row(cost, rate=rate) for cost in several]
        main, p50, p99, client, server = map(statistics.median, zip(*figures, strict=True))
        ratios = [
            _row(a, rate=rate)[0] / _row(b, rate=rate)[0]
            for a, b in zip(first, several, strict=True)
        ]
        shown = f"{main:,.0f}" if rate else f"{main:.2f}"
        lines.append(
            f"{name:36}{shown:>14}{p50 * 1e3:>10,.1f}{p99 * 1e3:>10,.1f}"
            f"{client * 1e6:>12,.0f}{server * 1e6:>11,.0f}{statistics.median(ratios):>13.2f}x"
        )
    return "\n".join(lines)


def _row(cost: Cost, *, rate: bool) -> tuple[float, ...]:
    came, server = cost
    count = came["count"]
    main = count / came["seconds"] if rate else came["seconds"]
    return main, came["p50"], came["p99"], came["cpu"] / count, server / count
