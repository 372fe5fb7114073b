"""A server of several processes, as ``txzmq serve`` runs them; on Linux."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from benchmarks.child import Line
from benchmarks.peers.txzmq_ import bench_service
from benchmarks.workload import Messages

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

__all__ = ["WORK", "serve_by_processes", "service"]

#: Seconds of CPU time that a call takes: a service that does something has the processes work, and
#: not the clients.
WORK: Final = 1e-3
#: The environment variable with the folder of generated modules.
_FOLDER: Final = "TXZMQ_BENCH_FOLDER"
_ANY_PORT: Final = "tcp://127.0.0.1:*"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: Of ``prctl``: which signal a process gets when its parent ends.
_PDEATHSIG: Final = 1


def service() -> Any:
    """What each worker serves."""
    sys.path.insert(0, os.environ[_FOLDER])
    messages = Messages.load("generated.bench_pb2")

    def echo(_service: object, request: EchoRequest, _context: object) -> EchoReply:
        until = time.thread_time() + WORK
        while time.thread_time() < until:
            pass
        return messages.answer(request)

    base = cast("Any", type(bench_service(messages)))  # generated
    return type("Working", (base,), {"echo": echo})()


def serve_by_processes(number: int, folder: str, line: Line) -> None:
    """Run a supervisor, and tell the CPU time of its processes, until the input ends.

    :param folder: where generated modules are.
    """
    libc = ctypes.CDLL(None)
    supervisor = subprocess.Popen(
        [
            *(sys.executable, "-m", "txzmq", "serve", f"{__name__}:service", "--log", "json"),
            *[part for _ in range(number) for part in ("--listen", _ANY_PORT)],
            *("--grace", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, _FOLDER: folder},
        # However this process ends, so does that one.
        preexec_fn=lambda: libc.prctl(_PDEATHSIG, signal.SIGTERM),
    )
    assert supervisor.stderr is not None
    addresses: list[str] = []
    for logged in supervisor.stderr:
        event = json.loads(logged)
        if event["log_format"].startswith("serves "):
            addresses = event["addresses"].split()
        elif "workers are ready" in event["log_format"]:
            break
    threading.Thread(target=supervisor.stderr.read, daemon=True).start()
    line.write({"addresses": addresses})
    while line.read():
        line.write({"cpu": _cpu_of_children(supervisor.pid)})
    supervisor.terminate()
    supervisor.wait()


def _cpu_of_children(parent: int) -> float:
    """Seconds of CPU time of the processes that one has started."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text(encoding="utf-8").rpartition(")")[2]
        except OSError:
            continue  # it has ended
        fields = re.split(" +", after_name.strip())
        if int(fields[1]) == parent:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
