"""The benchmark of streams runs, and prints a ratio for each load."""

from __future__ import annotations

import re

import pytest

from tests.programs import succeeds


def test_every_load_has_a_ratio() -> None:
    pytest.importorskip("grpc", reason="the benchmarks need grpcio")
    shown = succeeds(["-m", "benchmarks.streams", "--seconds", "0.05", "--rounds", "1", *LOADS])
    assert len(re.findall(r"^  ratio +[\d.]+  \(from", shown, re.MULTILINE)) == 5


LOADS = [
    argument
    for load in ("server", "client", "chat", "chats", "fan-out")
    for argument in ("--load", load)
]
