"""What is wrong with a command, in one sentence and a hint; and the exit statuses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from txzmq.rpc.errors import Code

__all__ = [
    "BROKEN_PIPE",
    "FAILED",
    "RPC",
    "USAGE",
    "Interrupted",
    "NobodyReads",
    "Problem",
    "did_you_mean",
]

#: What was asked for is not so, such as a service that does not serve.
FAILED: Final = 1
#: The command is wrong, or what it was given.
USAGE: Final = 2
#: To which an RPC's code is added.
RPC: Final = 64
#: As of a program that SIGPIPE has ended.
BROKEN_PIPE: Final = 141


class Problem(Exception):
    """A command cannot be done.

    :ivar message: one sentence, what is wrong.
    :ivar hint: what to do; empty if there is nothing to say.
    :ivar status: the exit status.
    """

    def __init__(
        self, message: str, hint: str = "", *, status: int = USAGE, code: Code | None = None
    ) -> None:
        """:param code: of an RPC that failed, from which the status follows."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status if code is None else RPC + code


class Interrupted(Exception):
    """A signal has ended the command, such as Ctrl-C's.

    :ivar status: the exit status, 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.status = 128 + number


class NobodyReads(Exception):
    """What read the output, such as ``head``, has ended."""


def did_you_mean(word: str, known: Iterable[str], *, among: str = "") -> str:
    """A hint: the names that are like *word*; or else which there are, if they are few.

    :param among: what the names are, for the second.
    """
    by_folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_folded, n=3, cutoff=0.6)
    if found:
        return f"did you mean {' or '.join(by_folded[name] for name in found)}?"
    if among and 0 < len(by_folded) <= 12:
        return f"{among}: {', '.join(sorted(by_folded.values()))}"
    return ""
