"""``python -m benchmarks.imports``: what a program pays for importing a client.

Each import is a process of its own, in turns; a figure is the median of their CPU time, kernel
and all, without that of an interpreter which imports nothing.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.generate import with_grpc, with_txzmq
from benchmarks.interpreter import interpreter

_ROUNDS: Final = 15
_NOTHING: Final = "an interpreter"
_OURS: Final = "a generated client and txzmq.rpc"
_THEIRS: Final = "grpc.aio and its stub"
#: What is imported, by what it is called.
_PROGRAMS: Final = {
    _NOTHING: "",
    _OURS: "import generated.bench_txzmq, txzmq.rpc",
    _THEIRS: "import bench_pb2_grpc, grpc.aio",
    "the client, and what a channel needs": (
        "import generated.bench_txzmq\nfrom txzmq.rpc import Channel"
    ),
    "Twisted's Deferred alone": "import twisted.internet.defer",
}


def _cpu(program: str, folder: Path) -> float:
    """Milliseconds of CPU of a process that runs *program*."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # -P: of this folder's modules and the installed ones, and none of where it is started.
    code = f"import sys\nsys.path.insert(0, {str(folder)!r})\n{program}"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure, and print."""
    samples: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with_txzmq(folder)
        with_grpc(folder)
        for program in _PROGRAMS.values():
            _cpu(program, folder)  # compiles
        for _ in range(_ROUNDS):
            for name, program in _PROGRAMS.items():
                samples[name].append(_cpu(program, folder))
    medians = {name: statistics.median(several) for name, several in samples.items()}
    nothing = medians.pop(_NOTHING)
    print(f"\nimport, ms of CPU, {interpreter()}")
    for name, figure in medians.items():
        print(f"  {name:40} {figure - nothing:6.0f}")
    ratio = (medians[_OURS] - nothing) / (medians[_THEIRS] - nothing)
    print(f"  the first beside the second: {ratio:.2f}")


if __name__ == "__main__":
    main()
