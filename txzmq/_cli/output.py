"""What a command prints: plain where a program reads it, with colours and tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.highlighter import JSONHighlighter, RegexHighlighter
from rich.table import Table
from rich.text import Text

from txzmq._cli.problems import NobodyReads, Problem
from txzmq._escape import escaped

__all__ = ["Output", "say_problem"]

#: Characters between two columns, and those that a column of text has at least if it needs them.
_BETWEEN: Final = 3
_LEAST: Final = 24
#: Columns of a terminal, so many that nothing is cut off.
_ENDLESS: Final = 100_000

_JSON: Final = JSONHighlighter()


_KEYWORDS: Final = (
    "service rpc returns stream message enum extend oneof reserved option optional required "
    "repeated map extensions to max"
).split()


class _ProtoHighlighter(RegexHighlighter):
    """Colours for protos."""

    base_style = "json."
    highlights = (
        rf"(?P<key>\b(?:{'|'.join(_KEYWORDS)})\b)",
        r"(?P<str>\"[^\"]*\")",
        r"= (?P<number>-?\d+)\b",
    )


_PROTO: Final = _ProtoHighlighter()


class Output:
    """Standard output, and standard error for what is not the answer."""

    def __init__(self) -> None:
        self._out = Console(file=sys.stdout, soft_wrap=True, highlight=False, emoji=False)
        self._err = Console(file=sys.stderr, soft_wrap=True, highlight=False, emoji=False)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at it."""
        return self._out.is_terminal

    @property
    def console(self) -> Console:
        """Standard output, for what is drawn there."""
        return self._out

    @property
    def beside(self) -> Console:
        """Standard error, for what is drawn there."""
        return self._err

    def line(self, text: str, style: str = "") -> None:
        """Print a line as it is, at once.

        :raises NobodyReads: if what reads it has ended.
        """
        if self.is_terminal:
            self._out.print(Text(text, style), soft_wrap=True)
        else:
            _write(sys.stdout, f"{text}\n")

    def json(self, text: str) -> None:
        """Print JSON, as :meth:`line`."""
        if self.is_terminal:
            self._out.print(_JSON(Text(text)), soft_wrap=True)
        else:
            _write(sys.stdout, f"{text}\n")

    def proto(self, text: str) -> None:
        """Print a proto, as :meth:`line`."""
        if self.is_terminal:
            self._out.print(_PROTO(Text(text)), soft_wrap=True)
        else:
            _write(sys.stdout, f"{text}\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; on a terminal that is too narrow for it, a paragraph for each row.

        For a program, columns are separated by two spaces or more, and nothing is cut off.

        :param columns: their names; one that begins with ``>`` has numbers, to the right.
        """
        table = Table(box=box.SIMPLE_HEAD if self.is_terminal else None, pad_edge=False)
        for name in columns:
            justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
            # On a terminal, long text goes on in the next line.
            wraps = justify == "left" and self.is_terminal
            table.add_column(name.lstrip(">"), justify=justify, no_wrap=not wraps, overflow="fold")
        shown = [[escaped(cell) for cell in row] for row in rows]
        for row in shown:
            table.add_row(*map(Text, row))
        if not self.is_terminal:
            # Wide enough for anything; what pads the last column is taken off.
            wide = Console(width=_ENDLESS, no_color=True, highlight=False, emoji=False)
            with wide.capture() as captured:
                wide.print(table)
            lines = [line.rstrip() for line in captured.get().splitlines()]
            _write(sys.stdout, "".join(f"{line}\n" for line in lines))
        elif self._fits(columns, shown) or not shown:
            self._out.print(table)
        else:
            self._paragraphs([name.lstrip(">") for name in columns], shown)

    def _fits(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        """Whether the terminal has room for all columns, with long text over several lines."""
        room = self._out.width
        heads = [name.lstrip(">") for name in columns]
        for place, name in enumerate(columns):
            width = max(cell_len(row[place]) for row in [heads, *rows])
            room -= _BETWEEN + (width if name.startswith(">") else min(width, _LEAST))
        return room >= 0

    def _paragraphs(self, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        width = max(map(len, names))
        for number, row in enumerate(rows):
            if number:
                self._out.print()
            for name, cell in zip(names, row, strict=True):
                self._out.print(Text.assemble((name.ljust(width), "bold"), "  ", cell))

    def note(self, text: str) -> None:
        """Say something beside the answer, on standard error."""
        if self._err.is_terminal:
            self._err.print(Text(text, "dim"), soft_wrap=True)
        else:
            _write(sys.stderr, f"{text}\n")

    def error(self, head: str, text: str, more: Iterable[str] = (), hint: str = "") -> None:
        """Say what is wrong, on standard error.

        :param head: the word in front.
        :param more: further lines.
        :param hint: what to do.
        """
        lines = [*more, *([f"hint: {hint}"] if hint else [])]
        if self._err.is_terminal:
            self._err.print(Text.assemble((head, "bold red"), " ", text), soft_wrap=True)
            for line in lines:
                self._err.print(Text(line), soft_wrap=True)
        else:
            _write(sys.stderr, "".join(f"{line}\n" for line in (f"{head} {text}", *lines)))


def say_problem(problem: Problem, verb: str) -> None:
    """Say it as the programs of a shell do.

    :param verb: the command.
    """
    Output().error(f"{verb}:", problem.message, hint=problem.hint)


def _write(file: TextIO, text: str) -> None:
    """Write UTF-8, whatever the locale says: it is what JSON is in."""
    try:
        file.flush()
        file.buffer.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
    except BrokenPipeError as error:
        raise NobodyReads from error
