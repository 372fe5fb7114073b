"""Text of peers, shown: nothing of it can move a cursor, colour a terminal or begin a log line."""

from __future__ import annotations

__all__ = ["escaped"]


def escaped(text: str) -> str:
    r"""A text with every character escaped that does not print: a newline becomes ``\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
