"""Python text: string literals and docstrings."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["docstring", "escaped", "literal"]

#: Characters that must not stand in a source file unescaped: control characters, and characters
#: that are invisible or turn the direction of writing, with which code can be made to look like
#: other code. Spelt out, because Python's own tables change from version to version.
_HIDDEN: Final = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\uffff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: The ASCII characters that are not hidden.
_PLAIN: Final = bytes((10, *range(32, 127)))


def _escape_hidden(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return "\\t" if code == 9 else f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped(code: str) -> str:
    """*code* with escapes for hidden characters, which must stand in strings only.

    Line feeds stay.
    """
    if code.isascii() and not code.encode().translate(None, _PLAIN):
        return code  # many times quicker, and so are nearly all modules
    return _HIDDEN.sub(_escape_hidden, code)


def docstring(text: str, indent: str = "") -> str:
    """*text* as the source of a docstring, whatever is in it; Python reads the same text back.

    Line ends become line feeds, and spaces before them go.

    :param indent: what stands before its first line, and goes before the others.
    """
    text = text.replace("\r\n", "\n").replace("\\", "\\\\")
    text = _HIDDEN.sub(_escape_hidden, text)
    text = "\n".join([line.rstrip(" ") for line in text.split("\n")]).strip("\n")
    if text.endswith('"'):
        text = f'{text[:-1]}\\"'
    text = text.replace('"""', '\\"\\"\\"')
    if "\n" not in text:
        return f'"""{text}"""'
    lines = [indent + line if line else "" for line in f'{text}\n"""'.split("\n")]
    return '"""' + "\n".join(lines).removeprefix(indent)


def literal(text: str) -> str:
    """*text* as the source of a string in double quotes."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{_HIDDEN.sub(_escape_hidden, text)}"'
