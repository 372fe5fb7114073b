"""``python -m tests.fuzz TARGET``: let libFuzzer try, or check files; see ``make fuzz``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.harness import HOMES, fuzz, load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(HOMES), nargs="?")
    parser.add_argument("files", nargs="*", type=Path, help="check these, such as crash-*, and end")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    parser.add_argument("--list", action="store_true", help="name all targets, and end")
    given = parser.parse_args(arguments)
    if given.list:
        print(*sorted(HOMES))
        return 0
    if given.target is None:
        parser.error("name a target, or say --list")
    for file in given.files:
        load(given.target).check(file.read_bytes())
    if not given.files:
        fuzz(given.target, given.seconds, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
