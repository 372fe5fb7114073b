"""tools/tutorial_types.py tells what the checkers find in a step of the tutorial."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
pytest.importorskip("mypy", reason="the type checkers are not installed")

from tools.tutorial_types import check


def test_what_each_checker_finds_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = tmp_path / "tutorial" / "step1"
    (step / "protos").mkdir(parents=True)
    (step / "protos" / "a.proto").write_text('syntax = "proto3"; package a; message A {}')
    (step / "pyproject.toml").write_text(
        '[tool.txzmq.codegen]\nprotos = ["protos"]\n\n[tool.mypy]\nfiles = ["*.py"]\n'
    )
    (step / "server.py").write_text('number: int = "one"\n')
    assert check(tmp_path / "tutorial", tmp_path / "copy") == 1
    printed = capsys.readouterr().out
    assert "server.py:1: error: Incompatible types in assignment" in printed  # mypy's
    assert "server.py:1:15 - error: Type" in printed  # pyright's
