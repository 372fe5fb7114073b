"""The example of all styles, as a process: each says what it is there to show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds

SHOWN = """\
callbacks
  refused: INVALID_ARGUMENT: whom shall I greet?
inlineCallbacks
  Hello, Ada!
coroutines
  Hello, Grace!
asyncio
  Hello, Edsger!
  Hello, Barbara!
  too late
threads
  nobody waits: the handler ends
  Hello, Alan!
  too late: the call's time was up; it may have been executed
  nobody waits: the handler ends"""


def test_every_style(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    (tmp_path / "examples").mkdir()
    shutil.copyfile(ROOT / "examples" / "styles.py", tmp_path / "examples" / "styles.py")
    protos = ROOT / "protos"
    succeeds(["-m", "txzmq.codegen", protos / "demo", "--include", protos], tmp_path)
    shown = succeeds(["-X", "dev", "-m", "examples.styles"], cwd=tmp_path)
    # What the server says comes when it comes, perhaps while a thread is writing.
    ends = "  nobody waits: the handler ends"
    assert shown.count(ends) == SHOWN.count(ends) == 2
    lines = [
        [line for line in text.replace(ends, "").splitlines() if line] for text in (shown, SHOWN)
    ]
    assert lines[0] == lines[1]
