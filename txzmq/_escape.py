"""Text of peers, shown: nothing of it can move a cursor, colour a terminal or begin a log line."""

from __future__ import annotations

__all__ = ["escaped", "text_of"]


def escaped(text: str) -> str:
    r"""A text with every character escaped that does not print: a newline becomes ``\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def text_of(error: BaseException) -> str:
    """The type and the text of an exception, whatever it is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot even say what it is
        return type(error).__name__


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
