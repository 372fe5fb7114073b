"""The texts of the runtime that users can meet, read out of its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from string import Formatter
from typing import Final, NamedTuple

from tests.programs import ROOT

#: So many words in a row make a text.
_WORDS = 3


class Text(NamedTuple):
    """A piece of a message between what is filled in, and where it stands."""

    where: str
    words: str

    def __str__(self) -> str:
        return f"{self.where}: {self.words}"


def texts(words: int = _WORDS) -> list[Text]:
    """Every text in the code of ``txzmq`` but docstrings, words of assertions and help.

    :param words: so many in a row make a text.
    """
    return [
        text
        for path in sorted((ROOT / "txzmq").rglob("*.py"))
        # Facades list names; what is generated has its messages from the generator.
        if not path.stem.endswith(("_pb2", "_txzmq", "__init__"))
        and "testing" not in path.parts
        # What the command line says has its hint beside it.
        and "_cli" not in path.parts
        and path.stem != "__main__"
        for text in _texts(path.relative_to(ROOT).as_posix(), ast.parse(path.read_bytes()), words)
    ]


def _texts(module: str, tree: ast.Module, words: int) -> Iterator[Text]:
    """In one module."""
    passed_over = set(_passed_over(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if node in passed_over or node.value == ast.get_docstring(tree, clean=False):
            continue
        for piece in _pieces(node.value):
            if len(piece.split()) >= words and "\n" not in piece and " | " not in piece:
                yield Text(f"{module}:{node.lineno}", piece)


#: What Twisted's classes of options print of themselves.
_OF_USAGE: Final = {"synopsis", "longdesc", "optFlags", "optParameters"}
#: What makes metrics.
_OF_METRICS: Final = {
    *("Family", "Instrument", "_gauge"),
    *("CounterMetricFamily", "GaugeMetricFamily"),
}


def _passed_over(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, what an assertion says of a bug, what ``--help`` prints, meanings of metrics."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif (isinstance(node, ast.keyword) and node.arg in ("help", "description")) or (
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _OF_USAGE
        ):
            yield from ast.walk(node.value)
        elif isinstance(node, ast.Assert) and node.msg is not None:
            yield from ast.walk(node.msg)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _OF_METRICS:
            yield from ast.walk(node)  # the page on metrics lists them


def _pieces(text: str) -> Iterator[str]:
    """A text, or what is between the fields of a log's format."""
    try:
        pieces = [literal for literal, *_ in Formatter().parse(text)]
    except ValueError:  # it is no format
        pieces = [text]
    yield from (piece.strip(" :;,.()'\"[") for piece in pieces)
