"""``python -m benchmarks.scale``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.generate import GenerateError, with_txzmq
from benchmarks.process import StackError
from benchmarks.report import machine
from benchmarks.scale.axes import AXES
from benchmarks.scale.measure import Cost, Plan, Row, measure
from benchmarks.scale.plots import draw
from benchmarks.scale.report import as_markdown, as_text, header
from benchmarks.stacks import BASELINE, STACKS

__all__ = ["main", "redraw", "write"]

_ROOT: Final = Path(__file__).parent.parent.parent
_DOCS: Final = _ROOT / "docs" / "performance"
_QUICK: Final = Plan(seconds=0.1, rounds=1, warm_up=0.1)
_QUICK_POINTS: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write the pages.

    :returns: the exit status: 1 if a process failed, 130 after Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    if given.redraw:
        redraw(given.docs or _DOCS)
        return 0
    usual = _QUICK if given.quick else Plan()
    plan = Plan(
        seconds=given.seconds or usual.seconds,
        rounds=given.rounds or usual.rounds,
        warm_up=usual.warm_up,
    )
    points = given.points or (_QUICK_POINTS if given.quick else None)
    in_full = not given.axis and points is None
    docs: Path | None = given.docs or (_DOCS if in_full else None)
    try:
        return _measure(given.axis or list(AXES), points, plan, given.build, docs)
    except (GenerateError, StackError) as error:
        print(f"FAILED {error}")
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _measure(
    names: Sequence[str], points: int | None, plan: Plan, build: Path, docs: Path | None
) -> int:
    introduction = header(machine([STACKS[BASELINE]]), plan)
    print(introduction, flush=True)
    with_txzmq(build)
    measured: dict[str, list[Row]] = {}
    for name in names:
        axis = AXES[name] if points is None else AXES[name].shortened(points)
        measured[name] = measure(axis, plan, build.resolve(), _progress)
        _progress("")
        print(f"\n{as_text(axis, measured[name])}", flush=True)
    if docs is not None:
        write(docs, introduction, measured)
        print(f"\nwritten: {docs}")
    return 0


def write(docs: Path, introduction: str, measured: Mapping[str, Sequence[Row]]) -> None:
    """Write the page, a plot for each axis, and the figures that they are made of."""
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "scale.md").write_text(as_markdown(introduction, measured), encoding="utf-8")
    for name, rows in measured.items():
        draw(AXES[name], rows, docs / f"scale-{name}.svg")
    figures = {
        name: [{"value": value, **cost._asdict()} for value, cost in rows]
        for name, rows in measured.items()
    }
    text = json.dumps({"introduction": introduction, "axes": figures}, indent=1, ensure_ascii=False)
    (docs / "scale.json").write_text(text + "\n", encoding="utf-8")


def redraw(docs: Path) -> None:
    """Write the page and the plots anew, from the figures of the last run."""
    kept = json.loads((docs / "scale.json").read_text(encoding="utf-8"))
    measured = {
        name: [Row(row.pop("value"), Cost(**row)) for row in rows]
        for name, rows in kept["axes"].items()
    }
    write(docs, kept["introduction"], measured)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description="Measures how the cost of a call grows, in one dimension after another.",
    )
    add = parser.add_argument
    add(
        "--axis",
        action="append",
        choices=AXES,
        help="what to vary; may be given several times (instead of everything)",
    )
    add("--quick", action="store_true", help="few points, briefly; writes nothing")
    add("--points", type=int, metavar="N", help="of each axis, 2 or more (instead of all)")
    add("--seconds", type=float, help=f"of each measurement ({Plan().seconds:g})")
    add("--rounds", type=int, help=f"how many ({Plan().rounds})")
    add(
        "--docs",
        type=Path,
        metavar="FOLDER",
        help="where page and plots are written (docs/performance, if everything was measured)",
    )
    add("--redraw", action="store_true", help="write page and plots from the last run's figures")
    add(
        "--build",
        type=Path,
        metavar="FOLDER",
        default=_ROOT / "build" / "benchmarks",
        help="where generated modules are put (build/benchmarks)",
    )
    return parser


def _progress(what: str) -> None:
    """Show *what* on one line that is written over; only where a person looks on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    # SIGTERM as Ctrl-C, so that the processes are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
