"""Each example, as two processes that talk to each other."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.programs import ROOT, Program, running, succeeds


class Example(NamedTuple):
    """A program, its two modes, and a line that each prints when they have met."""

    program: str
    modes: tuple[str, str]
    lines: tuple[str, str]


EXAMPLES = [
    Example(
        "pub_sub.py",
        ("publisher", "subscriber"),
        (r"publishing: .+ \d\d:\d\d:\d\d \d+", r"message received: time: .+ \d\d:\d\d:\d\d \d+"),
    ),
    Example("push_pull.py", ("push", "pull"), ("producing", r"consuming: piece \d+ from .+")),
    Example(
        "req_rep.py",
        ("req", "rep"),
        (r"reply received: HELLO \d+", r"replying to: hello \d+"),
    ),
]
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.program)


@each_example
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("binds", [0, 1], ids=["first-binds", "second-binds"])
def test_two_processes_talk(example: Example, transport: str, binds: int, tmp_path: Path) -> None:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/socket"
    with ExitStack() as stack:

        def start(method: str, endpoint: str, which: int) -> Program:
            options = [f"--method={method}", f"--endpoint={endpoint}", "--interval=0.05"]
            script = ROOT / "examples" / example.program
            mode = f"--mode={example.modes[which]}"
            return stack.enter_context(running(script, *options, mode))

        programs: dict[int, Program] = {}
        programs[binds] = start("bind", endpoint, binds)
        bound = programs[binds].expect(r"bind (.+)")[1]
        programs[1 - binds] = start("connect", bound, 1 - binds)
        programs[1 - binds].expect(r"connect (.+)")
        for which, line in [*enumerate(example.lines)] * 2:
            # The second one comes from a timer: by then the reactor runs, and handles Ctrl-C.
            programs[which].expect(line)
        for program in programs.values():
            assert program.interrupt() == 0
            assert "Traceback" not in repr(program)


@each_example
def test_short_options_are_txzmqs(example: Example) -> None:
    script = ROOT / "examples" / example.program
    options = ["-m", "bind", "-e", "tcp://127.0.0.1:*", "-M", example.modes[0]]
    with running(script, *options) as program:
        program.expect(r"bind tcp://127\.0\.0\.1:\d+")


@each_example
def test_help(example: Example) -> None:
    assert "--endpoint" in succeeds([ROOT / "examples" / example.program, "--help"])
