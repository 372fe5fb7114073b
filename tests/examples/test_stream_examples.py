"""The examples of streams, as processes: each says what it is there to show."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and the code generated for them."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("streams")
    shutil.copytree(ROOT / "examples" / "streams", folder / "examples" / "streams")
    succeeds(
        ["-m", "txzmq.codegen", ROOT / "protos" / "demo", "--include", ROOT / "protos"], folder
    )
    return folder


def test_a_log_is_followed(folder: Path) -> None:
    assert succeeds(["-m", "examples.streams.log_tail"], folder).splitlines() == [
        "1: started",
        "2: one request",
        "3: another request",
        "4: the end",
    ]


def test_a_market_has_many_watchers(folder: Path) -> None:
    lines = succeeds(["-m", "examples.streams.market"], folder).splitlines()
    assert lines[0] == "the handler runs for ACME"
    assert lines[-1] == "nobody watches ACME any more"
    assert sorted(lines[1:-1]) == sorted(
        [f"{name}: ACME at {cents}" for name in ("Ann", "Bob") for cents in (101, 102, 103)]
        + ["Cyd, who comes late: ACME at 102"]
    )


def test_a_file_is_sent(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = bytes(range(256)) * 20_000
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert succeeds(["-m", "examples.streams.upload", file], folder).splitlines() == [
        f"file: {len(content)} bytes, {digest}"
    ]


def test_guests_hear_each_other(folder: Path) -> None:
    lines = succeeds(["-m", "examples.streams.chat"], folder).splitlines()
    assert sorted(lines[:4]) == [
        "Ann hears Ann: hello",
        "Ann hears Bob: hello yourself",
        "Bob hears Ann: hello",
        "Bob hears Bob: hello yourself",
    ]
    assert lines[4:] == ["Ann has left", "Bob has left"]
