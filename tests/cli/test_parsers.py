"""Requests and headers as users type them: every cut, every value."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import examples
from txzmq._cli.headers import parse_headers, shown
from txzmq._cli.json_stream import JsonSplitter, Splitter, TextSplitter, Value
from txzmq._cli.problems import Problem

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
SPACE = st.text("\n\t ", max_size=3)


def split(splitter: Splitter, pieces: list[str]) -> list[Value]:
    found = [value for piece in pieces for value in splitter.feed(piece)]
    return [*found, *splitter.end()]


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    ends = [*places, len(text)]
    return [text[a:b] for a, b in zip([0, *places], ends, strict=True)]


def written(value: Any, indent: int | None, ascii_only: bool) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only)


@settings(max_examples=examples(50), deadline=None)
@given(st.data())
def test_values_are_found_however_they_are_cut(data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES, max_size=5))
    indent, ascii_only = data.draw(st.sampled_from([None, 0, 2])), data.draw(st.booleans())
    texts = [written(value, indent, ascii_only) for value in values]
    # Numbers and words need a space between them; one more does no harm.
    text = "".join(f"{data.draw(SPACE)}{one} " for one in texts) + data.draw(SPACE)
    found = split(JsonSplitter(), data.draw(cut(text)))
    assert [one.text for one in found] == texts
    place = 0
    for one in found:
        place = text.index(one.text, place)
        assert one.line == 1 + text.count("\n", 0, place)
        place += len(one.text)


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_objects_need_nothing_between_them(data: st.DataObject) -> None:
    some = st.dictionaries(st.text(), VALUES, max_size=2) | st.lists(VALUES, max_size=2) | st.text()
    texts = [written(value, None, False) for value in data.draw(st.lists(some, max_size=5))]
    found = split(JsonSplitter(), data.draw(cut("".join(texts))))
    assert [one.text for one in found] == texts


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_of_no_json_nothing_is_lost(data: st.DataObject) -> None:
    text = data.draw(st.text('{}[]"\\,: \n1tä', max_size=30))
    pieces = data.draw(cut(text))
    found = split(JsonSplitter(), pieces)
    assert found == split(JsonSplitter(), [text])
    kept = "".join(one.text for one in found)
    assert [*filter(str.strip, kept)] == [*filter(str.strip, text)]


def test_a_value_is_given_as_soon_as_it_is_complete() -> None:
    splitter = JsonSplitter()
    assert [*splitter.feed('{"a": "}')] == []
    assert [*splitter.feed('\\"')] == []
    assert [*splitter.feed('"}{')] == [Value('{"a": "}\\""}', 1)]
    assert [*splitter.end()] == [Value("{", 1)]
    assert [*splitter.feed("1 2")] == [Value("1", 1)]
    assert [*splitter.end()] == [Value("2", 1)]
    assert [*splitter.end()] == []


def test_text_is_split_at_its_separator() -> None:
    found = split(TextSplitter(), ["a: 1\nb", ": 2\x1e", "\x1e\nc: 3"])
    assert found == [Value("a: 1\nb: 2", 1), Value("", 2), Value("\nc: 3", 2)]
    assert split(TextSplitter(), ["a: 1\x1e\n"]) == [Value("a: 1", 1)]


# -- headers ----------------------------------------------------------------------------------

KEYS = st.text("0123456789abcdefghijklmnopqrstuvwxyz_.-", min_size=1).filter(
    lambda key: not key.endswith("-bin") and not key.startswith("txzmq-")
)
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.strip)
PAIRS = st.tuples(KEYS, TEXTS) | st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary())


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(PAIRS, max_size=4))
def test_headers_are_read_as_they_are_shown(pairs: list[tuple[str, str | bytes]]) -> None:
    assert parse_headers(map(shown, pairs)) == tuple(pairs)
    upper = [
        f" {name.upper()} :{text}" for name, _, text in (shown(p).partition(":") for p in pairs)
    ]
    assert parse_headers(upper) == tuple(pairs)


@settings(max_examples=examples(100), deadline=None)
@given(st.binary())
def test_base64_needs_no_padding_and_may_be_of_either_alphabet(data: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        assert parse_headers([f"a-bin: {text}"]) == (("a-bin", data),)
        assert parse_headers([f"a-bin: {text.rstrip('=')}"]) == (("a-bin", data),)


@settings(max_examples=examples(200), deadline=None)
@given(st.text())
def test_any_text_is_a_header_or_a_problem(text: str) -> None:
    name = text.partition(":")[0].strip().lower()
    problem: Problem | None = None
    try:
        assert [key for key, _ in parse_headers([text])] == [name]
    except Problem as error:
        problem = error
    assert problem is None or (problem.message.isprintable() and problem.hint)
