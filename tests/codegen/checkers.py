"""Runs mypy and pyright, and reads what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.codegen.support import ROOT

__all__ = ["Complaint", "mypy", "pyright"]

_MYPY_LINE: Final = re.compile(r"(?P<file>.+?):(?P<line>\d+): error: (?P<what>.+)")


class Complaint(NamedTuple):
    file: str
    line: int
    #: The first line of the message, and its code.
    what: str


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def mypy(folder: Path) -> list[Complaint]:
    """What ``mypy --strict`` says of everything in *folder*."""
    _need("mypy")
    options = ["--strict", "--enable-error-code=deprecated", "--no-pretty", "--no-error-summary"]
    cache = f"--cache-dir={folder.parent / 'mypy-cache'}"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, cache, "."],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    found: list[Complaint] = []
    for line in done.stdout.splitlines():
        match = _MYPY_LINE.fullmatch(line)
        if match is not None:
            found.append(Complaint(match["file"], int(match["line"]), match["what"]))
        else:
            assert ": note: " in line, line
    return found


def pyright(folder: Path) -> list[Complaint]:
    """What pyright in its strict mode says of everything in *folder*."""
    _need("pyright")
    settings = {"typeCheckingMode": "strict", "include": ["."], "extraPaths": [".", str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    found: list[Complaint] = []
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        file = Path(item["file"]).resolve().relative_to(folder.resolve()).as_posix()
        what = f"{item['message'].splitlines()[0]} ({item.get('rule', 'syntax')})"
        found.append(Complaint(file, item["range"]["start"]["line"] + 1, what))
    return found
