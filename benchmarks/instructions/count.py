"""Counts the instructions that a program executes in user space, with whichever tool is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["TOOLS", "CountError", "Tool", "first_that_works", "per_call"]

#: Seconds for one run; under valgrind one takes 5 to 20 on a machine with nothing else to do.
_PATIENCE: Final = 600.0
#: All that the program sees of the environment: its size moves the stack, and hash seeds the sets.
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_LAST_LINES: Final = 5


class CountError(Exception):
    """There is no count; the message says why."""


class Tool(ABC):
    """A way to count."""

    #: As in the records.
    name: str

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot count here; None if it can."""

    @abstractmethod
    def count(self, command: Sequence[str], folder: Path) -> int:
        """Run *command* in *folder*; how many instructions it took.

        :raises CountError: if it failed.
        """


class Perf(Tool):
    """The CPU's own counter: as fast as the program, and off by a few instructions in a million."""

    name = "perf"

    def missing(self) -> str | None:
        """Not in most virtual machines and containers."""
        if shutil.which("perf") is None:
            return "perf is not installed (Debian: linux-perf)"
        try:
            self.count(["true"], Path())
        except CountError as error:
            return str(error)
        return None

    def count(self, command: Sequence[str], folder: Path) -> int:
        """As :class:`Tool`."""
        with tempfile.NamedTemporaryFile() as report:
            options = ["stat", "--field-separator", ",", "--event", "instructions:u"]
            # Addresses differ from run to run otherwise, and with them what dicts and sets do.
            still = ["setarch", "--addr-no-randomize"] if shutil.which("setarch") else []
            run_still([*still, "perf", *options, "--output", report.name, *command], folder)
            return self.parse(Path(report.name).read_text(encoding="utf-8"))

    @staticmethod
    def parse(report: str) -> int:
        """The count in what ``perf stat`` wrote.

        :raises CountError: if the CPU has no counter, or none for us.
        """
        for line in report.splitlines():
            number, _, rest = line.partition(",")
            if "instructions" in rest:
                if number.isdigit():
                    return int(number)
                raise CountError(f"perf: {number.strip('<>')}: this machine has no counter for it")
        raise CountError("perf counted nothing")


class Cachegrind(Tool):
    """valgrind counts each instruction: the same count twice in a row, 15 times as slow."""

    name = "cachegrind"

    def missing(self) -> str | None:
        """Not where valgrind is not."""
        if shutil.which("valgrind") is None:
            return "valgrind is not installed (Debian: valgrind)"
        return None

    def count(self, command: Sequence[str], folder: Path) -> int:
        """As :class:`Tool`."""
        options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        return self.parse(run_still(["valgrind", *options, *command], folder))

    @staticmethod
    def parse(report: str) -> int:
        """The count in what valgrind said.

        :raises CountError: if there is none.
        """
        found = re.search(r"\bI\s+refs:\s+([\d,]+)", report)
        if found is None:
            raise CountError(f"valgrind counted nothing:\n{report}")
        return int(found[1].replace(",", ""))


#: The quicker one first.
TOOLS: Final[Sequence[Tool]] = (Perf(), Cachegrind())


def first_that_works(tools: Sequence[Tool]) -> Tool:
    """The first of *tools* that can count here.

    :raises CountError: if none can; the message says of each why.
    """
    reasons: list[str] = []
    for tool in tools:
        reason = tool.missing()
        if reason is None:
            return tool
        reasons.append(f"{tool.name}: {reason}")
    raise CountError("\n".join(["nothing here counts instructions", *reasons]))


def run_still(command: Sequence[str], folder: Path) -> str:
    """Run *command* in an environment that is always the same; what it said on stderr.

    :raises CountError: if it fails, or takes very long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise CountError(f"{command[0]} took longer than {_PATIENCE:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-_LAST_LINES:]
        raise CountError("\n    ".join([f"{command[0]} exited with {done.returncode}", *said]))
    return done.stderr


def per_call(short: tuple[int, int], long: tuple[int, int]) -> float:
    """Instructions per call from two runs, each its calls (or items) and its instructions.

    What the program does once, which is mostly importing, is in both and falls out.

    :raises ValueError: if the long run has no more calls.
    """
    if long[0] <= short[0]:
        raise ValueError(f"{long[0]} calls are no more than {short[0]}")
    return (long[1] - short[1]) / (long[0] - short[0])
