"""How much longer the generator takes than protoc and mypy-protobuf alone: ``make bench-codegen``.

For each size of the corpus: the time of one command of protoc that writes messages and stubs, the
time of ``python -m txzmq_codegen`` into an empty folder and into one that is up to date, and the
most memory that it took, all of its processes together. The runs take turns, and medians count.
Fails where a goal is missed.

The goals are for CPU seconds, which other work on the machine disturbs least, and which do not
flatter: where there is a processor to spare, the generator works while the stubs are written, and
the wall clock shows less.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.codegen.corpus import write_cloud, write_corpus
from benchmarks.codegen.measure import Cost, measure
from benchmarks.interpreter import interpreter

_SIZES: Final = (500, 1000, 2500, 5000)
#: The goals: time above protoc's, memory, and how far from linear the growth may be.
_OVERHEAD: Final = 0.40
_MEMORY: Final = 1 << 30
_GROWTH: Final = 1.3


class Row(NamedTuple):
    """What was measured for one size."""

    services: int
    protoc: Cost
    ours: Cost
    again: Cost
    written_again: int

    @property
    def overhead(self) -> float:
        """CPU seconds above protoc's, as a part of them."""
        return self.ours.cpu / self.protoc.cpu - 1

    @property
    def per_service(self) -> float:
        """CPU seconds for each service."""
        return self.ours.cpu / self.services


def run(services: int, repeat: int) -> Row:
    """Measure one size."""
    with tempfile.TemporaryDirectory(prefix="bench-codegen-", dir=_folder()) as name:
        folder = Path(name)
        protos, theirs, ours = folder / "protos", folder / "theirs", folder / "ours"
        write_corpus(protos, services)
        turns = [
            (
                _protoc(protos, theirs),
                _generator(protos, ours, fresh=True),
                _generator(protos, ours, fresh=False),
            )
            for _ in range(repeat)
        ]
        protoc, fresh, again = map(_median, zip(*turns, strict=True))
        return Row(services, protoc, fresh, again, _written(protos, ours))


def _median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    seconds, cpu, memory = (statistics.median(figures) for figures in zip(*costs, strict=True))
    return Cost(seconds, cpu, int(memory))


def _folder() -> Path | None:
    """In memory, where there is such a folder: how quick a disk is today is not the question."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


def _protoc(protos: Path, out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    names = [path.relative_to(protos).as_posix() for path in sorted(protos.rglob("*.proto"))]
    arguments = out.with_suffix(".arguments")
    options = [f"--proto_path={protos}", f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    arguments.write_text("\n".join((*options, *names)), "utf-8")
    plugins = [f"--plugin=protoc-gen-mypy={plugin}"]
    return measure([sys.executable, "-m", "grpc_tools.protoc", *plugins, f"@{arguments}"])


def _generator(protos: Path, out: Path, *, fresh: bool) -> Cost:
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    return measure([sys.executable, "-m", "txzmq_codegen", str(protos), "-o", str(out)])


def _written(protos: Path, out: Path) -> int:
    """How many files a run with nothing changed writes."""
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.py*")}
    _generator(protos, out, fresh=False)
    return sum(path.stat().st_mtime_ns != before.get(path) for path in out.rglob("*.py*"))


def _print(rows: Sequence[Row]) -> None:
    print(f"{'':>10}{'CPU':>9}{'':>36}{'wall clock':>12}")
    head = (
        *("services", "protoc", "txzmq", "above", "per 1000", "again"),
        *("protoc", "txzmq", "above", "again", "memory", "writes again"),
    )
    print("".join(f"{title:>{max(9, len(title) + 2)}}" for title in head))
    for row in rows:
        cells = (
            str(row.services),
            f"{row.protoc.cpu:.2f} s",
            f"{row.ours.cpu:.2f} s",
            f"{row.overhead:+.0%}",
            f"{row.per_service * 1000:.2f} s",
            f"{row.again.cpu:.2f} s",
            f"{row.protoc.seconds:.2f} s",
            f"{row.ours.seconds:.2f} s",
            f"{row.ours.seconds / row.protoc.seconds - 1:+.0%}",
            f"{row.again.seconds:.2f} s",
            f"{row.ours.memory / (1 << 20):.0f} MiB",
            str(row.written_again),
        )
        widths = (max(9, len(title) + 2) for title in head)
        print("".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _missed(rows: Sequence[Row]) -> list[str]:
    missed = [
        f"{row.services} services: {row.overhead:+.0%}, the goal is {_OVERHEAD:+.0%}"
        for row in rows
        if row.overhead > _OVERHEAD
    ]
    missed += [f"{row.services} services: memory" for row in rows if row.ours.memory > _MEMORY]
    missed += [f"{row.services} services: wrote again" for row in rows if row.written_again]
    first, last = rows[0], rows[-1]
    growth = last.per_service / first.per_service
    if growth > _GROWTH:
        missed.append(f"time per service grew {growth:.2f} times, the goal is {_GROWTH}")
    return missed


def _cloud(files: int) -> int:
    """Measure one run on a corpus with five messages a file, each with 14 commented fields."""
    with tempfile.TemporaryDirectory(prefix="bench-codegen-", dir=_folder()) as name:
        folder = Path(name)
        write_cloud(folder / "protos", files)
        cost = _generator(folder / "protos", folder / "ours", fresh=True)
    print(f"{files} files: {cost.cpu:.1f} s CPU, {cost.seconds:.1f} s wall clock", end=", ")
    print(f"{cost.memory / (1 << 20):.0f} MiB")
    return 0 if cost.memory < _MEMORY else 1


def main() -> int:
    """Measure, print, and compare with the goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codegen", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, metavar="SERVICES")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each size (default: 3)")
    parser.add_argument(
        "--cloud",
        type=int,
        metavar="FILES",
        help="instead, measure one run on so many files like those of a public cloud API",
    )
    given = parser.parse_args()
    print(interpreter(), end="\n\n", flush=True)
    if given.cloud is not None:
        return _cloud(given.cloud)
    rows = [run(size, given.repeat) for size in given.sizes]
    _print(rows)
    missed = _missed(rows)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
