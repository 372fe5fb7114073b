"""``python -m benchmarks.gateway``: calls through gateways, beside servers that do the work.

Each load is put on one right after the other, in several rounds; a ratio is the median of the
rounds' ratios. The client is one process, each server and gateway another. On a machine with few
processors they share these, so that the CPU time of a call says more than calls each second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.gateway.clients import ConnectClient, GrpcClient
from benchmarks.gateway.served import ROLES, serve
from benchmarks.report import machine
from benchmarks.stacks import Stack

__all__ = ["main"]

_PROCESS: Final = Stack(
    name="gateway",
    module="benchmarks.gateway",
    distributions=("txzmq", "twisted", "pyzmq", "protobuf", "grpcio", "connectrpc", "uvicorn"),
)


class Contender(NamedTuple):
    """What is measured."""

    #: Made with where it listens.
    client: Callable[[str], Any]
    #: Its processes, the server that does the work first.
    roles: tuple[str, ...]


class Load(NamedTuple):
    """What is asked of it."""

    name: str
    #: The client's method.
    kind: str
    in_flight: int


class Figures(NamedTuple):
    """Of one measurement."""

    per_second: float
    #: Microseconds of CPU for each call, of all its processes but the client; NaN where the system
    #: does not tell.
    cpu: float


#: Those that are compared with the first of them.
GROUPS: Final[dict[str, dict[str, Contender]]] = {
    "gRPC": {
        "grpc.aio": Contender(GrpcClient, ("grpc.aio",)),
        "gateway and server": Contender(GrpcClient, ("gRPC gateway",)),
        "gateway, server": Contender(GrpcClient, ("server", "gRPC gateway")),
    },
    "Connect, binary": {
        "connectrpc": Contender(ConnectClient.binary, ("connectrpc",)),
        "gateway and server": Contender(ConnectClient.binary, ("HTTP gateway",)),
        "gateway, server": Contender(ConnectClient.binary, ("server", "HTTP gateway")),
    },
    "Connect, JSON": {
        "connectrpc": Contender(ConnectClient.json, ("connectrpc",)),
        "gateway and server": Contender(ConnectClient.json, ("HTTP gateway",)),
        "gateway, server": Contender(ConnectClient.json, ("server", "HTTP gateway")),
    },
}
LOADS: Final = (
    Load("unary, 1 in flight", "unary", 1),
    Load("unary, 10 in flight", "unary", 10),
    Load("unary, 100 in flight", "unary", 100),
    Load("items of a stream", "streams", 1),
    Load("items of 10 streams", "streams", 10),
)


class Running:
    """A contender whose processes run."""

    def __init__(self, stack: ExitStack, contender: Contender) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        address = ""
        for role in contender.roles:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gateway", "--role", role, "--behind", address],
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            self._processes.append(process)
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"{role} does not run")
        self.client = contender.client(address)

    def cpu_seconds(self) -> float:
        """What its processes have taken until now."""
        return sum(_cpu_seconds(process.pid) for process in self._processes)

    async def measure(self, load: Load, seconds: float) -> Figures:
        """Put a load on it."""
        cpu, began = self.cpu_seconds(), time.perf_counter()
        done = await getattr(self.client, load.kind)(load.in_flight, seconds)
        took = time.perf_counter() - began
        return Figures(done / took, (self.cpu_seconds() - cpu) / done * 1e6)


def _cpu_seconds(pid: int) -> float:
    # Linux's; the name of a process, in parentheses, may have anything in it.
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")
    fields = stat.read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(group: dict[str, Contender], rounds: int, seconds: float) -> None:
    with ExitStack() as stack:
        running = {name: Running(stack, contender) for name, contender in group.items()}
        first = next(iter(running))
        clients = [each.client for each in running.values()]
        for load in LOADS:
            if not all(hasattr(client, load.kind) for client in clients):
                continue
            found: dict[str, list[Figures]] = {name: [] for name in running}
            for each in running.values():
                await each.measure(load, seconds / 4)  # warm
            for _ in range(rounds):
                for name, each in running.items():
                    found[name].append(await each.measure(load, seconds))
            for name, figures in found.items():
                _print(load, name, figures, found[first])
        for each in running.values():
            await each.client.close()


def _print(load: Load, name: str, mine: Sequence[Figures], others: Sequence[Figures]) -> None:
    rate, cpu = (statistics.median(values) for values in zip(*mine, strict=True))
    pairs = list(zip(mine, others, strict=True))
    faster = statistics.median(one.per_second / other.per_second for one, other in pairs)
    dearer = statistics.median(one.cpu / other.cpu for one, other in pairs)
    print(
        f"{load.name:21} {name:20} {rate:9,.0f}/s {faster:6.2f} x "
        f"{cpu:8,.1f} us CPU {dearer:6.2f} x",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", choices=GROUPS, action="append", help="one protocol")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--behind", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.role:
        serve(given.role, given.behind)
        return 0
    where = machine([_PROCESS])
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    print(f"{where['python']}, {where['cpus']} CPUs, load {where['load']}; {versions}")
    for name in given.only or GROUPS:
        print(f"\n{name}, beside the first:")
        asyncio.run(_measure(GROUPS[name], given.rounds, given.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
