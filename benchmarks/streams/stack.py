"""A server and its clients, each a process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.streams.loads import BURST, PAUSE, SECURED, SUBSCRIBERS, Figures, order

__all__ = ["BARE", "BARE_LOAD", "STACKS", "THEIRS", "Stack"]

THEIRS: Final = "grpc_aio"
STACKS: Final = ("txzmq_", THEIRS)
#: What the sockets alone can do, of the one load that they bear without anything else.
BARE: Final = "bare_pyzmq"
BARE_LOAD: Final = "chat"
#: Seconds for anything that a process is asked for, beyond what it is to take.
_PATIENCE: Final = 120.0
#: Seconds of processor time in a fifth of a second of a server that does nothing.
_IDLE: Final = 0.005


class Stack:
    """A server and clients."""

    def __init__(
        self, name: str, ends: ExitStack, clients: int = 1, *, secured: bool = False
    ) -> None:
        """:param secured: whether with keys, or mutual TLS."""
        self.name = name
        self._ends = ends
        self._server = self._start("serve", *([SECURED] if secured else []))
        address = _read(self._server)
        self._clients = [self._start("drive", address) for _ in range(clients)]

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.streams.{self.name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ends.enter_context(process)  # waits, and closes the pipes
        self._ends.callback(process.kill)
        return process

    def _server_cpu(self) -> float:
        """Seconds, of all threads."""
        tasks = Path(f"/proc/{self._server.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def measure(self, load: str, seconds: float) -> dict[str, float]:
        """Rate, and processor time per item of both sides in microseconds."""
        before = self._server_cpu()
        what = order(load, seconds=seconds, subscribers=SUBSCRIBERS, burst=BURST, pause=PAUSE)
        _tell(self._clients[0], json.dumps(what))
        figures: Figures = json.loads(_read(self._clients[0]))
        server = self._server_cpu() - before
        count = max(1, figures["count"])
        return {
            "rate": count / figures["seconds"],
            "client": figures["cpu"] / count * 1e6,
            "server": server / count * 1e6,
            "p50": figures["p50"],
        }

    def measure_audience(self, subscribers: int, burst: int, pause: int, seconds: float) -> float:
        """The server's seconds of processor time per event, while so many subscribe.

        :param burst: events that come together.
        :param pause: milliseconds between two bursts.
        """
        busy: list[subprocess.Popen[str]] = []
        for number, client in enumerate(self._clients):
            share = len(range(number, subscribers, len(self._clients)))
            if share:
                what = order("audience", subscribers=share, burst=burst, pause=pause)
                _tell(client, json.dumps(what))
                busy.append(client)
        for client in busy:
            _read(client)
        threading.Event().wait(0.3)  # what opening them has left to be done
        before = self._server_cpu()
        for client in busy:
            _tell(client, "count")
        threading.Event().wait(seconds)
        server = self._server_cpu() - before
        for client in busy:
            _tell(client, "stop")
        deliveries = sum(int(_read(client)) for client in busy)
        return server / max(1, deliveries) * subscribers

    def measure_openings(self, streams: int, high_water_mark: int) -> tuple[float, float, float]:
        """Open so many streams at once, wait for the first item of each, and end them again.

        :param high_water_mark: SNDHWM of the client's sockets; 0 for its default.
        :returns: seconds until all had begun, and of processor time of client and server.
        """
        client = self._clients[0]
        before = self._server_cpu()
        _tell(
            client,
            json.dumps(order("openings", subscribers=streams, high_water_mark=high_water_mark)),
        )
        figures: Figures = json.loads(_read(client))
        server = self._server_cpu() - before
        _tell(client, "end")
        _read(client)
        self._settle()
        return figures["seconds"], figures["cpu"], server

    def _settle(self) -> None:
        """Wait until the server does nothing any more."""
        before = -1.0
        while (now := self._server_cpu()) - before > _IDLE:
            before = now
            threading.Event().wait(0.2)


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(_PATIENCE, process.kill)
    watchdog.daemon = True
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    if not line:
        raise SystemExit(f"{process.args!r} ended")
    return line.strip()
