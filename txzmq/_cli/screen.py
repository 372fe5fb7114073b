"""A terminal that a command has for itself: what it shows is drawn over, and keys come at once."""

from __future__ import annotations

import os
import signal
import termios
import textwrap
import tty
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.control import Control
from rich.text import Text

from txzmq._cli.runtime import Runtime

__all__ = ["Screen"]

_STDIN: Final = 0
#: Columns and lines that are used at least; a terminal may say that it has none.
_LEAST_WIDTH: Final = 1
_LEAST_HEIGHT: Final = 3


class Screen:
    """Shows lines in place of those before; a context manager, which leaves all as it was.

    It has to be left in the main thread, whatever has happened: it is not enough that the command's
    coroutine ends, since a second Ctrl-C ends the program without that.

    :ivar has_keys: whether keys are read: not where standard input is something else, or another
        program's in the foreground.
    """

    def __init__(self, console: Console) -> None:
        """:param console: a terminal's."""
        self._console = console
        # Any: what termios calls a terminal's attributes.
        self._before: Any = None
        self._is_shown = False
        self.has_keys = _is_ours()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def show(self) -> None:
        """Take the terminal."""
        if self.has_keys:
            self._before = termios.tcgetattr(_STDIN)
            tty.setcbreak(_STDIN)
            attributes = termios.tcgetattr(_STDIN)
            # Ctrl-\\ would end the program and leave the terminal so.
            attributes[6][termios.VQUIT] = os.fpathconf(_STDIN, "PC_VDISABLE").to_bytes()
            termios.tcsetattr(_STDIN, termios.TCSANOW, attributes)
        self._is_shown = True
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _leave(self) -> None:
        if not self._is_shown:
            return
        self._is_shown = False
        try:
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        finally:
            if self._before is not None:
                termios.tcsetattr(_STDIN, termios.TCSANOW, self._before)
                self._before = None

    def watch(self, runtime: Runtime, redraw: Callable[[], object]) -> None:
        """Have *redraw* called when the terminal has another size, and after Ctrl-Z and fg."""

        def stop() -> None:
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self.has_keys = _is_ours()
            self.show()
            redraw()

        runtime.when_signalled(signal.SIGWINCH, redraw)
        runtime.when_signalled(signal.SIGTSTP, stop)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        size = self._console.size
        return max(_LEAST_WIDTH, size.width), max(_LEAST_HEIGHT, size.height)

    def draw(self, heads: Sequence[str], table: Sequence[str], foot: str) -> None:
        """Show lines.

        :param heads: are wrapped where they are too long.
        :param table: its head, and lines that fit; as many as there is room for.
        :param foot: the last line.
        """
        width, height = self.size
        above = [part for line in heads for part in textwrap.wrap(line, width) or [""]]
        lines = [Text(line) for line in [*above, ""]]
        room = height - len(lines) - 1
        if len(table) > room > 1:
            more = len(table) - room + 1
            table = [*table[: room - 1], f"and {more} more, for which there is no room"]
        lines += [Text(line, "" if place else "bold reverse") for place, line in enumerate(table)]
        lines += [Text("")] * (height - 1 - len(lines))
        lines = [*lines[: height - 1], Text(foot, "dim")]
        with self._console:
            self._console.control(Control.home())
            for place, line in enumerate(lines):
                line.truncate(width)
                line.pad_right(width - line.cell_len)
                last = place == len(lines) - 1
                self._console.print(line, end="" if last else "\n", soft_wrap=True)


def _is_ours() -> bool:
    """Whether keys come to this program."""
    try:
        return os.isatty(_STDIN) and os.tcgetpgrp(_STDIN) == os.getpgrp()
    except OSError:
        return False
