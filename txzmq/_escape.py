"""Text of peers, shown: nothing of it can move a cursor, colour a terminal or begin a log line."""

from __future__ import annotations

from typing import cast

from twisted.python.failure import Failure

__all__ = ["escaped", "escaped_failure"]


def escaped(text: str) -> str:
    r"""A text with every character escaped that does not print: a newline becomes ``\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def escaped_failure(failure: Failure) -> Failure:
    """A failure whose traceback shows the text of its exception escaped; else the same.

    Handlers raise exceptions with what they were sent: ``ValueError(f"no user {request.name}")``.
    """
    value = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is
        return failure
    if text.isprintable():
        return failure
    shown = _EscapedFailure.__new__(_EscapedFailure)
    shown.__dict__.update(failure.__dict__)
    return shown


class _EscapedFailure(Failure):
    """A failure as it is shown in a log."""

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        traceback = super().getTraceback(elideFrameworkCode, detail)
        text = str(self.value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # Twisted's
        lines = traceback.replace(text, escaped(text)).split("\n")
        return "\n".join(map(escaped, lines))
