"""The progress bar: in a terminal, on long runs, and gone at the end."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.codegen.support import ROOT, write_protos
from txzmq_codegen.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_sees_how_far_a_long_run_is() -> None:
    stream, clock = Terminal(), Clock()
    with Bar(stream, clock) as bar:
        clock.now = 0.6
        bar.show("half", 0.5)
        assert stream.getvalue() == "\r\x1b[K[############............] half"
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_terminal_sees_at_once_what_a_run_begins_with() -> None:
    stream = Terminal()
    with Bar(stream, Clock()) as bar:
        bar.show("compiling", 0)
        assert stream.getvalue() == "\r\x1b[K[........................] compiling"


def test_later_steps_of_a_short_run_are_not_shown() -> None:
    stream = Terminal()
    with Bar(stream, Clock()) as bar:
        bar.show("half", 0.5)
    assert stream.getvalue() == ""


def test_a_file_sees_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    with Bar(stream, clock) as bar:
        clock.now = 60
        bar.show("half", 0.5)
    assert stream.getvalue() == ""


def test_the_command_in_a_terminal(tmp_path: Path) -> None:
    write_protos({"x.proto": 'syntax = "proto3"; message M {}'}, tmp_path / "protos")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "txzmq_codegen", "protos"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "codegen")}
    try:
        subprocess.run(command, cwd=tmp_path, env=environment, stderr=theirs, check=True)
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "[........................] compiling 1 file\r" in shown
    assert shown.endswith("\r\x1b[Kgenerated: 4 files written, 0 unchanged\r\n")
