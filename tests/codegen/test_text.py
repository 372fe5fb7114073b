"""Docstrings and literals: Python reads back what was written, and nothing runs or hides."""

from __future__ import annotations

import ast
import inspect
import re

from hypothesis import example, given
from hypothesis import strategies as st

from txzmq_codegen.text import docstring, literal

#: Text with much of what is dangerous in a string.
TEXTS = st.text() | st.text("\"\\\n' nux{}\t\r\x00\x0c\u2028\u202e")


HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff]")


def read(source: str) -> str:
    value = ast.literal_eval(source)
    assert isinstance(value, str)
    return value


@given(TEXTS)
@example('"')
@example('""""')
@example("\\")
@example('\\"""')
@example("\\\n\\")
@example('ends with \\"')
@example("\\N{BULLET}")
def test_a_docstring_is_read_back(text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    expected = "\n".join(line.rstrip(" ") for line in lines).strip("\n")
    assert read(docstring(text)).removesuffix("\n") == expected


@given(TEXTS)
def test_a_literal_is_read_back(text: str) -> None:
    assert read(literal(text)) == text


@given(TEXTS)
def test_nothing_hidden_is_left_in_the_source(text: str) -> None:
    for source in (docstring(text), literal(text)):
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff]", source
        )
        source.encode("utf-8")


@given(TEXTS)
def test_a_docstring_of_a_method_is_that_docstring_and_nothing_else(text: str) -> None:
    indent = "        "
    source = f"class C:\n    def f(self):\n{indent}{docstring(text, indent)}\n"
    assert not re.search(" +$", source, re.MULTILINE)
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    (function,) = cls.body
    assert isinstance(function, ast.FunctionDef)
    (statement,) = function.body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)
    inspect.cleandoc(statement.value.value)
