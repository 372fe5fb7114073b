"""What a run says: problems, files, and what it did, as text for people or as JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from txzmq_codegen.problems import Position, Problem, Severity, UsageError, as_json, as_text
from txzmq_codegen.progress import files
from txzmq_codegen.text import escaped

__all__ = ["ErrorFormat", "Report"]

ErrorFormat = Literal["text", "json"]

#: So many warnings are printed as text; beside errors fewer, so that those are seen.
_MOST_WARNINGS: Final = 20
_MOST_BESIDE_ERRORS: Final = 3


class Report:
    """Prints to standard error, and as text what ``--check`` lists to standard output.

    With JSON, all but the lines of ``--diff`` is one object a line, on standard error.
    """

    def __init__(self, error_format: ErrorFormat) -> None:
        self._json = error_format == "json"

    def problems(self, problems: Iterable[Problem]) -> None:
        """Print *problems*, the errors first; as text, not all of very many warnings."""
        problems = list(problems)
        errors = [it for it in problems if it.severity == "error"]
        warnings = [it for it in problems if it.severity != "error"]
        most = _MOST_BESIDE_ERRORS if errors else _MOST_WARNINGS
        if self._json or len(warnings) <= most + 1:  # one line more says what one line says
            most = len(warnings)
        for problem in (*errors, *warnings[:most]):
            self._print(problem)
        if warnings[most:]:
            what = f"{len(warnings) - most} more warnings are not shown"
            self.say(what, "--error-format json shows all of them", "warning")

    def usage(self, error: UsageError) -> None:
        """Print every complaint about the command or its configuration."""
        for one in (error, *error.others):
            self.say(str(one), one.help)

    def say(
        self, what: str, advice: str = "", severity: Severity = "error", place: str = ""
    ) -> None:
        """Print something that concerns no place in a file."""
        if place or self._json:
            self._print(Problem(Position(place), what, advice, severity))
        else:
            print(escaped(f"{severity}: {what}"), file=sys.stderr)
            if advice:
                print(escaped(f"  help: {advice}"), file=sys.stderr)

    def tell(self, what: str) -> None:
        """Print what was done, or goes on."""
        if self._json:
            self._print(Problem(Position(""), what, severity="info"))
        else:
            print(what, file=sys.stderr)

    def drift(self, named: Sequence[tuple[str, Sequence[str]]], advice: str) -> None:
        """Print which files are not as they should be.

        :param named: what they are (missing, changed, stale), and the files.
        """
        for what, names in named:
            for name in names:
                if self._json:
                    rule = what.upper()
                    self._print(Problem(Position(name), what, advice, "error", rule))
                else:
                    print(f"{name}: {what}")
        if not self._json:
            count = sum(len(names) for _, names in named)
            self.say(f"{files(count)} {'is' if count == 1 else 'are'} not up to date", advice)

    def stale(self, place: str, names: Sequence[str], *, prune: str) -> None:
        """Warn of stale files in folder *place*; *prune* says how they go."""
        if self._json:
            for name in names:
                self._print(Problem(Position(name), "stale", prune, "warning", "STALE"))
        elif names:
            are = "is stale: its proto is" if len(names) == 1 else "are stale: their protos are"
            self.say(f"{files(len(names))} {are} gone", prune, "warning", place)

    def _print(self, problem: Problem) -> None:
        print(as_json(problem) if self._json else as_text(problem), file=sys.stderr)
