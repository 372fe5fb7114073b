"""``python -m benchmarks.instructions``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.generate import GenerateError, with_txzmq
from benchmarks.instructions.count import (
    TOOLS,
    CountError,
    Tool,
    first_that_works,
    per_call,
    run_still,
)
from benchmarks.instructions.records import FILE, Record, change, last_like, load, put, save
from benchmarks.instructions.scenarios import SCENARIOS, Scenario
from benchmarks.interpreter import interpreter

_ROOT: Final = Path(__file__).parent.parent.parent
#: Calls or items of the short run, in which everything has been done once, and of the long one.
_SHORT: Final = 200
_LONG: Final = 1_200
#: The same of rounds, for scenarios whose rounds are longer than that.
_SHORT_ROUNDS: Final = 2
_LONG_ROUNDS: Final = 12
#: Per cent. Two counts in a row are equal; another path of the checkout has moved one by 0.3.
_LIMIT: Final = 1.0


def count(tool: Tool, name: str, rounds: int, build: Path) -> tuple[int, int]:
    """Play a scenario under *tool*: how many calls or items that were, and instructions."""
    command = [
        *(sys.executable, "-m", "benchmarks.instructions.program"),
        *(name, str(rounds), str(build)),
    ]
    return rounds * SCENARIOS[name].count, tool.count(command, _ROOT)


def rounds_of(scenario: Scenario) -> tuple[int, int]:
    """Rounds of the short run and of the long one."""
    return (
        max(_SHORT_ROUNDS, _SHORT // scenario.count),
        max(_LONG_ROUNDS, _LONG // scenario.count),
    )


def measure(tool: Tool, names: Sequence[str], build: Path) -> dict[str, int]:
    """Instructions per call or item of each scenario."""
    # Once without counting: what is compiled and cached at first use must be there for all.
    first = [sys.executable, "-m", "benchmarks.instructions.program", names[0], "1", str(build)]
    run_still(first, _ROOT)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # counts do not mind company
        runs = {
            name: [
                pool.submit(count, tool, name, rounds, build)
                for rounds in rounds_of(SCENARIOS[name])
            ]
            for name in names
        }
    return {
        name: round(per_call(short.result(), long.result())) for name, (short, long) in runs.items()
    }


def report(now: Record, before: Record | None) -> str:
    """What a person wants to read."""
    libraries = ", ".join(f"{name} {number}" for name, number in now.libraries.items())
    lines = [f"txzmq {now.txzmq}, {now.python}, {libraries}; {now.tool}", f"run by {interpreter()}"]
    if before is None:
        lines.append("no record of this interpreter and tool to compare with (--record makes one)")
    else:
        lines.append(f"compared with {before.txzmq}")
        lines += [
            f"since then, {name} {number} has become {now.libraries[name]}"
            for name, number in before.libraries.items()
            if now.libraries.get(name, number) != number
        ]
    lines.append("")
    lines.append(f"{'instructions per call or item':<40}{'now':>10}{'before':>10}{'change':>10}")
    for name, number in now.per_call.items():
        line = f"{name:<40}{number:>10,}"
        if before is not None and name in before.per_call:
            old = before.per_call[name]
            line += f"{old:>10,}{change(old, number):>+9.2f}%"
        lines.append(line)
    return "\n".join(lines)


def too_many(now: Mapping[str, int], before: Mapping[str, int], limit: float) -> list[str]:
    """What takes more instructions than before, by more than *limit* per cent."""
    return [
        f"{name}: {change(before[name], number):+.2f} %, the limit is {limit:g} %"
        for name, number in now.items()
        if name in before and change(before[name], number) > limit
    ]


def main(arguments: Sequence[str] | None = None, *, tools: Sequence[Tool] = TOOLS) -> int:
    """Count, print, compare, and record where that was asked for.

    :returns: the exit status: 1 if there are too many instructions, 2 if there is no count.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.record and given.only:
        parser.error("a record is of all scenarios: --record goes without --only")
    try:
        tool = first_that_works([each for each in tools if given.tool in (None, each.name)])
        with_txzmq(given.build)
        names = given.only or list(SCENARIOS)
        now = Record.of_today(tool.name, measure(tool, names, given.build.resolve()))
    except (CountError, GenerateError) as error:
        print(error, file=sys.stderr)
        return 2
    records = load(given.records)
    before = last_like(records, now)
    print(report(now, before))
    if given.record:
        save(given.records, put(records, now))
        return 0  # whoever records them has accepted them
    failed = too_many(now.per_call, before.per_call, given.limit) if before else []
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description="Counts the instructions that a call or an item of a stream takes, "
        "both sides of it in one process.",
    )
    add = parser.add_argument
    add(
        "--limit",
        type=float,
        default=_LIMIT,
        metavar="PERCENT",
        help="fail above this change against the last record (%(default)s)",
    )
    add("--record", action="store_true", help="keep the counts as those of this release")
    add("--records", type=Path, default=FILE, metavar="FILE", help="where (%(default)s)")
    add("--tool", choices=[tool.name for tool in TOOLS], help="instead of the first that works")
    add("--only", action="append", choices=SCENARIOS, help="may be given several times")
    add(
        "--build",
        type=Path,
        metavar="FOLDER",
        default=_ROOT / "build" / "benchmarks",
        help="where generated modules are put (build/benchmarks)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
