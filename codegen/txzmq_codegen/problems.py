"""What is wrong with a user's input, and where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from txzmq_codegen.text import escaped

__all__ = ["Position", "Problem", "Problems", "Severity", "UsageError", "as_json", "as_text"]

#: ``info`` is what a run did: no problem.
Severity = Literal["error", "warning", "info"]


class Position(NamedTuple):
    """A place in a file; line and column count from 1, and are 0 where nothing is known."""

    file: str
    line: int = 0
    column: int = 0

    @classmethod
    def at(cls, file: str, span: Sequence[int]) -> Position:
        """Where a span begins, as descriptors have them; nothing is known where it is none."""
        if len(span) < 3 or min(span) < 0:
            return cls(file)
        return cls(file, span[0] + 1, span[1] + 1)

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


class Problem(NamedTuple):
    """One complaint about the input."""

    position: Position
    message: str
    #: One line that says what to do about it; empty where the message says it all.
    help: str = ""
    severity: Severity = "error"
    #: The rule that is broken, where rules have names.
    rule: str = ""


class Problems(Exception):
    """The input is wrong: every complaint that was found, in the order of the files."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(map(as_text, self.problems))


class UsageError(Exception):
    """The command or its configuration is wrong.

    :ivar help: one line that says what to do about it.
    :ivar others: what is wrong with it besides.
    """

    def __init__(self, message: str, help: str = "", others: Sequence[UsageError] = ()) -> None:
        super().__init__(message)
        self.help = help
        self.others = tuple(others)


def as_text(problem: Problem) -> str:
    """As compilers print it: ``file:line:column: error: what``, then a line of help."""
    rule = f" [{problem.rule}]" if problem.rule else ""
    line = f"{problem.position}: {problem.severity}: {problem.message}{rule}"
    lines = (line, f"  help: {problem.help}") if problem.help else (line,)
    # Names in protos may have anything, also what a terminal takes for a command.
    return "\n".join(escaped(line).replace("\n", "\\n") for line in lines)


def as_json(problem: Problem) -> str:
    """One line of JSON for programs."""
    position = problem.position
    return json.dumps(
        {
            "file": position.file,
            "line": position.line,
            "column": position.column,
            "severity": problem.severity,
            "rule": problem.rule,
            "message": problem.message,
            "help": problem.help,
        },
        ensure_ascii=False,
    )
