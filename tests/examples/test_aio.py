"""The example of a program of asyncio's, as a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds


def test_a_program_of_asyncios(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    (tmp_path / "examples").mkdir()
    shutil.copyfile(ROOT / "examples" / "aio.py", tmp_path / "examples" / "aio.py")
    protos = ROOT / "protos"
    succeeds(["-m", "txzmq.codegen", protos / "demo", "--include", protos], tmp_path)
    said = succeeds(["-X", "dev", "-m", "examples.aio"], cwd=tmp_path).splitlines()
    # In its debug mode, asyncio tells of what a busy machine makes slow.
    lines = [line for line in said if not line.startswith("Executing <")]
    # What the server says comes when it comes.
    lines.remove("  nobody waits: the handler ends")
    assert lines == [
        "calls",
        "  Hello, Ada!",
        "  Hello, Edsger!",
        "  Hello, Barbara!",
        "  refused: whom shall I greet?",
        "ending early",
        "  too late",
        "a group",
        "  Hello, Grace!",
        "  Hello, Alan!",
        "streams",
        "  echo: one",
        "  echo: two",
        "  echo: three",
    ]
