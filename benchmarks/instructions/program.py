"""The fixed run whose instructions are counted: ``program.py SCENARIO ROUNDS FOLDER``."""

from __future__ import annotations

import gc
import sys

from benchmarks.instructions.scenarios import SCENARIOS
from benchmarks.workload import Messages


def main() -> None:
    """Do what the command line says."""
    name, rounds, folder = sys.argv[1:]
    sys.path.insert(0, folder)
    messages = Messages.load("generated.bench_pb2")
    gc.disable()  # when it runs depends on all that was made before, and not on a call
    scenario = SCENARIOS[name]
    if scenario.play(int(rounds), messages) != int(rounds) * scenario.count:
        raise AssertionError("a reply or an item did not arrive")


if __name__ == "__main__":
    main()
