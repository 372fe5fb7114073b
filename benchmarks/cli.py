"""The command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import count, seconds
from benchmarks.report import as_json, as_text, machine
from benchmarks.run import Plan, run
from benchmarks.stacks import BASELINE, STACKS, Stack
from benchmarks.workload import SMALL, Load

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table.

    :returns: the exit status: 1 if a stack failed, 130 after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    stacks = [STACKS[name] for name in STACKS if name in (parsed.only or STACKS)]
    loads = Plan.loads
    if parsed.in_flight or parsed.bytes:
        loads = [
            Load(in_flight=in_flight, message_bytes=parsed.bytes or SMALL)
            for in_flight in parsed.in_flight or (1, 100)
        ]
    plan = Plan(
        loads=loads,
        seconds=parsed.seconds,
        rounds=parsed.rounds,
        warm_up=min(Plan.warm_up, parsed.seconds),
    )
    try:
        return _measure(stacks, plan, parsed.build, parsed.json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _measure(stacks: Sequence[Stack], plan: Plan, build: Path, json_file: Path | None) -> int:
    where = machine(stacks)
    results = run(stacks, BASELINE, plan, build, _progress)
    _progress("")
    print(as_text(where, plan, results), end="")
    if json_file is not None:
        text = json.dumps(as_json(where, plan, results), indent=2, ensure_ascii=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    return 1 if results.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures unary calls of txzmq beside other stacks, in the same run.",
    )
    add = parser.add_argument
    add(
        "--seconds",
        type=seconds(3600),
        default=Plan.seconds,
        help="of each measurement (%(default)s)",
    )
    add("--rounds", type=count, default=Plan.rounds, help="how many (%(default)s)")
    add(
        "--only",
        action="append",
        type=_stack,
        metavar="STACK",
        help=f"may be given several times; one of: {', '.join(STACKS)}",
    )
    add(
        "--in-flight",
        action="append",
        type=count,
        metavar="N",
        help="calls at the same time; may be given several times (instead of all loads)",
    )
    add("--bytes", type=count, help="of a message (instead of all loads)")
    add("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    add(
        "--build",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).parent.parent / "build" / "benchmarks",
        help="where generated modules are put (build/benchmarks)",
    )
    return parser


def _stack(text: str) -> str:
    """A stack's name, whatever its capitals."""
    for name in STACKS:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"{text} is none of: {', '.join(STACKS)}")


def _progress(what: str) -> None:
    """Show *what* on one line that is written over; only where a person looks on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
