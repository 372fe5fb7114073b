"""The measuring side's hold on the processes of one stack."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Sample
from benchmarks.stacks import Stack
from benchmarks.workload import TIMEOUT, Order

__all__ = ["START", "Child", "Running", "StackError", "python"]

#: Where ``benchmarks`` can be imported from.
_ROOT: Final = Path(__file__).parent.parent
#: Seconds for a process to start; they import much, and may share the machine.
START: Final = 30.0
#: Seconds a process has to end by itself.
_END: Final = 2.0
#: How much is shown of what a process said before it died.
_LAST_LINES: Final = 15


class StackError(Exception):
    """A stack cannot be measured; the message names it and says why."""


def python(module: str, *arguments: str) -> list[str]:
    """The command of a program that reads and writes with :class:`benchmarks.child.Line`."""
    return [sys.executable, "-m", module, *arguments]


class Child:
    """A process that is asked a line at a time, and answers each with one of JSON."""

    def __init__(self, who: str, command: Sequence[str]) -> None:
        """
        :param who: what an error calls it.
        :param command: the program and its arguments.
        """
        self._who = who
        self._received = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C is for the measuring process, which ends the others
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, question: Mapping[str, object] | str, seconds: float) -> dict[str, Any]:
        """Send a line, and wait for the answer.

        :param question: the line, or what becomes JSON.
        :raises StackError: if there is none within *seconds*.
        """
        self.send(question)
        return self.answer(seconds)

    def send(self, question: Mapping[str, object] | str) -> None:
        """Send a line.

        :raises StackError: if the process has ended.
        """
        assert self._process.stdin is not None
        line = question if isinstance(question, str) else json.dumps(question)
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise self._error("has ended") from None

    def answer(self, seconds: float) -> dict[str, Any]:
        """Wait for a line.

        :raises StackError: if there is none within *seconds*.
        """
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._received:
            left = max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise self._error(f"gave no answer for {seconds:.0f} s")
            piece = self._process.stdout.read(65536)
            if not piece:
                raise self._error("has ended")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process: it leaves when its input ends, or is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()
            self._errors.close()

    def _error(self, what: str) -> StackError:
        """*what* happened, with the last that the process said; it is killed to have said all."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return StackError("\n    ".join([f"{self._who}: {what}", *said[-_LAST_LINES:]]))


class Running:
    """The server and the client of one stack, connected; a context manager that ends both."""

    def __init__(self, stack: Stack, generated: Path) -> None:
        """
        :param generated: the folder with the stack's generated modules.
        :raises StackError: if one of the two does not start.
        """
        self.stack = stack
        with ExitStack() as ends:
            self._server = self._start("server", generated)
            ends.callback(self._server.end)
            self._client = self._start("client", generated)
            ends.callback(self._client.end)
            self._client.ask(self._server.answer(START), START)
            self._ends = ends.pop_all()

    def _start(self, role: str, generated: Path) -> Child:
        stack = self.stack
        arguments = (role, stack.module, stack.messages, str(generated))
        return Child(f"{stack.name}, {role}", python("benchmarks.child", *arguments))

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def measure(self, order: Order) -> Sample:
        """Have the client follow *order*.

        :raises StackError: if it fails, or takes much longer than it was told to.
        """
        before = self._server_cpu()
        sample = Sample(**self._client.ask(asdict(order), order.seconds + 2 * TIMEOUT))
        return replace(sample, server_cpu=self._server_cpu() - before)

    def _server_cpu(self) -> float:
        cpu: float = self._server.ask({}, TIMEOUT)["cpu"]
        return cpu
