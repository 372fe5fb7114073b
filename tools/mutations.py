"""The small changes that a piece of source may get, and what was judged of some of them."""

from __future__ import annotations

import ast
import gc
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

_OTHER: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Place(NamedTuple):
    """Where a change is, whatever stands above it in its module."""

    module: str
    function: str
    line: str
    change: str


class Mutation(NamedTuple):
    """One change of a source.

    :ivar line: where it is.
    :ivar statement: the first line of the statement that it is in.
    :ivar start: the first byte that is replaced; *end* is behind the last.
    :ivar after: what stands there then, as a reader sees it.
    :ivar compiled: the same as it is compiled: what is left out still says which names are whose.
    :ivar function: the qualified name of the function, empty outside of all.
    :ivar text: the line, without the spaces around it.
    """

    line: int
    statement: int
    start: int
    end: int
    before: str
    after: str
    compiled: str
    function: str
    text: str

    def apply(self, source: bytes, *, to_compile: bool = False) -> bytes:
        """The source with the change."""
        after = self.compiled if to_compile else self.after
        return source[: self.start] + after.encode() + source[self.end :]

    def at(self, module: str) -> Place:
        """Its place in a module."""
        change = f"{' '.join(self.before.split())} -> {self.after}"
        return Place(module, self.function, self.text, change)


class _Found(NamedTuple):
    node: ast.expr | ast.stmt
    statement: int
    function: str


def mutations(source: bytes) -> list[Mutation]:
    """All changes that a source may get, in its order."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: list[Mutation] = []
    for node, statement, function in _nodes(ast.parse(source), 1, ()):
        assert node.end_lineno is not None, "the parser says so"
        assert node.end_col_offset is not None, "the parser says so"
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = source[start:end].decode()
        text = lines[node.lineno - 1].decode().strip()
        for after in _changed(node):
            compiled = _compiled(after, before)
            place = (node.lineno, statement, start, end, before)
            found.append(Mutation(*place, after, compiled, function, text))
    return sorted(found)


def _nodes(parent: ast.AST, statement: int, names: tuple[str, ...]) -> Iterator[_Found]:
    """All statements and expressions that are run, each with its statement and function."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        children: list[object] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]  # of a node
        for child in children:
            # The parser of Python 3.11 does not say where a part of an f-string is.
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            line = child.lineno if isinstance(child, ast.stmt) else statement
            inside = (*names, child.name) if isinstance(child, _BLOCKS) else names
            if isinstance(child, (ast.expr, ast.stmt)):
                yield _Found(child, line, ".".join(names))
            yield from _nodes(child, line, inside)


def _changed(node: ast.expr | ast.stmt) -> Iterator[str]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(left, [op, *ops], comparators):
            yield _text(ast.Compare(left, [_OTHER[type(op)](), *ops], comparators))
        case ast.BoolOp(op, values):
            yield _text(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))
        case ast.UnaryOp(ast.Not(), operand):
            yield _text(operand)
        case ast.BinOp(left, ast.Add(), right):
            yield _text(ast.BinOp(left, ast.Sub(), right))
        case ast.BinOp(left, ast.Sub(), right):
            yield _text(ast.BinOp(left, ast.Add(), right))
        case ast.Constant(int(value)) if not isinstance(value, bool):
            yield f"({value + 1})"
            yield f"({value - 1})"
        case ast.Return(ast.Constant(bool(value))):
            yield f"return {not value}"
        case ast.Return(ast.expr() as value) if not _is_none(value):
            yield "return None"
        case ast.Expr(ast.Call()) | ast.Assign() | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield "pass"
        case _:
            pass


def _compiled(after: str, before: str) -> str:
    """As *after*; a name that nothing is assigned to any more stays a local variable."""
    if after == "pass":
        return f"if 0: {before}"
    if after == "return None":
        return f"return None if 1 else ({before.removeprefix('return')})"
    return after


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(node)})"


#: A function as it was compiled: its file, qualified name and first line.
_Key = tuple[str, str, int]
Functions = Mapping[_Key, list[FunctionType]]


def functions_of(folder: Path) -> Functions:
    """All functions there are now of the modules in a folder."""
    found: dict[_Key, list[FunctionType]] = {}
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(f"{folder}/"):
            found.setdefault(_key(each.__code__), []).append(each)
    return found


def _key(code: CodeType) -> _Key:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def put_into(functions: Functions, path: Path, mutation: Mutation) -> None:
    """Change functions of a module, wherever they are referred to; not what was run already."""
    source = path.read_bytes()
    old = _codes(compile(source, str(path), "exec", dont_inherit=True))
    changed = mutation.apply(source, to_compile=True)
    new = _codes(compile(changed, str(path), "exec", dont_inherit=True))
    for name, code in old.items():
        for function in functions.get(_key(code), ()):
            function.__code__ = new[name]


def _codes(module: CodeType) -> dict[tuple[str, int], CodeType]:
    """The code of each function, by its name, and which it is of those with that name."""
    found: dict[tuple[str, int], CodeType] = {}
    counts: Counter[str] = Counter()
    waiting = [module]
    while waiting:
        code = waiting.pop()
        found[code.co_qualname, counts[code.co_qualname]] = code
        counts[code.co_qualname] += 1
        waiting.extend(each for each in reversed(code.co_consts) if isinstance(each, CodeType))
    return found


class Judged(NamedTuple):
    """What was judged of a change that no test notices.

    :ivar verdict: ``equivalent``: nobody can tell; ``performance``: it is only slower or larger.
    """

    verdict: str
    reason: str


VERDICTS = ("equivalent", "performance")


def read_judged(path: Path) -> dict[Place, Judged]:
    """Read the file of what was judged."""
    judged: dict[Place, Judged] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["judged"]:
        place = Place(*(entry.pop(field) for field in Place._fields))
        judged[place] = Judged(**entry)
    return judged
