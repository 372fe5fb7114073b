"""Puts files into pages of the documentation; ``make docs-text`` writes them, and CI checks them.

A page has a comment that says what is to stand there, between which cog (of PyPI) writes it::

    <!--{{{ code("examples/aio.py", "main") }}}-->
    <!--end-->

So the pages read well where nothing builds them, too, and their code is that of files that run.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
#: What a fence of code is called by the end of a file's name.
_LANGUAGES: Final = {
    ".proto": "proto",
    ".py": "python",
    ".sh": "sh",
    ".tac": "python",
    ".toml": "toml",
    ".yaml": "yaml",
}
#: A link to a file, and none to the web.
_LINK: Final = re.compile(r"(\]\()(?![a-z]+:|#)([^)]+\))")


def code(
    path: str, name: str | None = None, *, first: str | None = None, before: str | None = None
) -> None:
    """Write a file of code, or a part of it.

    :param path: from the root of the checkout.
    :param name: of the function or class of Python that is to be written; ``Class.method`` for one
        of a class. None for the whole file.
    :param first: how the first line begins; None for the first of the file.
    :param before: how the line behind the last one begins; None for the end of the file.
    :raises LookupError: if there is none.
    """
    source = (ROOT / path).read_text()
    if name is not None:
        source = definition(source, name)
    lines = source.splitlines()
    begin = 0 if first is None else _index(lines, first)
    end = len(lines) if before is None else _index(lines, before)
    source = textwrap.dedent("\n".join(lines[begin:end])).strip()
    print(f"```{_LANGUAGES[Path(path).suffix]}\n{source}\n```")


def text(
    path: str, folder: str = "", *, after: str | None = None, before: str | None = None
) -> None:
    """Write a file of Markdown, or a section of it.

    :param path: from the root of the checkout.
    :param folder: what is to stand before its links.
    :param after: how the line begins behind which it does; None for the whole file.
    :param before: how the line begins before which it ends; None for the end of the file.
    :raises LookupError: if there is no such line.
    """
    lines = (ROOT / path).read_text().splitlines()
    begin = 0 if after is None else _index(lines, after) + 1
    end = len(lines) if before is None else _index(lines, before)
    section = "\n".join(lines[begin:end]).strip()
    print(_LINK.sub(lambda link: f"{link[1]}{_joined(folder, link[2])}", section))


def definition(source: str, name: str) -> str:
    """The text of a function or class of Python, with its decorators.

    :raises LookupError: if there is none.
    """
    body: list[ast.stmt] = ast.parse(source).body
    found: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None = None
    for word in name.split("."):
        found = None
        for node in body:
            if (
                isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == word
            ):
                found, body = node, node.body
                break
        if found is None:
            raise LookupError(f"{name!r} is not there")
    assert found is not None
    first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : found.end_lineno]))


def _index(lines: list[str], beginning: str) -> int:
    for index, line in enumerate(lines):
        if line.startswith(beginning):
            return index
    raise LookupError(f"no line begins with {beginning!r}")


def _joined(folder: str, link: str) -> str:
    if not folder:
        return link
    parts: list[str] = []
    for part in f"{folder}/{link}".split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
