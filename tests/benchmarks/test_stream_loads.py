"""The benchmark of streams runs, and prints a ratio for each load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.streams.audience import AUDIENCES, Costs, as_table, pause_of, redraw, write
from tests.programs import succeeds

COSTS = [Costs(1, [100.0, 50.0], [200.0, 150.0]), Costs(1_000, [9_000.0, 900.0], [90_000.0, 9e4])]


def test_every_load_has_a_ratio() -> None:
    pytest.importorskip("grpc", reason="the benchmarks need grpcio")
    shown = succeeds(["-m", "benchmarks.streams", "--seconds", "0.05", "--rounds", "1", *LOADS])
    ratios = re.findall(r"^  (\w+) : grpc_aio  [\d.]+ x  \(from", shown, re.MULTILINE)
    assert ratios == ["txzmq_"] * 3 + ["bare_pyzmq"] + ["txzmq_"] * 2


LOADS = [
    argument
    for load in ("server", "client", "chat", "chats", "fan-out")
    for argument in ("--load", load)
]


def test_the_audiences_reach_as_far_as_they_should() -> None:
    assert (AUDIENCES[0], AUDIENCES[-1]) == (1, 1_000)
    assert [pause_of(1, 1), pause_of(1, 10), pause_of(1_000, 1)] == [2, 20, 100]


def test_a_table_compares_events_alone_and_together() -> None:
    rows = [line.split(" | ") for line in as_table(COSTS).splitlines()]
    assert rows[2] == ["| 1", "100", "200", "2.0", "50", "150", "3.0 |"]
    assert rows[3] == ["| 1,000", "9,000", "90,000", "10.0", "900", "90,000", "100.0 |"]


def test_the_same_figures_give_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for folder in (tmp_path / "first", tmp_path / "second"):
        write(folder, "Where.", COSTS)
    redraw(tmp_path / "second")
    files = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    ]
    assert files[0] == files[1]
    assert set(files[0]) == {"streams.md", "streams.json", "streams-audience.svg"}
    assert b"events one by one" in files[0]["streams-audience.svg"]


def test_an_audience_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="the benchmarks need grpcio")
    pytest.importorskip("matplotlib")
    brief = ["--seconds", "0.05", "--rounds", "1", "--most", "3"]
    succeeds(["-m", "benchmarks.streams", "--many", *brief, "--write", "--docs", str(tmp_path)])
    page = (tmp_path / "streams.md").read_text(encoding="utf-8")
    assert re.search(r"^\| 3 \| [\d,]+ \| [\d,]+ \| [\d.]+ \|", page, re.MULTILINE)


def test_many_streams_that_are_opened_at_once_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="the benchmarks need grpcio")
    brief = ["--rounds", "1", "--streams", "30"]
    succeeds(["-m", "benchmarks.streams", "--openings", *brief, "--write", "--docs", str(tmp_path)])
    page = (tmp_path / "openings.md").read_text(encoding="utf-8")
    assert "30 streams opened at once" in page
    rows = re.findall(r"^\| (\w.*?) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", page, re.MULTILINE)
    assert rows == ["txzmq", "txzmq, SNDHWM 10", "grpc.aio"]
