"""A terminal of a given width: what a program prints there, and keys that are pressed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Generator
from typing import Any

from tests.programs import PATIENCE, ROOT

CTRL_C = b"\x03"
CTRL_BACKSLASH = b"\x1c"


class Terminal:
    """A program in a terminal, and all that it has printed there."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.printed = b""

    @property
    def text(self) -> str:
        """Without what colours it."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.printed.decode()).replace("\r\n", "\n")

    def expect(self, pattern: str) -> None:
        """Wait until it has printed something."""
        while not re.search(pattern, self.text):
            assert self._read(), f"ended without {pattern!r}: {self.text!r}"

    @property
    def mode(self) -> list[Any]:
        """How the terminal takes what is typed."""
        return termios.tcgetattr(self._master)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        """Read to the end; the exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._master], [], [], PATIENCE)
        assert ready, f"nothing more than {self.text!r} in {PATIENCE} s"
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # nobody has the other end any more
            data = b""
        self.printed += data
        return data


@contextlib.contextmanager
def in_terminal(*arguments: str, width: int = 80, **env: str) -> Generator[Terminal]:
    """Run ``python -m txzmq`` in a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TXZMQ_")}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        clean.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "txzmq", *arguments],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # Ctrl-C reaches those whose terminal it is.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**clean, "TERM": "xterm-256color", "PYTHONWARNINGS": "error", **env},
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
        os.close(master)
