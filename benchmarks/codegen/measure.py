"""What a command costs, with all the processes that it starts (on Linux)."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Cost", "measure"]

#: Seconds between two looks at the memory in use.
_INTERVAL: Final = 0.02
_PAGE: Final = resource.getpagesize()


class Cost(NamedTuple):
    """The cost of one run."""

    seconds: float
    #: Seconds of all processors together.
    cpu: float
    #: Bytes in use at the worst moment, all processes together (shared pages count for each).
    memory: int


def measure(command: Sequence[str]) -> Cost:
    """Run *command* to its end.

    :raises subprocess.CalledProcessError: if it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    memory = 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        while process.poll() is None:
            memory = max(memory, sum(map(_resident, _family(process.pid))))
            time.sleep(_INTERVAL)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, memory)


def _family(process: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield process
    try:
        tasks = os.listdir(f"/proc/{process}/task")
        children = [Path(f"/proc/{process}/task/{task}/children").read_text() for task in tasks]
    except OSError:
        return  # it has ended
    for child in " ".join(children).split():
        yield from _family(int(child))


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
