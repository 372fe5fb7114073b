"""Splits JSON values that come one after another, however they are cut into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

__all__ = ["JsonSplitter", "Splitter", "TextSplitter", "Value"]

#: What matters between two values, within an object or a list, and within a string.
_OUTSIDE: Final = re.compile(r"\S")
_INSIDE: Final = re.compile(r'["{}\[\]]')
_STRING: Final = re.compile(r'["\\]')
#: What ends a number, ``true`` and the like.
_AFTER_WORD: Final = re.compile(r'[\s"{\[]')


class Value(NamedTuple):
    """The text of one request."""

    text: str
    #: The line where it begins, from 1.
    line: int


class Splitter(Protocol):
    """Takes input as it comes, and gives requests as they are complete."""

    def feed(self, text: str) -> Iterator[Value]:
        """Take more input; what is complete now."""
        ...

    def end(self) -> Iterator[Value]:
        """There is no more input; what is left, whole or not: who parses it will tell."""
        ...


class JsonSplitter:
    """Any JSON values, with or without white space between them, over any number of lines.

    It looks at brackets and strings only: what is no JSON is given as it is, for a parser to
    refuse.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []  # of the value that is not complete
        self._depth = 0
        self._in_string = False
        self._in_word = False
        self._escaped = False  # the last piece has ended behind a backslash
        self._line = 1
        self._began = 1

    def feed(self, text: str) -> Iterator[Value]:
        """See :class:`Splitter`; every value must be taken before more is fed."""
        place = begin = 0  # up to where it is read; where the value begins or goes on
        counted = 0  # up to where lines are counted
        while place < len(text):
            if not self._parts and not self._is_within():
                found = _OUTSIDE.search(text, place)
                if found is None:
                    break
                place = begin = found.start()
                self._line += text.count("\n", counted, place)
                counted, self._began = place, self._line
            end = self._scan(text, place)
            if self._is_within():
                self._parts.append(text[begin:end])
                place = end
                break
            self._parts.append(text[begin:end])
            place = begin = end
            yield self._take()
        self._line += text.count("\n", counted)

    def end(self) -> Iterator[Value]:
        """See :class:`Splitter`."""
        if self._parts:
            yield self._take()

    def _is_within(self) -> bool:
        return bool(self._depth or self._in_string or self._in_word)

    def _take(self) -> Value:
        value = Value("".join(self._parts), self._began)
        self._parts.clear()
        self._depth, self._in_string, self._in_word, self._escaped = 0, False, False, False
        return value

    def _scan(self, text: str, place: int) -> int:
        """Read on to the end of the value or of the text; the place behind."""
        if not self._is_within() and text[place] not in '"{[':
            self._in_word = True
            place += 1
        if self._in_word:
            found = _AFTER_WORD.search(text, place)
            if found is None:
                return len(text)
            self._in_word = False
            return found.start()
        while place < len(text):
            place = self._string(text, place) if self._in_string else self._bracket(text, place)
            if not self._depth and not self._in_string:
                break
        return place

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        found = _STRING.search(text, place)
        if found is None:
            return len(text)
        if found[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
        return found.end()

    def _bracket(self, text: str, place: int) -> int:
        found = _INSIDE.search(text, place)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
        return found.end()


class TextSplitter:
    """Messages in protobuf's text format, with the character U+001E between them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._line = 1

    def feed(self, text: str) -> Iterator[Value]:
        """See :class:`Splitter`."""
        *ended, rest = text.split("\x1e")
        for part in ended:
            self._parts.append(part)
            yield self._take()
        self._parts.append(rest)

    def end(self) -> Iterator[Value]:
        """See :class:`Splitter`."""
        if any(part.strip() for part in self._parts):
            yield self._take()

    def _take(self) -> Value:
        text = "".join(self._parts)
        value = Value(text, self._line)
        self._line += text.count("\n")
        self._parts.clear()
        return value
