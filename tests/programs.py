"""Programs under test: processes of their own, whose output is waited for, never slept for."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]

#: Seconds until a test gives up waiting; far more than anything here takes, on PyPy too.
PATIENCE = 60.0 if sys.implementation.name == "cpython" else 180.0


class Program:
    """A running program, and the lines that it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[process.stdout])
        self._reader.start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line that *pattern* matches in full."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=deadline - time.monotonic())
            except (queue.Empty, ValueError):
                raise AssertionError(f"no line {pattern!r} in {PATIENCE} s, but {self!r}") from None
            if line is None:
                raise AssertionError(f"ended without a line {pattern!r}: {self!r}")
            self.output.append(line)
            if match := re.fullmatch(pattern, line):
                return match

    def say(self, line: str) -> None:
        """Write a line to its standard input, which it needs to have."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def has_said(self, line: str) -> bool:
        """Whether it has printed *line* by now; does not wait."""
        while not self._lines.empty():
            if (new := self._lines.get()) is None:
                self._lines.put(None)
                break
            self.output.append(new)
        return line in self.output

    def wait(self) -> int:
        """Wait for the program to end by itself; its exit status."""
        status = self.process.wait(PATIENCE)
        self._drain()
        return status

    def kill(self) -> None:
        """``kill -9``; returns when the process is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def hang_up(self) -> None:
        """Send SIGHUP, at which many a server reads its files again."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """SIGSTOP; when this returns, the process does nothing any more, and its kernel goes on."""
        self.process.send_signal(signal.SIGSTOP)
        # Until the thread that the signal went to has its turn, the others run on.
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        """SIGCONT, after :meth:`stop`."""
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM, as a supervisor sends it, and wait; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def interrupt(self) -> int:
        """Press Ctrl-C and wait; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def close(self) -> None:
        """End the program, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._drain()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what it had not read
                self.process.stdin.close()

    def _drain(self) -> None:
        self._reader.join(PATIENCE)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.output.append(line)

    def __repr__(self) -> str:
        # A line may be a large message.
        return "\n".join(["<Program", *(line[:2_000] for line in self.output), ">"])


@contextlib.contextmanager
def running(*arguments: str | Path, cwd: Path = ROOT) -> Generator[Program]:
    """Run Python with these arguments; standard error goes where standard output goes."""
    with started(sys.executable, "-u", *arguments, cwd=cwd) as program:
        yield program


@contextlib.contextmanager
def started(
    *command: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
    stdin: bool = False,
) -> Generator[Program]:
    """Run any program; standard error goes where standard output goes.

    :param env: variables that it has besides, or in place of ours.
    :param fds: descriptors that it has, too, by the same numbers.
    :param stdin: whether it has a standard input, see :meth:`Program.say`.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A warning in a program is an error, as it is in a test.
        env={**os.environ, "PYTHONWARNINGS": "error", **(env or {})},
        pass_fds=fds,
    )
    program = Program(process)
    try:
        yield program
    finally:
        program.close()


def succeeds(arguments: Sequence[str | Path], cwd: Path = ROOT) -> str:
    """Run Python with these arguments to its end; what it printed.

    :raises AssertionError: if its exit status is not 0.
    """
    with running(*arguments, cwd=cwd) as program:
        status = program.wait()
        assert status == 0, f"exit status {status}: {program!r}"
        return "\n".join(program.output)
